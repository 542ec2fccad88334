//! Random requests, results, crashes and restarts in any order.

use super::*;
use crate::launcher::health::ProbeError;
use proptest::prelude::*;

/// A world that carries orders out in any order and with any result.
#[derive(Debug, Clone)]
enum Step {
    Want(u64, u8),
    Drop(u64),
    Finish(u8, bool),
    Crash(u64),
    Wait(u16),
    Cm,
    Cloud(bool),
    /// This program is killed and starts again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..3, 0u8..3).prop_map(|(instance, version)| Step::Want(instance, version)),
        (0u64..3).prop_map(Step::Drop),
        (any::<u8>(), any::<bool>()).prop_map(|(which, ok)| Step::Finish(which, ok)),
        (0u64..3).prop_map(Step::Crash),
        (0u16..3000).prop_map(Step::Wait),
        Just(Step::Cm),
        any::<bool>().prop_map(Step::Cloud),
        Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

#[derive(Default)]
struct World {
    open: Vec<Action>,
    running: BTreeMap<InstanceIdent, (InstanceInfo, i32)>,
    wanted: BTreeMap<InstanceIdent, InstanceInfo>,
    asked: BTreeSet<i32>,
    facts: Facts,
    pids: i32,
}

impl World {
    fn take(&mut self, actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            let ident = match &action {
                Action::Prepare(info) | Action::Stop { info, .. } => info.ident.clone(),
                Action::Start(info) => {
                    prop_assert!(!self.running.contains_key(&info.ident), "started while one runs");
                    info.ident.clone()
                }
                Action::Probe { pid, .. } => {
                    prop_assert!(self.asked.insert(*pid), "two questions at a time");
                    self.open.push(action);
                    continue;
                }
                _ => continue,
            };
            let same = self.open.iter().any(|other| match other {
                Action::Prepare(info) | Action::Start(info) | Action::Stop { info, .. } => {
                    info.ident == ident
                }
                _ => false,
            });
            prop_assert!(!same, "two orders for one instance at a time");
            self.open.push(action);
        }
        Ok(())
    }

    /// What a start finds: orders are forgotten, processes go on, wishes are stored, and what runs without
    /// being wished for is removed by the runtime.
    fn restart(&mut self) -> Vec<Found> {
        self.open.clear();
        self.asked.clear();
        let wanted = &self.wanted;
        self.running.retain(|ident, _| wanted.contains_key(ident));
        let found = self.wanted.values().map(|info| {
            let running = self.running.get(&info.ident).cloned();
            let facts = running.as_ref().map(|_| self.facts.clone());
            Found { info: info.clone(), running, ready: false, missed: None, facts }
        });
        found.collect()
    }

    fn finish(&mut self, which: usize, ok: bool) -> Option<Event> {
        if self.open.is_empty() {
            return None;
        }
        let action = self.open.remove(which % self.open.len());
        Some(match action {
            Action::Prepare(info) => Event::Prepared(
                info,
                if ok { Ok(self.facts.clone()) } else { Err(failure("p", which.is_multiple_of(3))) },
            ),
            Action::Start(info) if ok => {
                self.pids += 1;
                self.running.insert(info.ident.clone(), (*info.clone(), self.pids));
                Event::Started(info, Ok(self.pids))
            }
            Action::Start(info) => {
                let kind = match which % 3 {
                    0 => FailureKind::Passing,
                    1 => FailureKind::Conflict,
                    _ => FailureKind::Lasting,
                };
                Event::Started(info, Err(Failure { kind, ..failure("s", false) }))
            }
            // A stop that fails may have ended the process or not.
            Action::Stop { info, .. } if !ok => {
                if which.is_multiple_of(2) {
                    self.running.remove(&info.ident);
                }
                Event::Stopped(info.ident, Err(failure("t", false)))
            }
            Action::Stop { info, runtimes, .. } => {
                if self.running.contains_key(&info.ident) {
                    assert!(runtimes.contains(&info.runtime), "stopped where it does not run");
                }
                self.running.remove(&info.ident);
                Event::Stopped(info.ident, Ok(()))
            }
            Action::Probe { info, pid, question, .. } => {
                self.asked.remove(&pid);
                let result = if ok { Ok(()) } else { Err(ProbeError::Broken) };
                Event::Probed { ident: info.ident, pid, question, result }
            }
            _ => return None,
        })
    }
}

proptest! {
    // Whatever happens in whatever order: one order at a time for each instance, never two containers of one,
    // and once the world is quiet and works, exactly what is wanted runs.
    #[test]
    fn the_wish_is_reached_in_the_end(steps in steps(), probed in any::<bool>(), ttl in any::<bool>()) {
        let mut now = Instant::now();
        let mut core = Core::new(["r".to_owned()].into(), Some(now));
        let facts = Facts {
            probes: probed.then(|| probes(Some(tcp()), Some(tcp()))),
            offline_ttl: ttl.then_some(Duration::from_secs(2)),
            ..Facts::default()
        };
        let mut world = World { facts, ..World::default() };
        world.take(core.on(now, Event::Begin(vec![])))?;
        for step in steps {
            let event = match step {
                Step::Want(instance, version) => {
                    let info = info(instance, &format!("{version}.0.0"));
                    world.wanted.insert(info.ident.clone(), info.clone());
                    Some(Event::Update { start: vec![info], stop: vec![] })
                }
                Step::Drop(instance) => {
                    let ident = info(instance, "0.0.0").ident;
                    world.wanted.remove(&ident);
                    Some(Event::Update { start: vec![], stop: vec![ident] })
                }
                Step::Finish(which, ok) => world.finish(usize::from(which), ok),
                Step::Crash(instance) => {
                    let info = info(instance, "0.0.0");
                    world.running.remove(&info.ident).map(|(info, pid)| {
                        Event::Exited { id: info.id(), pid, ended: Ended { code: Some(1), ..Ended::default() } }
                    })
                }
                Step::Wait(millis) => {
                    now += Duration::from_millis(u64::from(millis));
                    Some(Event::Tick)
                }
                Step::Cm => Some(Event::CmConnected),
                Step::Cloud(there) => Some(Event::Cloud(there)),
                Step::Restart => {
                    core = Core::new(["r".to_owned()].into(), Some(now));
                    Some(Event::Begin(world.restart()))
                }
            };
            if let Some(event) = event {
                world.take(core.on(now, event))?;
            }
        }
        let start: Vec<_> = world.wanted.values().cloned().collect();
        world.take(core.on(now, Event::Update { start, stop: vec![] }))?;
        world.take(core.on(now, Event::Cloud(true)))?;
        for _ in 0..200 {
            while let Some(event) = world.finish(0, true) {
                world.take(core.on(now, event))?;
            }
            let Some(due) = core.next_deadline() else { break };
            let before = core.next_deadline();
            now = due.max(now);
            let actions = core.on(now, Event::Tick);
            prop_assert!(!actions.is_empty() || core.next_deadline() != before, "it spins");
            world.take(actions)?;
        }
        let running: BTreeMap<_, _> = world.running.iter().map(|(ident, (info, _))| (ident.clone(), info.clone())).collect();
        prop_assert_eq!(&running, &world.wanted);
        prop_assert!(core.statuses().iter().all(|status| status.state == InstanceState::Active));
    }
}

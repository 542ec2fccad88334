//! What waits for the stream to CM. Pure.
//!
//! Statuses are state: a full list makes older ones needless, and when too many changes wait they give way to
//! a list. Of load figures the newest is enough. Answers are kept up to a bound, the oldest go first, and CM
//! is told how many were lost. Logs and alerts wait with those who make them: they are taken one by one, only
//! when nothing else waits.

use std::collections::VecDeque;

use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

/// Most messages about statuses that wait, and most others.
const MAX_WAITING: usize = 64;

/// Messages in the order they go out.
#[derive(Debug, Default)]
pub struct Outbox {
    statuses: VecDeque<Wire>,
    /// A list of all statuses has to be asked for.
    wants_list: bool,
    others: VecDeque<Wire>,
    instant: Option<Wire>,
    average: Option<Wire>,
    lost: u64,
}

impl Outbox {
    /// Adds a message.
    pub fn push(&mut self, message: Wire) {
        match message {
            Wire::NodeInstancesStatus(_) => {
                self.statuses.clear();
                self.wants_list = false;
                self.statuses.push_back(message);
            }
            // The list that comes holds it.
            Wire::UpdateInstancesStatus(_) if self.wants_list => {}
            Wire::UpdateInstancesStatus(_) if self.statuses.len() >= MAX_WAITING => {
                self.statuses.clear();
                self.wants_list = true;
            }
            Wire::UpdateInstancesStatus(_) => self.statuses.push_back(message),
            Wire::InstantMonitoring(_) => self.instant = Some(message),
            Wire::AverageMonitoring(_) => self.average = Some(message),
            _ => {
                if self.others.len() >= MAX_WAITING {
                    self.others.pop_front();
                    self.lost += 1;
                }
                self.others.push_back(message);
            }
        }
    }

    /// A new stream begins, and with it a list of all statuses: those that wait are older.
    pub fn begin(&mut self) {
        self.statuses.clear();
        self.wants_list = false;
    }

    /// True once after changes had to give way to a list.
    pub fn take_wish(&mut self) -> bool {
        // Asked for while changes still come in, the list is the last word about them.
        std::mem::take(&mut self.wants_list)
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty()
            && self.others.is_empty()
            && self.instant.is_none()
            && self.average.is_none()
            && self.lost == 0
    }

    /// The next message.
    pub fn pop(&mut self) -> Option<Wire> {
        let next = self.statuses.pop_front().or_else(|| self.others.pop_front());
        next.or_else(|| self.average.take()).or_else(|| self.instant.take()).or_else(|| {
            let lost = std::mem::take(&mut self.lost);
            (lost > 0).then(|| loss(lost))
        })
    }
}

fn loss(count: u64) -> Wire {
    let now = std::time::SystemTime::now();
    let alert = wire::CoreAlert {
        core_component: crate::alerts::Core::Sm.word().to_owned(),
        message: format!("{count} answers to the communication manager were dropped: too many waited"),
    };
    Wire::Alert(wire::Alert {
        timestamp: Some(now.into()),
        alert_item: Some(wire::alert::AlertItem::CoreAlert(alert)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed(number: u64) -> Wire {
        let instance =
            Some(aos_unit_api::common::v2::InstanceIdent { instance: number, ..Default::default() });
        let instances = vec![wire::InstanceStatus { instance, ..Default::default() }];
        Wire::UpdateInstancesStatus(wire::UpdateInstancesStatus { instances })
    }

    fn list() -> Wire {
        Wire::NodeInstancesStatus(wire::NodeInstancesStatus::default())
    }

    fn answer(version: u64) -> Wire {
        Wire::NodeConfigStatus(wire::NodeConfigStatus { version: version.to_string(), ..Default::default() })
    }

    fn instant(node: &str) -> Wire {
        Wire::InstantMonitoring(wire::InstantMonitoring {
            node_monitoring: Some(wire::MonitoringData { cpu: node.len() as u64, ..Default::default() }),
            ..Default::default()
        })
    }

    fn all(outbox: &mut Outbox) -> Vec<Wire> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    // SM-55, SM-75
    #[test]
    fn statuses_come_first_and_a_list_replaces_them() {
        let mut outbox = Outbox::default();
        for message in [instant("a"), answer(1), changed(1), list(), changed(2), instant("bb")] {
            outbox.push(message);
        }
        assert_eq!(all(&mut outbox), [list(), changed(2), answer(1), instant("bb")]);
        assert!(outbox.is_empty());
        outbox.push(changed(3));
        outbox.push(answer(2));
        outbox.begin();
        assert_eq!(all(&mut outbox), [answer(2)]);
    }

    #[test]
    fn what_is_lost_is_told() {
        let mut outbox = Outbox::default();
        for number in 0..70 {
            outbox.push(answer(number));
        }
        let mut sent = all(&mut outbox);
        let Some(Wire::Alert(alert)) = sent.pop() else { panic!("no alert") };
        let Some(wire::alert::AlertItem::CoreAlert(core)) = alert.alert_item else { panic!("no core alert") };
        assert!(core.message.starts_with("6 answers"), "{}", core.message);
        assert_eq!(sent.len(), MAX_WAITING);
        assert_eq!((sent.first(), sent.last()), (Some(&answer(6)), Some(&answer(69))));
        assert!(outbox.is_empty());
    }

    proptest! {
        /// However slow the other side is, little waits, and the last word about every instance arrives: as a
        /// change, or in a list asked for after it.
        #[test]
        fn no_change_is_forgotten(events in proptest::collection::vec((0u8..5, 0u64..8), 1..600)) {
            let mut outbox = Outbox::default();
            // Number of the newest change of each instance: made, and known to the other side.
            let (mut made, mut known) = ([0u64; 8], [0u64; 8]);
            let (mut clock, mut asked) = (0u64, false);
            let mut lists = VecDeque::new();
            for (event, number) in events {
                match event {
                    0..=2 => {
                        clock += 1;
                        made[usize::try_from(number).unwrap()] = clock;
                        outbox.push(changed(clock * 8 + number));
                    }
                    3 => {
                        if let Some(message) = outbox.pop() {
                            receive(&message, &mut lists, &mut known);
                        }
                    }
                    _ if asked => {
                        asked = false;
                        lists = VecDeque::from([made]);
                        outbox.push(list());
                    }
                    _ => {}
                }
                asked |= outbox.take_wish();
                prop_assert!(outbox.statuses.len() <= MAX_WAITING);
            }
            if asked {
                lists = VecDeque::from([made]);
                outbox.push(list());
            }
            while let Some(message) = outbox.pop() {
                receive(&message, &mut lists, &mut known);
            }
            prop_assert_eq!(known, made);
        }
    }

    fn receive(message: &Wire, lists: &mut VecDeque<[u64; 8]>, known: &mut [u64; 8]) {
        match message {
            Wire::NodeInstancesStatus(_) => *known = lists.pop_front().unwrap(),
            Wire::UpdateInstancesStatus(update) => {
                let number = update.instances[0].instance.as_ref().unwrap().instance;
                let known = &mut known[usize::try_from(number % 8).unwrap()];
                *known = (*known).max(number / 8);
            }
            _ => {}
        }
    }
}

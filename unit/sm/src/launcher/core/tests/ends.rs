//! Processes that end, stops that fail, and what a start of ours finds.

use super::*;

#[test]
fn a_crash_is_reported_with_its_code_and_restarted_until_the_burst_is_used_up() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 1);
    for pid in 1..=3 {
        let actions = bench.exit(&one, pid, 3);
        let after: &[&str] = if pid == 3 { &["ack", "stop", "report"] } else { &["ack", "report"] };
        assert_eq!(orders(&actions), after, "who is given up holds nothing any more");
        let status = bench.status(&one);
        assert_eq!((status.state, status.error.unwrap().exit_code), (InstanceState::Failed, 3));
        if pid == 3 {
            break;
        }
        let due = bench.core.next_deadline().unwrap();
        assert_eq!(due, bench.now + Duration::from_secs(1));
        bench.now = due;
        assert_eq!(orders(&bench.on(Event::Tick)), ["prepare", "report"]);
        bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
        bench.on(Event::Started(Box::new(one.clone()), Ok(pid + 1)));
    }
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.status(&one).error.unwrap().exit_code, 3, "the reason is still told");
    let told: Vec<InstanceState> = bench.reported().into_iter().map(|(state, _)| state).collect();
    let round = [InstanceState::Activating, InstanceState::Active, InstanceState::Failed];
    assert_eq!(told, round.repeat(3), "each start and each end is told, also the last");
    assert_eq!(bench.core.next_deadline(), None, "given up");
    assert_eq!(orders(&bench.want_one(&one)), ["prepare", "report"], "asking again is another try");
}

#[test]
fn an_exit_that_overtakes_its_start_is_not_lost() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    let id = one.id();
    assert_eq!(
        bench.core.runtime_of(&id, 9),
        Some("r"),
        "what the kernel knows of its end is looked for there"
    );
    bench.exit(&one, 9, 1);
    bench.on(Event::Started(Box::new(one.clone()), Ok(9)));
    assert_eq!(bench.state(&one), InstanceState::Failed);
    assert_eq!(bench.core.runtime_of(&id, 9), None);
    assert!(bench.core.next_deadline().is_some());
    // An exit of a process long replaced changes nothing.
    let due = bench.core.next_deadline().unwrap();
    bench.now = due;
    bench.on(Event::Tick);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(10)));
    assert_eq!((bench.core.runtime_of(&id, 9), bench.core.runtime_of(&id, 10)), (None, Some("r")));
    assert_eq!(orders(&bench.exit(&one, 9, 1)), ["ack"]);
    assert_eq!(bench.state(&one), InstanceState::Active);
}

#[test]
fn what_runs_at_start_is_taken_up_and_what_is_missing_is_started() {
    let now = Instant::now();
    let mut core = Core::new(["r".to_owned()].into(), Some(now));
    let (runs, gone, crashed) = (info(0, "1.0.0"), info(1, "1.0.0"), info(2, "1.0.0"));
    let found = |info: &InstanceInfo, running, missed| Found {
        info: info.clone(),
        running,
        ready: false,
        missed,
        facts: None,
    };
    let actions = core.on(
        now,
        Event::Begin(vec![
            found(&runs, Some((runs.clone(), 5)), None),
            found(&gone, None, None),
            found(&crashed, None, Some(Ended { signal: Some(9), ..Ended::default() })),
        ]),
    );
    assert_eq!(
        actions.iter().filter(|a| matches!(a, Action::Prepare(info) if info.ident == gone.ident)).count(),
        1
    );
    assert_eq!(orders(&actions), ["prepare", "report"]);
    let states: Vec<_> = core.statuses().into_iter().map(|status| status.state).collect();
    assert_eq!(states, [InstanceState::Active, InstanceState::Activating, InstanceState::Failed]);
    assert_eq!(core.next_deadline(), Some(now + Duration::from_secs(1)));
}

// What is told at once and what is told in the list are the same, whatever happened in between.
#[test]
fn a_crash_is_in_the_list_of_all_statuses() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    bench.exit(&one, 7, 9);
    let told = bench.log.iter().rev().find_map(|action| match action {
        Action::Report(statuses) => statuses.first().cloned(),
        _ => None,
    });
    assert_eq!(Some(bench.status(&one)), told);
    assert_eq!(bench.state(&one), InstanceState::Failed);
}

#[test]
fn a_stop_that_fails_is_told_and_tried_again() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    bench.on(Event::Update { start: vec![], stop: vec![one.ident.clone()] });
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert_eq!(bench.state(&one), InstanceState::Failed);
    let first = bench.core.next_deadline().unwrap();
    assert_eq!(orders(&bench.tick()).first(), Some(&"remove"));
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert!(bench.core.next_deadline().unwrap() - bench.now > first - bench.now, "the pause grows");
    bench.tick();
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert!(bench.core.statuses().is_empty());
    // Wanted again meanwhile: what may still run is stopped before it is started.
    bench.bring_up(&one, 8);
    let two = info(0, "2.0.0");
    bench.want_one(&two);
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert_eq!(orders(&bench.tick()).first(), Some(&"stop"));
    let actions = bench.on(Event::Stopped(one.ident, Ok(())));
    assert_eq!(orders(&actions).first(), Some(&"prepare"));
}

// The pause of the item, not one of ours, however often it ends; much later it is started again all the same.
#[test]
fn the_pause_before_a_restart_is_the_items_own() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    let run = RunParameters {
        start_interval: Duration::from_mins(1),
        start_burst: 3,
        restart_interval: Duration::from_secs(47),
    };
    let facts = Facts { run, ..Facts::default() };
    bench.want_one(&one);
    for pid in 1..20 {
        bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts.clone())));
        bench.on(Event::Started(Box::new(one.clone()), Ok(pid)));
        assert_eq!(bench.state(&one), InstanceState::Active);
        bench.exit(&one, pid, 1);
        assert_eq!(bench.core.next_deadline(), Some(bench.now + Duration::from_secs(47)));
        bench.now += Duration::from_secs(46);
        assert!(!orders(&bench.on(Event::Tick)).contains(&"prepare"), "too early");
        bench.now += Duration::from_secs(1);
        assert!(
            orders(&bench.on(Event::Tick)).contains(&"prepare"),
            "two starts within a minute are allowed"
        );
    }
}

// SM-48: a cold boot begins with the most important.
#[test]
fn a_cold_boot_begins_with_the_most_important() {
    let now = Instant::now();
    let mut core = Core::new(["r".to_owned()].into(), Some(now));
    let found = [1, 3, 0, 2].map(|instance| Found {
        info: info(instance, "1.0.0"),
        running: None,
        ready: false,
        missed: None,
        facts: None,
    });
    let actions = core.on(now, Event::Begin(found.to_vec()));
    let order: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Prepare(info) => Some(info.priority),
            _ => None,
        })
        .collect();
    assert_eq!(order, [3, 2, 1, 0]);
}

#[test]
fn an_end_is_told_with_what_the_kernel_knows_of_it() {
    let told = |ended: Ended| error_of(ended).message;
    let code = Ended { code: Some(2), ..Ended::default() };
    assert_eq!(told(code), "the service ended with status 2");
    assert!(told(Ended { out_of_processes: true, ..code }).ends_with("its limit of processes"));
    let killed = Ended { signal: Some(9), out_of_memory: true, out_of_processes: true, ..Ended::default() };
    assert!(told(killed).ends_with("signal 9: it was out of memory"));
}

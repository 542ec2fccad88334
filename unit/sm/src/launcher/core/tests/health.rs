//! Readiness and liveness.

use super::*;

#[test]
fn an_instance_is_active_when_it_is_ready_and_restarted_when_it_does_not_live() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    let actions = bench.bring_up_probed(&one, 7, probes(Some(tcp()), Some(tcp())));
    assert_eq!(orders(&actions), ["probe", "report", "all", "in use"]);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    bench.answer(&one, 7, Question::Ready, false);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    assert_eq!(orders(&bench.tick()), ["probe"]);
    assert_eq!(orders(&bench.answer(&one, 7, Question::Ready, true)), ["ready", "probe", "report"]);
    assert_eq!(bench.state(&one), InstanceState::Active);
    for _ in 0..2 {
        assert_eq!(orders(&bench.answer(&one, 7, Question::Alive, false)), Vec::<&str>::new());
        assert_eq!(orders(&bench.tick()), ["probe"]);
    }
    let actions = bench.answer(&one, 7, Question::Alive, false);
    assert_eq!(orders(&actions), ["stop", "report"]);
    let status = bench.status(&one);
    assert_eq!(status.state, InstanceState::Failed);
    assert!(status.error.unwrap().message.contains("HTTP status 503"));
    bench.exit(&one, 7, 143);
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.state(&one), InstanceState::Failed, "until the pause is over");
    assert_eq!(orders(&bench.tick()), ["prepare", "report"]);
}

#[test]
fn who_is_not_ready_in_time_is_ended_and_tried_again() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up_probed(&one, 7, probes(Some(tcp()), None));
    let began = bench.now;
    while orders(&bench.tick()) == ["probe"] {
        bench.answer(&one, 7, Question::Ready, false);
    }
    assert_eq!(bench.now, began + Duration::from_secs(30));
    assert!(bench.status(&one).error.unwrap().message.contains("not ready within 30 s"));
    // An answer to the process of before does not count for the next one.
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    bench.tick();
    bench.on(Event::Prepared(
        Box::new(one.clone()),
        Ok(Facts { probes: Some(probes(Some(tcp()), None)), ..Facts::default() }),
    ));
    bench.on(Event::Started(Box::new(one.clone()), Ok(8)));
    bench.answer(&one, 7, Question::Ready, true);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    bench.answer(&one, 8, Question::Ready, true);
    assert_eq!(bench.state(&one), InstanceState::Active);
}

#[test]
fn a_ready_instance_stays_active_over_a_restart_of_ours() {
    let now = Instant::now();
    let one = info(0, "1.0.0");
    let facts = Some(Facts { probes: Some(probes(Some(tcp()), None)), ..Facts::default() });
    for (ready, state) in [(true, InstanceState::Active), (false, InstanceState::Activating)] {
        let mut core = Core::new(["r".to_owned()].into(), None);
        let running = Some((one.clone(), 5));
        let found = Found { info: one.clone(), running, ready, missed: None, facts: facts.clone() };
        core.on(now, Event::Begin(vec![found]));
        assert_eq!(core.statuses().first().unwrap().state, state);
    }
}

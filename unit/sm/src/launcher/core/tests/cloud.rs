//! The time an instance may run without the cloud.

use super::*;

// SM-43, SM-74
#[test]
fn without_the_cloud_an_instance_ends_in_time_and_comes_back_with_it() {
    let mut bench = Bench::new();
    bench.on(Event::Cloud(true));
    let one = info(0, "1.0.0");
    let facts = Facts { offline_ttl: Some(Duration::from_mins(1)), ..Facts::default() };
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts.clone())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(7)));
    assert_eq!(bench.core.next_deadline(), None);
    bench.on(Event::Cloud(false));
    assert_eq!(bench.core.next_deadline(), Some(bench.now + Duration::from_mins(1)));
    bench.now += Duration::from_mins(1);
    assert_eq!(orders(&bench.on(Event::Tick)).first(), Some(&"stop"));
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.state(&one), InstanceState::Inactive);
    assert_eq!(bench.core.next_deadline(), None);
    assert_eq!(orders(&bench.on(Event::Cloud(true))), ["offline", "prepare", "report"]);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts)));
    bench.on(Event::Started(Box::new(one.clone()), Ok(8)));
    // A short absence: the time begins anew with the next one.
    bench.on(Event::Cloud(false));
    bench.now += Duration::from_secs(59);
    bench.on(Event::Tick);
    bench.on(Event::Cloud(true));
    assert_eq!(bench.core.next_deadline(), None);
    bench.on(Event::Cloud(false));
    bench.on(Event::Cloud(false));
    assert_eq!(bench.core.next_deadline(), Some(bench.now + Duration::from_mins(1)));
    assert_eq!(bench.state(&one), InstanceState::Active);
}

#[test]
fn a_suspended_instance_is_not_said_to_be_activating() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    let facts = Facts { offline_ttl: Some(Duration::from_secs(5)), ..Facts::default() };
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts)));
    bench.on(Event::Started(Box::new(one.clone()), Ok(7)));
    let before = bench.log.len();
    bench.tick();
    assert_eq!(bench.core.next_deadline(), None, "nothing is due while it is being stopped");
    bench.exit(&one, 7, 0);
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    let told = bench.log.iter().skip(before).filter_map(|action| match action {
        Action::Report(statuses) => statuses.first().map(|status| status.state),
        _ => None,
    });
    let states: Vec<_> = told.collect();
    assert!(states.iter().all(|state| *state != InstanceState::Activating), "{states:?}");
    assert_eq!(bench.state(&one), InstanceState::Inactive);
}

// A node that starts without the cloud may learn only from the image that the time is over already.
#[test]
fn a_time_that_is_over_is_kept_when_it_is_learned_late() {
    let now = Instant::now();
    let mut core = Core::new(["r".to_owned()].into(), Some(now));
    let one = info(0, "1.0.0");
    let found = Found { info: one.clone(), running: None, ready: false, missed: None, facts: None };
    let later = now + Duration::from_mins(2);
    assert!(orders(&core.on(later, Event::Begin(vec![found]))).contains(&"prepare"));
    let facts = Facts { offline_ttl: Some(Duration::from_mins(1)), ..Facts::default() };
    let actions = core.on(later, Event::Prepared(Box::new(one.clone()), Ok(facts)));
    assert!(!orders(&actions).contains(&"start"), "{:?}", orders(&actions));
    assert_eq!(core.statuses().first().unwrap().state, InstanceState::Inactive);
    assert!(orders(&core.on(later, Event::Cloud(true))).contains(&"prepare"));
}

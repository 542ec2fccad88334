//! What CM wishes: new, the same, another, none.

use super::*;

// SM-37, SM-54, SM-55
#[test]
fn a_new_instance_is_stored_prepared_started_and_reported() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    assert_eq!(orders(&bench.want_one(&one)), ["store", "prepare", "report"]);
    assert_eq!(orders(&bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())))), ["start"]);
    assert_eq!(orders(&bench.on(Event::Started(Box::new(one.clone()), Ok(7)))), ["report", "all", "in use"]);
    let states: Vec<_> = bench.reported().into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, [InstanceState::Activating, InstanceState::Active]);
    assert_eq!(bench.status(&one).pid, Some(7));
}

#[test]
fn an_unchanged_instance_is_not_touched() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    assert_eq!(orders(&bench.want_one(&one)), ["all", "in use"]);
    assert_eq!(orders(&bench.on(Event::CmConnected)), Vec::<&str>::new());
}

#[test]
fn what_is_stopped_is_removed_and_reported_inactive() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    let actions = bench.on(Event::Update { start: vec![], stop: vec![one.ident.clone()] });
    assert_eq!(orders(&actions), ["store", "remove"]);
    bench.exit(&one, 7, 143);
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(orders(&actions), ["report", "all", "in use"]);
    assert_eq!(bench.reported().last().unwrap().0, InstanceState::Inactive);
    assert!(bench.core.statuses().is_empty());
    let unknown = Event::Update { start: vec![], stop: vec![one.ident] };
    assert_eq!(orders(&bench.on(unknown)), ["all", "in use"]);
}

#[test]
fn a_new_version_is_prepared_before_the_old_one_stops() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    assert_eq!(orders(&bench.want_one(&new)), ["store", "prepare"]);
    assert_eq!(bench.status(&old).info, old, "the old version still runs");
    let actions = bench.on(Event::Prepared(Box::new(new.clone()), Ok(Facts::default())));
    assert_eq!(orders(&actions), ["stop", "report"]);
    assert_eq!(orders(&bench.on(Event::Stopped(new.ident.clone(), Ok(())))), ["prepare", "report"]);
    bench.on(Event::Prepared(Box::new(new.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(new.clone()), Ok(8)));
    let status = bench.status(&new);
    assert_eq!((status.info, status.state, status.pid), (new, InstanceState::Active, Some(8)));
}

#[test]
fn when_the_new_version_cannot_be_prepared_the_old_one_stays() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    bench.want_one(&new);
    let actions = bench.on(Event::Prepared(Box::new(new.clone()), Err(failure("wrong digest", false))));
    assert_eq!(orders(&actions), ["report", "all", "in use"]);
    let status = bench.status(&new);
    assert_eq!(
        (status.info.version.as_str(), status.state, status.pid),
        ("2.0.0", InstanceState::Failed, Some(7))
    );
    // Back to what runs: nothing has to happen to it.
    bench.want_one(&old);
    assert_eq!((bench.status(&old).info, bench.state(&old)), (old, InstanceState::Active));
}

#[test]
fn a_request_during_a_launch_is_merged() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.want_one(&old);
    bench.on(Event::Prepared(Box::new(old.clone()), Ok(Facts::default())));
    assert_eq!(orders(&bench.want_one(&new)), ["store", "report"]);
    assert_eq!(orders(&bench.on(Event::Started(Box::new(old.clone()), Ok(7)))), ["prepare", "report"]);

    let mut bench = Bench::new();
    bench.want_one(&old);
    let stop = Event::Update { start: vec![], stop: vec![old.ident.clone()] };
    assert_eq!(orders(&bench.on(stop)), ["store", "abandon"]);
    assert_eq!(orders(&bench.on(Event::Prepared(Box::new(old), Ok(Facts::default())))), ["remove", "report"]);
}

#[test]
fn passing_failures_are_tried_again_when_cm_is_back() {
    let mut bench = Bench::new();
    let (one, two) = (info(0, "1.0.0"), info(1, "1.0.0"));
    bench.want(&[one.clone(), two.clone()]);
    bench.on(Event::Prepared(Box::new(one.clone()), Err(failure("away", true))));
    bench.on(Event::Prepared(Box::new(two.clone()), Err(failure("broken", false))));
    assert_eq!((bench.state(&one), bench.state(&two)), (InstanceState::Activating, InstanceState::Failed));
    let actions = bench.on(Event::CmConnected);
    assert!(matches!(actions.first(), Some(Action::Prepare(info)) if info.ident == one.ident));
    assert_eq!(orders(&actions), ["prepare"]);
    bench.on(Event::Prepared(Box::new(one.clone()), Err(failure("slow", true))));
    bench.now = bench.core.next_deadline().unwrap();
    assert_eq!(orders(&bench.on(Event::Tick)), ["prepare"], "and by itself after a while");
}

// SM-46
#[test]
fn an_unknown_runtime_is_refused() {
    let mut bench = Bench::new();
    let mut one = info(0, "1.0.0");
    one.runtime = "other".into();
    bench.want_one(&one);
    let status = bench.status(&one);
    assert_eq!((status.state, status.error.unwrap().code()), (InstanceState::Failed, AosCode::NotFound));
}

// SM-48
#[test]
fn higher_priority_goes_first() {
    let mut bench = Bench::new();
    let actions = bench.want(&[info(1, "1.0.0"), info(3, "1.0.0"), info(2, "1.0.0")]);
    let order: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Prepare(info) => Some(info.priority),
            _ => None,
        })
        .collect();
    assert_eq!(order, [3, 2, 1]);
}

// What one instance gives back another one gets, in the same request and later; meanwhile it is no failure.
#[test]
fn a_resource_is_waited_for_while_another_instance_is_being_stopped() {
    let mut bench = Bench::new();
    let (one, two) = (info(0, "1.0.0"), info(1, "1.0.0"));
    bench.bring_up(&one, 7);
    bench.on(Event::Update { start: vec![two.clone()], stop: vec![one.ident.clone()] });
    let taken = Failure { kind: FailureKind::Conflict, ..failure("camera is in use", false) };
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(two.clone()), Err(taken.clone())));
    assert_eq!(bench.state(&two), InstanceState::Activating);
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert!(orders(&actions).contains(&"prepare"), "{:?}", orders(&actions));
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(two.clone()), Err(taken)));
    let status = bench.status(&two);
    assert_eq!(
        (status.state, status.error.unwrap().message.as_str()),
        (InstanceState::Failed, "camera is in use")
    );
}

// An instance whose preparing failed is prepared again when it is asked for again, unchanged.
#[test]
fn a_failed_preparation_is_done_again_and_errors_are_fresh() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.want_one(&one);
    for text in ["no space", "wrong digest"] {
        let actions = bench.on(Event::Prepared(Box::new(one.clone()), Err(failure(text, false))));
        assert!(orders(&actions).contains(&"report"), "failed again is news, too");
        assert_eq!(bench.status(&one).error.unwrap().message, text);
        assert!(orders(&bench.want_one(&one)).contains(&"prepare"));
        assert_eq!(bench.status(&one).error, None, "no error of the past while it is tried");
    }
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(3)));
    assert_eq!((bench.state(&one), bench.status(&one).error), (InstanceState::Active, None));
}

// Priority and monitoring say how an instance is treated, not how its process runs.
#[test]
fn another_priority_or_monitoring_restarts_nothing() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    let changed = InstanceInfo { priority: 77, monitoring: Some(vec![1]), ..one.clone() };
    let actions = bench.want_one(&changed);
    assert_eq!(orders(&actions), ["store", "report", "all", "in use"]);
    assert_eq!((bench.status(&one).info, bench.status(&one).pid), (changed, Some(7)));
}

#[test]
fn what_goes_goes_by_rising_priority_before_anything_comes() {
    let mut bench = Bench::new();
    for instance in [1, 2, 3] {
        bench.bring_up(&info(instance, "1.0.0"), i32::try_from(instance).unwrap());
    }
    let stop = [3, 1, 2].map(|instance| info(instance, "1.0.0").ident).to_vec();
    let actions = bench.on(Event::Update { start: vec![info(9, "1.0.0")], stop });
    let order: Vec<(bool, u64)> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Stop { info, .. } => Some((false, info.priority)),
            Action::Prepare(info) => Some((true, info.priority)),
            _ => None,
        })
        .collect();
    assert_eq!(order, [(false, 1), (false, 2), (false, 3), (true, 9)]);
}

#[test]
fn a_new_version_does_not_wait_for_the_pause_of_the_old_one() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    bench.exit(&old, 7, 1);
    assert!(bench.core.next_deadline().is_some());
    assert_eq!(orders(&bench.want_one(&new)), ["store", "prepare", "report"]);
}

// PRO-108: an instance whose variables changed is started again with them; the others go on, and nothing of
// the instance is forgotten.
#[test]
fn changed_variables_restart_their_instance_only() {
    let mut bench = Bench::new();
    let (one, other) = (info(0, "1"), info(1, "1"));
    bench.bring_up(&one, 10);
    bench.want(&[one.clone(), other.clone()]);
    bench.on(Event::Prepared(Box::new(other.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(other.clone()), Ok(11)));
    let changed = InstanceInfo { env: vec![("LOG".into(), "debug".into())], ..one.clone() };
    let actions = bench.want(&[changed.clone(), other.clone()]);
    assert_eq!(orders(&actions), ["store", "prepare"]);
    assert!(
        matches!(&actions[0], Action::Store { put, remove } if *put == [changed.clone()] && remove.is_empty())
    );
    assert_eq!(bench.state(&other), InstanceState::Active);
    let actions = bench.on(Event::Prepared(Box::new(changed.clone()), Ok(Facts::default())));
    assert_eq!(orders(&actions), ["stop", "report"], "it is stopped, not removed");
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(orders(&actions), ["prepare", "report"]);
    bench.on(Event::Prepared(Box::new(changed.clone()), Ok(Facts::default())));
    let actions = bench.on(Event::Started(Box::new(changed.clone()), Ok(12)));
    assert!(orders(&actions).contains(&"all"), "CM hears that the node is done");
    assert_eq!(bench.status(&one).info.env, changed.env);
    assert_eq!(bench.status(&other).pid, Some(11));
    assert!(
        !orders(&bench.want(&[changed, other])).contains(&"prepare"),
        "the same once more changes nothing"
    );
}

// What is being fetched for a wish of yesterday does not hold up the one of today.
#[test]
fn an_image_nobody_wants_any_more_is_not_waited_for() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.want_one(&old);
    assert_eq!(orders(&bench.want_one(&new)), ["store", "abandon", "report"]);
    let actions = bench.on(Event::Prepared(Box::new(old.clone()), Err(failure("given up", false))));
    assert_eq!(orders(&actions).first(), Some(&"prepare"));
    assert_eq!(bench.status(&new).error, None);
    // Other variables with the same image need nothing else.
    let same = InstanceInfo { env: vec![("A".into(), "B".into())], ..new.clone() };
    assert!(!orders(&bench.want_one(&same)).contains(&"abandon"));
    let stop = Event::Update { start: vec![], stop: vec![old.ident] };
    assert!(orders(&bench.on(stop)).contains(&"abandon"));
}

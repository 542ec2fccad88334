//! The rules of the flows.

use std::collections::BTreeSet;

use aos_cloud_protocol::{
    AosIdentity, ConfigState, LogStatus, PushLog, StateChecksum, UnitConfig, UnitConfigStatus,
};
use aos_status::ErrorInfo;
use proptest::prelude::*;

use super::*;

fn part(number: u64, count: u64, status: LogStatus) -> PushLog {
    PushLog {
        node: AosIdentity::by_codename("main"),
        part: number,
        parts_count: count,
        content: b"text".to_vec().into(),
        status,
        error_info: None,
    }
}

fn nothing() -> NodeLog {
    NodeLog { state: LogState::Waiting, parts_count: 0, parts: BTreeSet::new(), reason: None }
}

proptest! {
    // D39: parts are counted, not compared with an expected first number.
    #[test]
    fn a_log_is_complete_with_as_many_numbers_as_announced(
        first in 0_u64..2,
        count in 1_u64..=MAX_LOG_PARTS,
        seed in any::<u64>(),
    ) {
        let mut numbers: Vec<u64> = (first..first + count).collect();
        let turn = usize::try_from(seed % count).unwrap();
        numbers.rotate_left(turn);
        let mut log = nothing();
        for (index, number) in numbers.iter().enumerate() {
            prop_assert!(!log.state.is_final(), "complete after {index} of {count}");
            prop_assert!(log.take(&part(*number, count, LogStatus::Ok)));
            if index > 0 && !log.state.is_final() {
                prop_assert!(log.take(&part(numbers[0], count, LogStatus::Ok)), "a repeated part replaces");
                prop_assert!(!log.state.is_final());
            }
        }
        prop_assert_eq!(log.state, LogState::Done);
        prop_assert!(!log.take(&part(first, count, LogStatus::Ok)), "nothing after the end");
    }
}

#[test]
fn a_node_may_have_nothing_or_fail() {
    for (status, state) in [
        (LogStatus::Empty, LogState::Empty),
        (LogStatus::Absent, LogState::Absent),
        (LogStatus::Failed, LogState::Failed),
    ] {
        let mut log = nothing();
        // A failure of other Units is part 0 of 0.
        assert!(!log.take(&part(0, 0, status)));
        assert_eq!(log.state, state);
    }
    let mut log = nothing();
    let error_info = Some(ErrorInfo { aos_code: 5, exit_code: 0, message: "no journal".to_owned() });
    log.take(&PushLog { error_info, ..part(0, 0, LogStatus::Failed) });
    assert_eq!(log.reason.as_deref(), Some("no journal"));
    let mut log = nothing();
    assert!(!log.take(&part(1, MAX_LOG_PARTS + 1, LogStatus::Ok)));
    assert_eq!(log.state, LogState::Failed);
    let mut log = nothing();
    let content = vec![0; MAX_LOG_PART + 1].into();
    assert!(!log.take(&PushLog { content, ..part(1, 1, LogStatus::Ok) }));
    assert_eq!(log.state, LogState::Failed);
}

#[test]
fn the_state_of_a_request_follows_its_nodes() {
    let node = |state, parts: &[u64]| NodeLog {
        state,
        parts_count: 2,
        parts: parts.iter().copied().collect(),
        reason: Some("disk".to_owned()),
    };
    let over = |nodes: &[NodeLog]| log_state(nodes.iter().map(|log| ("n", log)));
    let waiting = node(LogState::Waiting, &[]);
    let partial = node(LogState::Partial, &[1]);
    let done = node(LogState::Done, &[1, 2]);
    let failed = node(LogState::Failed, &[]);
    let empty = node(LogState::Empty, &[]);
    let absent = node(LogState::Absent, &[]);
    assert_eq!(over(&[waiting.clone(), waiting.clone()]).0, LogState::Waiting);
    assert_eq!(over(&[waiting.clone(), partial]).0, LogState::Partial);
    assert_eq!(over(&[waiting, done.clone()]).0, LogState::Partial);
    assert_eq!(over(&[done.clone(), absent.clone()]), (LogState::Done, None));
    assert_eq!(over(&[done, failed.clone()]), (LogState::Done, Some("node n: disk".to_owned())));
    assert_eq!(over(&[failed, empty.clone()]).0, LogState::Failed);
    assert_eq!(over(&[empty, absent.clone()]).0, LogState::Empty);
    assert_eq!(over(&[absent]).0, LogState::Absent);
    for word in ["waiting", "partial", "done", "failed", "empty", "absent"] {
        assert_eq!(LogState::parse(word).as_str(), word);
    }
}

#[test]
fn a_node_is_provisioned_in_two_steps_and_every_error_ends_it() {
    use NodeTaskEvent::{Deprovisioned, Finished, Started};
    let mut state = NodeTaskState::start(NodeTaskKind::Provision);
    assert_eq!(node_task(&mut state, Finished(Ok(()))), NodeTaskStep::Ignore, "not its turn");
    assert_eq!(node_task(&mut state, Deprovisioned(Ok(()))), NodeTaskStep::Ignore, "another task's answer");
    assert_eq!(node_task(&mut state, Started(Ok(()))), NodeTaskStep::SendCertificates);
    assert_eq!(node_task(&mut state, Started(Ok(()))), NodeTaskStep::Ignore, "a repetition");
    assert_eq!(node_task(&mut state, Finished(Ok(()))), NodeTaskStep::Provisioned);
    assert_eq!(state, NodeTaskState::Done);
    assert_eq!(node_task(&mut state, Finished(Err(Reason("late".to_owned())))), NodeTaskStep::Ignore);

    let mut state = NodeTaskState::start(NodeTaskKind::Provision);
    assert_eq!(node_task(&mut state, Started(Err(Reason("busy".to_owned())))), NodeTaskStep::Failed);
    assert_eq!(state, NodeTaskState::Failed("busy".to_owned()));
    assert_eq!(NodeTaskState::parse(state.as_str(), Some("busy")), state);

    let mut state = NodeTaskState::start(NodeTaskKind::Deprovision);
    assert_eq!(node_task(&mut state, Deprovisioned(Ok(()))), NodeTaskStep::Deprovisioned);
    assert!(state.is_final());
}

#[test]
fn only_what_was_asked_for_or_ends_soon_is_renewed() {
    use RenewalState::{Asked, Failed, Installed, Issued, Refused};
    let held = [Held { node_id: "main", cert_type: "online", not_after: 100 * SELF_RENEWAL }];
    let now = 98 * SELF_RENEWAL;
    assert!(may_renew(true, &held, "main", "online", now).is_ok());
    assert!(may_renew(false, &held, "main", "online", now).is_err());
    assert!(may_renew(false, &held, "main", "online", now + SELF_RENEWAL).is_ok());
    assert!(may_renew(true, &held, "main", "sm", now).is_err(), "another type");
    assert!(may_renew(true, &held, "rear", "online", now).is_err(), "another node");
    assert_eq!(renewal_over([Installed, Asked]), None);
    assert_eq!(renewal_over([Failed, Issued]), None);
    assert_eq!(renewal_over([Installed, Installed]), Some(true));
    assert_eq!(renewal_over([Installed, Refused]), Some(false));
}

#[test]
fn a_state_is_accepted_when_it_is_whole_and_belongs_to_the_unit() {
    let checksum = StateChecksum::from_bytes(&[7; 28]);
    let told = |computed: Option<&'static [u8]>, bytes| Told { checksum: &checksum, computed, bytes };
    let exists = KnownInstance { exists: true, on_its_way: None };
    let right: Option<&[u8]> = Some(&[7; 28]);
    assert_eq!(accept_state(told(right, 10), exists), Ok(()));
    assert_eq!(accept_state(told(right, 10), KnownInstance::default()), Err(StateRefusal::UnknownInstance));
    assert!(accept_state(told(right, 65_537), exists).is_err());
    assert!(accept_state(told(Some(&[8; 28]), 10), exists).is_err());
    assert!(accept_state(told(None, 10), exists).is_err());
    let other = StateChecksum::from_bytes(&[9; 28]);
    let on_its_way = |text| KnownInstance { exists: true, on_its_way: Some(text) };
    assert!(accept_state(told(right, 10), on_its_way(other.as_str())).is_err());
    let upper = checksum.as_str().to_uppercase();
    assert_eq!(accept_state(told(right, 10), on_its_way(&upper)), Ok(()), "the same in another form");
}

// PRO-48
#[test]
fn a_unit_configuration_is_sent_until_it_is_installed_and_must_rise() {
    let status = |version: &str, state| UnitConfigStatus {
        version: Some(version.to_owned()),
        state,
        error_info: None,
    };
    let config = |version: &str| Some(UnitConfig { version: version.to_owned(), ..UnitConfig::default() });
    let installed = [status("1.4.0", ConfigState::Installed), status("1.5.0", ConfigState::Failed)];
    assert_eq!(installed_config(&installed), Some("1.4.0"));
    assert!(wanted_config(config("1.5.0"), &installed).is_some(), "failed is not installed");
    assert!(wanted_config(config("1.4.0"), &installed).is_none());
    assert!(wanted_config(config("1.3.0"), &installed).is_none());
    assert!(wanted_config(config("1.3.0"), &[]).is_some());
    assert!(check_config("1.5.0", Some("1.4.0"), None).is_ok());
    assert!(check_config("1.5.0", Some("1.4.0"), Some("1.5.0")).is_err());
    assert!(check_config("1.10.0", Some("1.9.0"), None).is_ok(), "versions, not texts");
    assert!(check_config("one", None, None).is_err());
}

// IAM-29
use std::time::Duration;

use aos_status::NodeState::{self, Error as Broken, Paused, Provisioned, Unprovisioned};

use super::command;
use super::*;

#[test]
fn orders_are_taken_only_in_their_states() {
    let orders = [
        Order::StartProvisioning,
        Order::FinishProvisioning,
        Order::Deprovision,
        Order::Pause,
        Order::Resume,
    ];
    let states = [Unprovisioned, Provisioned, Paused, Broken];
    let expected = |order, state: NodeState| match (order, state) {
        (Order::StartProvisioning, Unprovisioned) | (Order::Deprovision, Provisioned | Paused) => {
            Some(Verdict::Do(Unprovisioned))
        }
        (Order::FinishProvisioning, Unprovisioned) | (Order::Resume, Paused) => {
            Some(Verdict::Do(Provisioned))
        }
        (Order::FinishProvisioning, Provisioned) | (Order::Deprovision, Unprovisioned) => Some(Verdict::Done),
        (Order::Pause, Provisioned) => Some(Verdict::Do(Paused)),
        _ => None,
    };
    for order in orders {
        for state in states {
            assert_eq!(order.check(state).ok(), expected(order, state), "{order:?} {state}");
        }
    }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn shell(script: &str) -> Vec<String> {
    argv(&["sh", "-c", script])
}

// IAM 26.18
#[tokio::test]
async fn empty_commands_are_skipped_and_quiet_ones_succeed() {
    command::run(&[]).await.unwrap();
    command::run(&argv(&["true"])).await.unwrap();
    command::run(&shell("yes | head -c 1000000")).await.unwrap();
}

#[tokio::test]
async fn failures_carry_status_and_the_begin_of_the_output() {
    let error = command::run(&shell("echo out; echo err >&2; exit 7")).await.unwrap_err();
    let info = error.info();
    assert_eq!((info.aos_code, info.exit_code), (2, 7));
    assert!(info.message.contains("out\nerr"), "{info:?}");
    let error = command::run(&shell("kill -TERM $$")).await.unwrap_err();
    assert_eq!(error.info().exit_code, 128 + 15);
    let error = command::run(&argv(&["/nowhere/program"])).await.unwrap_err();
    assert_eq!((error.info().aos_code, error.info().exit_code), (2, 2));
}

#[tokio::test]
async fn background_jobs_do_not_keep_us_waiting() {
    let started = std::time::Instant::now();
    command::run(&shell("sleep 20 & echo $! > /dev/null")).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed() {
    let error = command::run_within(&argv(&["sleep", "60"]), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.code(), aos_status::AosCode::Timeout);
}

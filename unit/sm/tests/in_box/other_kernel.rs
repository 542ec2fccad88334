//! The same promises on another kernel: cgroup v2 with all controllers, user quotas, VLANs. Each test here boots a
//! machine and runs tests of this program in it, the same ones that run in boxes of this machine's kernel.

use std::time::Duration;

use aos_testbed::uml;

use crate::cm::PATIENCE;
use crate::sm::NO_FIREWALL;

/// Answers whether it passed.
type Test = fn() -> bool;

/// Tests by name that bring their own machine, so they run in no box.
pub const ALL: &[(&str, Test)] = &[
    ("cgroup_v2_limits_hold_with_crun_and_runc", cgroup_v2_limits_hold_with_crun_and_runc),
    ("cgroup_v2_instances_live_as_elsewhere", cgroup_v2_instances_live_as_elsewhere),
    (
        "cgroup_v2_instances_are_measured_and_alerted_about",
        cgroup_v2_instances_are_measured_and_alerted_about,
    ),
    ("user_quotas_limit_storage_and_state", user_quotas_limit_storage_and_state),
    ("a_vlan_joins_the_networks_of_nodes", a_vlan_joins_the_networks_of_nodes),
];

fn run(tests: &[&str]) -> bool {
    let program = std::env::current_exe().unwrap();
    let mut argv = vec![program.to_str().unwrap(), "--exact"];
    argv.extend(tests);
    // The kernel has no nftables.
    let env = [(NO_FIREWALL, "1"), (PATIENCE, "3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let options =
        uml::Options { memory: 1024, limit: Duration::from_mins(4), env, ..uml::Options::default() };
    match uml::run(&argv, &options) {
        Ok(outcome) => {
            let all = outcome.output.contains(&format!("{} passed; 0 failed", tests.len()));
            if outcome.status != 0 || !all {
                eprintln!("status {}:\n{}", outcome.status, outcome.output);
            }
            outcome.status == 0 && all
        }
        Err(error) => {
            eprintln!("{}", aos_testbed::chain(&error));
            false
        }
    }
}

// SM-05
fn cgroup_v2_limits_hold_with_crun_and_runc() -> bool {
    run(&["crun_keeps_each_limit", "runc_keeps_each_limit"])
}

// SM-04
fn cgroup_v2_instances_live_as_elsewhere() -> bool {
    run(&[
        "containers_survive_the_death_of_the_service_manager",
        "an_exit_without_service_manager_is_learned_later",
        "what_is_stopped_leaves_nothing_behind",
        "a_native_service_has_user_files_and_limits",
        "what_a_dead_service_manager_froze_goes_on",
    ])
}

// SM-07, SM-62, SM-66
fn cgroup_v2_instances_are_measured_and_alerted_about() -> bool {
    run(&[
        "a_busy_instance_is_measured_and_alerted_about",
        "ends_of_instances_are_alerts_with_their_reasons",
        "hostile_services_are_told_about_and_others_go_on",
    ])
}

// CM-18: as the Communication Manager's storages and states are limited on an ordinary Unit.
fn user_quotas_limit_storage_and_state() -> bool {
    run(&["storage_and_state_are_limited_by_user_quota"])
}

// SM-06
fn a_vlan_joins_the_networks_of_nodes() -> bool {
    run(&["an_instance_is_reached_over_its_vlan"])
}

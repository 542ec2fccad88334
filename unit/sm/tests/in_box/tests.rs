//! The promises by name; each is told in the module it comes from.

use std::future::Future;
use std::pin::Pin;

use serde_json::json;

use crate::churn::two_hundred_kills_during_churn_leave_nothing_behind;
use crate::connection::{
    a_slow_cm_holds_nothing_up, a_stream_begins_in_order_and_ends_with_a_pause,
    cm_and_cloud_are_lost_together, what_happened_without_cm_is_told_later,
};
use crate::content::{
    a_blob_with_a_wrong_digest_is_never_installed, a_missing_layer_is_reported_and_fetched_when_it_is_there,
    layers_are_stacked_in_order_with_whiteouts,
};
use crate::ends::{
    a_crash_loop_ends_after_the_burst_with_the_exit_code, a_stubborn_process_is_killed_after_the_grace_time,
    limits_of_memory_and_processes_hold, what_is_stopped_leaves_nothing_behind,
};
use crate::images::{an_image_made_by_umoci_runs, nginx_serves_from_layers_of_every_packing};
use crate::launcher::{
    a_hanging_runtime_holds_nobody_else_up, changed_variables_keep_state_and_others,
    the_time_without_the_cloud_is_kept_over_restarts,
};
use crate::logs::{
    a_log_is_followed_over_the_keepers_cuts, log_lines_have_times_and_crashes_are_told,
    the_system_log_comes_from_the_journal,
};
use crate::measures::figures_are_those_of_a_known_load;
use crate::names::{a_name_belongs_to_one_instance, names_resolve_whoever_is_killed};
use crate::native::{
    a_native_service_has_its_own_network_when_configured, a_native_service_has_user_files_and_limits,
    native_services_survive_and_leave_nothing_behind,
};
use crate::networks::{
    a_dead_neighbour_leaves_the_network_as_it_is, a_filter_that_was_emptied_is_filled_again,
    a_withdrawn_rule_ends_what_it_let_begin, an_address_that_changes_hands_brings_no_connections_along,
    an_impossible_rule_fails_its_instance_alone, bandwidth_is_bounded_both_ways,
    no_packet_is_lost_while_the_manager_restarts, public_traffic_is_counted_bounded_and_kept,
    public_uploads_are_bounded_by_themselves, rules_that_come_later_are_appended_once,
    the_destination_and_the_source_must_both_allow_a_connection, the_last_stop_leaves_no_network,
    the_order_of_starts_means_nothing_to_the_firewall,
};
use crate::offenders::{hostile_images_fail_with_a_reason, hostile_services_are_told_about_and_others_go_on};
use crate::probes::{probes_decide_about_active_and_restart, probes_look_into_native_services};
use crate::quotas::{
    a_storage_without_quotas_is_limited_by_its_image, crun_keeps_each_limit, runc_keeps_each_limit,
    storage_and_state_are_limited_by_user_quota, storage_and_state_are_limited_on_btrfs,
    what_cannot_be_limited_is_refused_if_wanted,
};
use crate::requests::{cm_may_hang_up_at_any_time, requests_beside_instances_are_answered};
use crate::resources::{
    a_shared_resource_is_given_to_as_many_as_it_allows, an_instance_gets_what_the_resource_says_and_no_more,
    what_a_node_does_not_have_fails_the_instance,
};
use crate::running::{
    crun_runs_an_instance_as_asked, runc_runs_an_instance_as_asked,
    state_and_storage_belong_to_the_instance_and_last,
};
use crate::secure::{
    a_new_certificate_is_shown_on_a_new_stream, a_start_without_iam_goes_by_what_it_said_last,
    without_a_certificate_only_where_it_is_asked_for,
};
use crate::survival::{
    a_dead_keeper_is_replaced_and_containers_go_on, a_start_that_loses_its_keeper_is_tried_again,
    an_exit_without_service_manager_is_learned_later, containers_survive_the_death_of_the_service_manager,
    killed_at_any_moment_an_instance_runs_once, stored_instances_start_without_cm_after_a_reboot,
    what_a_dead_service_manager_froze_goes_on,
};
use crate::updates::{
    a_request_during_a_launch_is_carried_out_too, an_installation_nobody_wants_any_more_ends,
    an_update_keeps_the_version_before, the_stop_of_an_unknown_instance_harms_nobody,
    what_cannot_be_read_is_answered_as_failed, what_is_of_a_component_is_refused,
};
use crate::vlans::{an_instance_is_reached_over_its_vlan, vlans_are_filtered_like_bridges};
use crate::watch::{
    a_busy_instance_is_measured_and_alerted_about, components_are_heard_without_a_journal,
    ends_of_instances_are_alerts_with_their_reasons, the_journal_is_alerted_about_once,
};

type Test = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// Every test by name.
        pub const ALL: &[(&str, Test)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

tests! {
    crun_keeps_each_limit,
    runc_keeps_each_limit,
    storage_and_state_are_limited_on_btrfs,
    a_storage_without_quotas_is_limited_by_its_image,
    what_cannot_be_limited_is_refused_if_wanted,
    a_shared_resource_is_given_to_as_many_as_it_allows,
    what_a_node_does_not_have_fails_the_instance,
    an_instance_gets_what_the_resource_says_and_no_more,
    crun_runs_an_instance_as_asked,
    runc_runs_an_instance_as_asked,
    containers_survive_the_death_of_the_service_manager,
    an_exit_without_service_manager_is_learned_later,
    a_dead_keeper_is_replaced_and_containers_go_on,
    a_start_that_loses_its_keeper_is_tried_again,
    a_crash_loop_ends_after_the_burst_with_the_exit_code,
    a_blob_with_a_wrong_digest_is_never_installed,
    a_missing_layer_is_reported_and_fetched_when_it_is_there,
    layers_are_stacked_in_order_with_whiteouts,
    nginx_serves_from_layers_of_every_packing,
    an_image_made_by_umoci_runs,
    limits_of_memory_and_processes_hold,
    stored_instances_start_without_cm_after_a_reboot,
    what_is_stopped_leaves_nothing_behind,
    a_stubborn_process_is_killed_after_the_grace_time,
    state_and_storage_belong_to_the_instance_and_last,
    cm_may_hang_up_at_any_time,
    requests_beside_instances_are_answered,
    log_lines_have_times_and_crashes_are_told,
    the_system_log_comes_from_the_journal,
    a_log_is_followed_over_the_keepers_cuts,
    figures_are_those_of_a_known_load,
    a_busy_instance_is_measured_and_alerted_about,
    the_journal_is_alerted_about_once,
    components_are_heard_without_a_journal,
    ends_of_instances_are_alerts_with_their_reasons,
    killed_at_any_moment_an_instance_runs_once,
    a_native_service_has_user_files_and_limits,
    a_native_service_has_its_own_network_when_configured,
    native_services_survive_and_leave_nothing_behind,
    probes_decide_about_active_and_restart,
    probes_look_into_native_services,
    a_hanging_runtime_holds_nobody_else_up,
    changed_variables_keep_state_and_others,
    the_time_without_the_cloud_is_kept_over_restarts,
    what_a_dead_service_manager_froze_goes_on,
    an_update_keeps_the_version_before,
    a_request_during_a_launch_is_carried_out_too,
    the_stop_of_an_unknown_instance_harms_nobody,
    what_cannot_be_read_is_answered_as_failed,
    what_is_of_a_component_is_refused,
    an_installation_nobody_wants_any_more_ends,
    hostile_services_are_told_about_and_others_go_on,
    hostile_images_fail_with_a_reason,
    a_new_certificate_is_shown_on_a_new_stream,
    without_a_certificate_only_where_it_is_asked_for,
    a_start_without_iam_goes_by_what_it_said_last,
    two_hundred_kills_during_churn_leave_nothing_behind,
    names_resolve_whoever_is_killed,
    a_name_belongs_to_one_instance,
    a_stream_begins_in_order_and_ends_with_a_pause,
    cm_and_cloud_are_lost_together,
    a_slow_cm_holds_nothing_up,
    what_happened_without_cm_is_told_later,
    the_destination_and_the_source_must_both_allow_a_connection,
    the_order_of_starts_means_nothing_to_the_firewall,
    rules_that_come_later_are_appended_once,
    no_packet_is_lost_while_the_manager_restarts,
    the_last_stop_leaves_no_network,
    bandwidth_is_bounded_both_ways,
    public_traffic_is_counted_bounded_and_kept,
    public_uploads_are_bounded_by_themselves,
    a_withdrawn_rule_ends_what_it_let_begin,
    an_address_that_changes_hands_brings_no_connections_along,
    an_impossible_rule_fails_its_instance_alone,
    a_dead_neighbour_leaves_the_network_as_it_is,
    a_filter_that_was_emptied_is_filled_again,
}

/// Tests for other kernels, by name: `other_kernel` runs them, or a machine that has the program under their name.
pub const ELSEWHERE: &[(&str, Test)] = &[
    ("storage_and_state_are_limited_by_user_quota", || {
        Box::pin(storage_and_state_are_limited_by_user_quota())
    }),
    ("an_instance_is_reached_over_its_vlan", || Box::pin(an_instance_is_reached_over_its_vlan())),
    ("vlans_are_filtered_like_bridges", || Box::pin(vlans_are_filtered_like_bridges())),
];

/// The test of a name.
pub fn find(name: &str) -> Option<&'static (&'static str, Test)> {
    ALL.iter().chain(ELSEWHERE).find(|(known, _)| *known == name)
}

pub fn with_tmp() -> serde_json::Value {
    json!({"created": "2026-01-01T00:00:00Z", "quotas": {"tmpLimit": 1_048_576}})
}

pub fn number(value: &serde_json::Value) -> i32 {
    i32::try_from(value.as_i64().unwrap_or(0)).unwrap()
}

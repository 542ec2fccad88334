//! Every test by name.

use std::future::Future;
use std::pin::Pin;

use crate::confined::{
    a_network_parameter_of_another_kind_is_refused, a_profile_of_system_calls_can_be_chosen,
    crun_confines_what_it_runs, data_stays_the_instances_own_in_both_modes, runc_confines_what_it_runs,
};
use crate::hostile::hostile_services_are_contained;
use crate::life::{
    a_runtime_that_fails_or_hangs_leaves_nothing, crun_ends_every_process, crun_runs_commands_inside,
    leftovers_go_and_what_runs_is_not_disturbed, runc_ends_every_process, runc_runs_commands_inside,
};
use crate::software::{
    nginx_serves_in_both_modes, python_runs_and_forbidden_calls_fail, the_host_is_the_base_only_where_asked,
};

type Test = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// Every test by name.
        pub const ALL: &[(&str, Test)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

tests! {
    crun_confines_what_it_runs,
    runc_confines_what_it_runs,
    data_stays_the_instances_own_in_both_modes,
    a_network_parameter_of_another_kind_is_refused,
    a_profile_of_system_calls_can_be_chosen,
    crun_ends_every_process,
    runc_ends_every_process,
    crun_runs_commands_inside,
    runc_runs_commands_inside,
    a_runtime_that_fails_or_hangs_leaves_nothing,
    leftovers_go_and_what_runs_is_not_disturbed,
    nginx_serves_in_both_modes,
    the_host_is_the_base_only_where_asked,
    python_runs_and_forbidden_calls_fail,
    hostile_services_are_contained,
}

/// The test of a name.
pub fn find(name: &str) -> Option<&'static (&'static str, Test)> {
    ALL.iter().find(|(known, _)| *known == name)
}

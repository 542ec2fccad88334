//! Clocks that are wrong.

use rustls_pki_types::UnixTime;

use super::authority::Authority;
use crate::{TimeBasis, chains_to, raise_time_floor, time_floor};
use rustls::time_provider::TimeProvider as _;

#[test]
fn the_floor_never_sinks_and_checks_are_not_before_it() {
    raise_time_floor(1000);
    raise_time_floor(500);
    assert!(time_floor() >= 1000);
    assert_eq!(TimeBasis::Floor.current_time().unwrap().as_secs(), time_floor());
    assert!(TimeBasis::Clock.current_time().unwrap() >= UnixTime::now());
    // After 2100, so that it stays the highest whatever other tests prove.
    let future = 4_200_000_000;
    raise_time_floor(future);
    assert_eq!(TimeBasis::Clock.current_time().unwrap().as_secs(), future);
}

#[test]
fn a_chain_is_checked_whatever_the_time() {
    let (ca, foreign) = (Authority::new("root"), Authority::new("other"));
    let year = |from: i32| {
        ca.issue_with("unit", |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(from + 1, 1, 1);
        })
    };
    assert!(chains_to(&ca.roots, &year(2020).cert));
    assert!(chains_to(&ca.roots, &year(2060).cert));
    assert!(!chains_to(&foreign.roots, &year(2020).cert));
    assert!(!chains_to(&ca.roots, &[]));
}

//! Storms in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn settings(rate: f64, burst: f64) -> Settings {
    Settings { admissions_per_second: rate, admission_burst: burst, ..Settings::default() }
}

fn unit(number: usize) -> SystemId {
    SystemId::new(format!("unit-{number}")).unwrap()
}

/// Even numbers in 0..1, without a generator.
fn jitter(number: usize) -> f64 {
    f64::from(u32::try_from(number.wrapping_mul(2_654_435_761) % 1000).unwrap()) / 1000.0
}

/// What a storm looked like from outside.
struct Storm {
    /// Sessions opened in each second.
    opened: BTreeMap<u64, usize>,
    /// Most discoveries that one Unit made.
    asked: usize,
    /// When the last one was in.
    last: Duration,
}

/// `count` Units that come within `within`; each does what it is told, with the given early or late arrival.
fn storm(settings: &Settings, count: usize, within: Duration, slack: impl Fn(usize) -> Duration) -> Storm {
    let start = Instant::now();
    let mut arrivals = Arrivals::new(settings, start);
    let mut due: BTreeMap<(Duration, usize), usize> =
        (0..count).map(|number| ((within.mul_f64(jitter(number)), number), 1)).collect();
    let mut storm = Storm { opened: BTreeMap::new(), asked: 0, last: Duration::ZERO };
    while let Some(((at, number), asked)) = due.pop_first() {
        assert!(asked < 100, "a Unit is put off for ever");
        storm.asked = storm.asked.max(asked);
        match arrivals.discover(start + at, &unit(number), jitter(number)) {
            Arrival::Welcome(delay) => {
                assert!((MIN_DELAY..=MAX_DELAY).contains(&delay), "{delay:?}");
                assert!(arrivals.upgrade(start + at, &unit(number)), "welcome, then refused");
                *storm.opened.entry(at.as_secs()).or_default() += 1;
                storm.last = storm.last.max(at);
            }
            Arrival::Later(delay) => {
                assert!((MIN_DELAY..=MAX_LATER).contains(&delay), "{delay:?}");
                due.insert((at + delay + slack(number), number), asked + 1);
            }
        }
    }
    storm
}

#[test]
fn ordinary_days_need_no_waiting() {
    let calm = storm(&settings(200.0, 1000.0), 900, Duration::from_secs(1), |_| Duration::ZERO);
    assert_eq!((calm.asked, calm.last.as_secs()), (1, 0));
}

#[test]
fn a_storm_passes_at_the_rate_and_puts_nobody_off_twice() {
    let rate = settings(200.0, 1000.0);
    for slack in [Duration::ZERO, Duration::from_millis(1500)] {
        let storm = storm(&rate, 10_000, Duration::from_secs(3), |number| slack.mul_f64(jitter(number)));
        assert_eq!(storm.asked, 2);
        // (10,000 - 1000) / 200 s, and what the last one dawdled.
        assert!((44..=47).contains(&storm.last.as_secs()), "{:?}", storm.last);
        for (second, opened) in &storm.opened {
            let most = if *second < 3 { 1000 + 3 * 200 } else { 500 };
            assert!(*opened <= most, "{opened} in second {second}");
        }
        assert_eq!(storm.opened.values().sum::<usize>(), 10_000);
    }
}

#[test]
fn a_storm_beyond_all_places_still_ends() {
    // 5 a second: ten minutes hold 3000 places.
    let storm = storm(&settings(5.0, 10.0), 8000, Duration::from_secs(1), |_| Duration::ZERO);
    assert!(storm.asked >= 3);
    assert!(storm.opened.values().all(|opened| *opened <= 20));
    assert_eq!(storm.opened.values().sum::<usize>(), 8000);
    // At the rate alone it takes 1598 s; gaps of the ten minutes' rhythm come on top.
    assert!(storm.last < Duration::from_hours(1), "{:?}", storm.last);
}

#[test]
fn who_skips_discovery_waits_in_line_too() {
    let now = Instant::now();
    let mut arrivals = Arrivals::new(&settings(1.0, 2.0), now);
    assert!(arrivals.upgrade(now, &unit(1)));
    assert!(arrivals.upgrade(now, &unit(2)));
    assert!(!arrivals.upgrade(now, &unit(3)));
    let Arrival::Later(delay) = arrivals.discover(now, &unit(3), 0.5) else { panic!("there is no room") };
    assert!(!arrivals.upgrade(now, &unit(3)), "its place is not yet");
    assert!(!arrivals.upgrade(now + delay, &unit(4)), "the place is another's");
    assert!(arrivals.upgrade(now + delay, &unit(3)));
}

#[test]
fn delays_grow_with_the_load() {
    let now = Instant::now();
    let mut arrivals = Arrivals::new(&settings(10.0, 100.0), now);
    let Arrival::Welcome(calm) = arrivals.discover(now, &unit(0), 1.0) else { panic!("there is room") };
    for number in 1..99 {
        assert!(arrivals.upgrade(now, &unit(number)));
    }
    let Arrival::Welcome(busy) = arrivals.discover(now, &unit(99), 1.0) else { panic!("there is room") };
    assert!(calm < Duration::from_secs(3) && busy > Duration::from_secs(9), "{calm:?} {busy:?}");
}

#[test]
fn memory_is_bounded_and_places_are_forgotten() {
    let now = Instant::now();
    let mut arrivals = Arrivals::new(&settings(1000.0, 1.0), now);
    for number in 0..3 * MAX_PLACES {
        arrivals.discover(now, &unit(number), 0.5);
    }
    assert!(arrivals.places.len() <= MAX_PLACES && arrivals.order.len() <= 2 * MAX_PLACES);
    let later = now + MAX_LATER + 2 * KEPT;
    assert!(matches!(arrivals.discover(later, &unit(5), 0.5), Arrival::Welcome(_)));
    assert!(arrivals.places.len() <= 1 && arrivals.order.len() <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn admissions_never_exceed_burst_and_rate(
        rate in 1_u32..200,
        burst in 1_u32..400,
        count in 1_usize..1500,
        within in 0_u64..20,
    ) {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        let storm = storm(&settings(rate, burst), count, Duration::from_secs(within), |_| Duration::ZERO);
        let mut sum = 0.0;
        for (second, opened) in &storm.opened {
            sum += f64::from(u32::try_from(*opened).unwrap());
            // Places may be taken half a second early, and never sooner than a second after asking.
            let passed = f64::from(u32::try_from(*second).unwrap()) + 2.5;
            prop_assert!(sum <= burst + 1.0 + rate * passed, "{sum} after {second} s");
        }
    }
}

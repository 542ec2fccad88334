use super::*;
use proptest::prelude::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn sequences_of_number_and_unit() {
    assert_eq!(parse("35s").unwrap(), secs(35));
    assert_eq!(parse("1h30m").unwrap(), secs(5400));
    assert_eq!(parse("30d").unwrap(), secs(30 * 86_400));
    assert_eq!(parse("2w").unwrap(), secs(14 * 86_400));
    assert_eq!(parse("1y").unwrap(), secs(31_556_952));
    assert_eq!(parse("1ms2us3ns"), Ok(Duration::from_nanos(1_002_003)));
    assert_eq!(parse("5µs"), Ok(Duration::from_micros(5)));
}

#[test]
fn iso_8601_with_fixed_order() {
    assert_eq!(parse("PT10S").unwrap(), secs(10));
    assert_eq!(parse("P1DT2H").unwrap(), secs(86_400 + 7200));
    assert_eq!(
        parse("P1Y2M3W4DT5H6M7S").unwrap(),
        secs(31_556_952 + 2 * 2_629_746 + 21 * 86_400 + 4 * 86_400 + 5 * 3600 + 6 * 60 + 7)
    );
    assert_eq!(parse("-PT0S").unwrap(), secs(0));
    for bad in ["P", "PT", "P1DT", "PT7D", "PT1S2M", "P1H", "PT1M1M", "PT1.5S", "p1d"] {
        assert!(matches!(parse(bad), Err(DurationError::NotADuration(_))), "{bad}");
    }
}

#[test]
fn bare_seconds_keep_milliseconds() {
    assert_eq!(parse("10").unwrap(), secs(10));
    assert_eq!(parse("10.4"), Ok(Duration::from_millis(10_400)));
    assert_eq!(parse("0.0005"), Ok(Duration::from_millis(1)));
    assert_eq!(parse("1.9999").unwrap(), secs(2));
    for bad in ["", " ", ".", "1.", ".5", "1.2.3", "10 parsecs", "1h30", "s", "1 s", "+1", "1e3"] {
        assert!(matches!(parse(bad), Err(DurationError::NotADuration(_))), "{bad}");
    }
}

#[test]
fn negative_and_endless_ones_are_refused() {
    assert!(matches!(parse("-1"), Err(DurationError::Negative(_))));
    assert!(matches!(parse("-PT1S"), Err(DurationError::Negative(_))));
    assert!(matches!(parse("99999999999999999999999s"), Err(DurationError::TooLong(_))));
    assert!(matches!(parse("600y"), Err(DurationError::TooLong(_))));
}

#[test]
fn written_as_every_unit_reads_it() {
    assert_eq!(format(Duration::ZERO), "PT0S");
    assert_eq!(format(Duration::from_secs(10)), "PT10S");
    assert_eq!(format(secs(30 * 86_400)), "P30D");
    assert_eq!(format(Duration::from_secs(93_784)), "P1DT2H3M4S");
    assert_eq!(format(Duration::from_millis(1500)), "1s500ms");
}

#[test]
fn json_values_of_all_kinds() {
    let read = |json| serde_json::from_str::<DurationText>(json).map(DurationText::get);
    assert_eq!(read("\"PT10S\"").unwrap(), Duration::from_secs(10));
    assert_eq!(read("10").unwrap(), Duration::from_secs(10));
    assert_eq!(read("10.4").unwrap(), Duration::from_millis(10_400));
    assert_eq!(read("\"10s\"").unwrap(), Duration::from_secs(10));
    for bad in ["null", "-1", "-0.5", "\"PT7D\"", "true", "1e300", "{}"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert_eq!(serde_json::to_string(&DurationText::from_secs(60)).unwrap(), "\"PT1M\"");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(nanos: u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(parse(&format(duration)), Ok(duration));
    }

    #[test]
    fn whole_seconds_read_back_from_iso(seconds in 0_u64..18_000_000_000) {
        let text = format(Duration::from_secs(seconds));
        prop_assert!(text.starts_with('P'));
        prop_assert_eq!(parse(&text).unwrap(), secs(seconds));
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn nothing_that_looks_like_one_panics(text in "-?P?([0-9.]{0,25}(ns|us|µs|[mshdwyYMWDTHS]|ms)?){0,6}") {
        let _ = parse(&text);
    }
}

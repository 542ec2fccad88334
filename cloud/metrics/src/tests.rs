use std::collections::HashSet;

use super::*;

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn what_is_counted_is_shown() {
    let metrics = Metrics::new();
    metrics.session_opened();
    metrics.session_opened();
    metrics.session_closed(Closed::Slow);
    metrics.received(MessageType::UnitStatus);
    metrics.refused(Refused::Rate);
    metrics.acked(Duration::from_millis(3));
    metrics.acked(Duration::from_mins(1));
    metrics.committed(Duration::from_millis(4), 12);
    let text = metrics.render();
    assert!((value(&text, "aos_gateway_sessions") - 1.0).abs() < 1e-9);
    for (series, expected) in [
        ("aos_gateway_sessions_total", 2.0),
        ("aos_gateway_closed_total{reason=\"slow\"}", 1.0),
        ("aos_gateway_closed_total{reason=\"peer\"}", 0.0),
        ("aos_gateway_messages_in_total{type=\"unitStatus\"}", 1.0),
        ("aos_gateway_messages_in_total{type=\"alerts\"}", 0.0),
        ("aos_gateway_refused_total{reason=\"rate\"}", 1.0),
        ("aos_gateway_ack_seconds_bucket{le=\"0.0025\"}", 0.0),
        ("aos_gateway_ack_seconds_bucket{le=\"0.005\"}", 1.0),
        ("aos_gateway_ack_seconds_bucket{le=\"10\"}", 1.0),
        ("aos_gateway_ack_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("aos_gateway_ack_seconds_sum", 60.003),
        ("aos_store_commit_jobs_bucket{le=\"16\"}", 1.0),
    ] {
        assert!((value(&text, series) - expected).abs() < 1e-9, "{series}");
    }
}

#[test]
fn every_series_comes_once_and_below_its_type() {
    let metrics = Metrics::new();
    metrics.show_listener(Arc::default());
    let text = metrics.render();
    let mut seen = HashSet::new();
    let mut typed = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap()), "{line}");
        } else if !line.starts_with('#') {
            let (series, number) = line.rsplit_once(' ').unwrap();
            assert!(number.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(series), "{line}");
            let family = series.split('{').next().unwrap();
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end));
            assert!(typed.contains(family) || bare.is_some_and(|bare| typed.contains(bare)), "{line}");
        }
    }
    assert!(seen.len() > 60);
}

#[test]
fn labels_index_their_counters() {
    for (at, why) in Refused::ALL.iter().enumerate() {
        assert_eq!(why.index(), at);
    }
    for (at, why) in Closed::ALL.iter().enumerate() {
        assert_eq!(why.index(), at);
    }
}

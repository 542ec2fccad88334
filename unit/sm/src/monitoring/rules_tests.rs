//! When alerts are raised, told again and ended.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// What a rule says to values that come one second after the other.
fn play(rule: Rule, values: &[u64]) -> Vec<(usize, QuotaStatus)> {
    let mut watcher = Watcher::new(rule);
    let mut now = Instant::now();
    let mut told = Vec::new();
    for (index, &value) in values.iter().enumerate() {
        told.extend(watcher.on(now, value).map(|status| (index, status)));
        now += SECOND;
    }
    told
}

/// A rule, values that come each second, and what is told with which of them.
type Case<'a> = (Rule, &'a [u64], &'a [(usize, QuotaStatus)]);

fn rule(min: u64, max: u64, seconds: u64) -> Rule {
    Rule { min, max, timeout: Duration::from_secs(seconds) }
}

// SM-61, SM-62
#[test]
fn an_alert_is_raised_told_again_and_ends() {
    use QuotaStatus::{Continue, Fall, Raise};
    let cases: &[Case<'_>] = &[
        // Too high for two seconds; a dip on the way begins anew.
        (rule(5, 10, 2), &[10, 9, 10, 10, 10], &[(4, Raise)]),
        // Between the thresholds a raised alert goes on, and none begins.
        (rule(5, 10, 2), &[7, 7, 7, 7], &[]),
        (rule(5, 10, 2), &[10, 11, 12, 5, 7, 5, 5], &[(2, Raise), (4, Continue), (6, Continue)]),
        // It ends when it was low for two seconds on end, however often it was told meanwhile.
        (rule(5, 10, 2), &[10, 10, 10, 4, 5, 4, 4, 4], &[(2, Raise), (4, Continue), (7, Fall)]),
        // After its end it begins from nothing.
        (rule(5, 10, 1), &[10, 10, 4, 4, 10, 10], &[(1, Raise), (3, Fall), (5, Raise)]),
        // Without a time: at once, each time, and down with the second low value.
        (
            rule(5, 10, 0),
            &[10, 10, 5, 4, 4, 4, 10],
            &[(0, Raise), (1, Continue), (2, Continue), (4, Fall), (6, Raise)],
        ),
    ];
    for (rule, values, expected) in cases {
        assert_eq!(play(*rule, values), *expected, "{rule:?} {values:?}");
    }
}

proptest! {
    // SM-61
    #[test]
    fn alerts_come_in_order_and_never_faster_than_their_time(
        values in proptest::collection::vec(0u64..20, 1..200),
        min in 0u64..20,
        above in 0u64..10,
        timeout in 0u64..5,
    ) {
        let rule = rule(min, min + above, timeout);
        let told = play(rule, &values);
        let mut raised = false;
        let mut last: Option<usize> = None;
        for (index, status) in told {
            match status {
                QuotaStatus::Raise => {
                    prop_assert!(!raised && values[index] >= rule.max);
                    let from = index - usize::try_from(timeout).unwrap();
                    prop_assert!(values[from..=index].iter().all(|&value| value >= rule.max));
                    raised = true;
                    last = Some(index);
                }
                QuotaStatus::Continue => {
                    prop_assert!(raised && values[index] >= rule.min);
                    prop_assert!((index - last.unwrap()) as u64 >= timeout);
                    last = Some(index);
                }
                QuotaStatus::Fall => {
                    prop_assert!(raised);
                    let from = index - usize::try_from(timeout).unwrap().max(1);
                    prop_assert!(values[from..=index].iter().all(|&value| value < rule.min));
                    raised = false;
                }
            }
        }
        // None is forgotten: at the end an alert is up if the values have been high for long enough.
        let tail = usize::try_from(timeout).unwrap() + 1;
        if values.len() >= tail && values[values.len() - tail..].iter().all(|&value| value >= rule.max) {
            prop_assert!(raised);
        }
        if values.len() > tail && values[values.len() - tail - 1..].iter().all(|&value| value < rule.min) {
            prop_assert!(!raised);
        }
    }
}

fn totals() -> Totals {
    Totals { dmips: 1000, ram: 8000, partitions: [("storages".to_owned(), 500)].into() }
}

// SM-52, PRO-50, DIS-26: percents with fractions, of the node; a partition the node lacks is left out.
#[test]
fn rules_of_nodes_and_instances_become_points() {
    let half = Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 });
    let percents =
        |min, max| Some(wire::AlertRulePercents { duration: half, min_threshold: min, max_threshold: max });
    let partition = |name: &str| wire::PartitionAlertRule {
        name: name.into(),
        duration: None,
        min_threshold: 10.0,
        max_threshold: 20.0,
    };
    let params = wire::MonitoringParameters {
        alert_rules: Some(wire::AlertRules {
            cpu: percents(12.5, 55.0),
            ram: percents(0.1, 100.0),
            partitions: vec![partition("storages"), partition("nobody's")],
            download: Some(wire::AlertRulePoints { duration: None, min_threshold: 7, max_threshold: 9 }),
            upload: None,
        }),
    };
    let timeout = Duration::from_millis(500);
    let expected: Wanted = [
        (Parameter::Cpu, Rule { min: 125, max: 550, timeout }),
        (Parameter::Ram, Rule { min: 8, max: 8000, timeout }),
        (Parameter::Download, rule(7, 9, 0)),
        (Parameter::Partition("storages".into()), rule(50, 100, 0)),
    ]
    .into();
    assert_eq!(of_instance(&params, &totals()), expected);
    assert_eq!(of_instance(&wire::MonitoringParameters::default(), &totals()), Wanted::new());

    let text = r#"{"cpu": {"minTimeout": "500ms", "minThreshold": 12.5, "maxThreshold": 55},
        "ram": {"minTimeout": "500ms", "minThreshold": 0.1, "maxThreshold": 100},
        "partitions": [{"name": "storages", "minThreshold": 10, "maxThreshold": 20},
                       {"name": "nobody's", "minThreshold": 10, "maxThreshold": 20}],
        "download": {"minThreshold": 7, "maxThreshold": 9}}"#;
    assert_eq!(of_node(&serde_json::from_str(text).unwrap(), &totals()), expected);
}

// SM-61
#[test]
fn a_rule_that_stays_goes_on_when_others_change() {
    let mut rules = Rules::default();
    let (cpu, ram) = (rule(5, 10, 1), rule(50, 100, 1));
    rules.set([(Parameter::Cpu, cpu), (Parameter::Ram, ram)].into());
    let now = Instant::now();
    let sample = Sample { cpu: 9.6, ram: 100, ..Sample::default() };
    assert_eq!(rules.on(now, &sample), []);
    rules.set([(Parameter::Cpu, cpu), (Parameter::Ram, rule(50, 90, 1)), (Parameter::Upload, ram)].into());
    let raised = |parameter, value| Told { parameter, value, status: QuotaStatus::Raise };
    // The CPU's value is rounded; the memory's rule is new; nobody counts what is sent.
    assert_eq!(rules.on(now + SECOND, &sample), [raised(Parameter::Cpu, 10)]);
    assert_eq!(rules.on(now + 2 * SECOND, &sample).len(), 2);
    rules.set(Wanted::new());
    assert_eq!(rules.on(now + 3 * SECOND, &sample), []);
}

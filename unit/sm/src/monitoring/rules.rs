//! When a value raises an alert, keeps it up and ends it. Pure.
//!
//! A value at or above `max` for `timeout` raises; while it stays at or above `min` the alert is told again
//! every `timeout`; below `min` for `timeout` it falls. A rule that has not changed goes on where it was when
//! its neighbours change.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aos_item_format as item;
use aos_unit_api::servicemanager::v5 as wire;

use super::sample::Sample;
use crate::alerts::QuotaStatus;

/// Most rules for partitions of one set.
const MAX_PARTITIONS: usize = 16;

/// One rule, in the units of the value it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Below it the alert ends.
    pub min: u64,
    /// From it on the alert is raised.
    pub max: u64,
    /// How long a value must last.
    pub timeout: Duration,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parameter {
    /// CPU, DMIPS.
    Cpu,
    /// Memory, bytes.
    Ram,
    /// Bytes received today.
    Download,
    /// Bytes sent today.
    Upload,
    /// Bytes in use of a partition.
    Partition(String),
}

impl Parameter {
    /// Its name as peers have it.
    pub fn word(&self) -> &str {
        match self {
            Self::Cpu => "cpu",
            Self::Ram => "ram",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Partition(name) => name,
        }
    }
}

/// What percents are percents of.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Computing power of the node, DMIPS.
    pub dmips: u64,
    /// Its memory, bytes.
    pub ram: u64,
    /// Its partitions, bytes.
    pub partitions: BTreeMap<String, u64>,
}

/// Rules by what they look at.
pub type Wanted = BTreeMap<Parameter, Rule>;

/// Rules of the node's configuration; one for a partition that the node does not have is left out.
pub fn of_node(rules: &item::AlertRules, totals: &Totals) -> Wanted {
    let percent = |rule: &item::PercentRule, total: u64| {
        by_percent(rule.min_threshold, rule.max_threshold, rule.min_timeout.get(), total)
    };
    let points = |rule: &item::PointsRule| Rule {
        min: rule.min_threshold,
        max: rule.max_threshold,
        timeout: rule.min_timeout.get(),
    };
    let partitions = rules.partitions.iter().take(MAX_PARTITIONS).filter_map(|one| {
        let total = totals.partitions.get(&one.name)?;
        Some((Parameter::Partition(one.name.clone()), percent(&one.rule, *total)))
    });
    [
        rules.cpu.map(|rule| (Parameter::Cpu, percent(&rule, totals.dmips))),
        rules.ram.map(|rule| (Parameter::Ram, percent(&rule, totals.ram))),
        rules.download.map(|rule| (Parameter::Download, points(&rule))),
        rules.upload.map(|rule| (Parameter::Upload, points(&rule))),
    ]
    .into_iter()
    .flatten()
    .chain(partitions)
    .collect()
}

/// Rules of an instance's monitoring parameters.
pub fn of_instance(params: &wire::MonitoringParameters, totals: &Totals) -> Wanted {
    let Some(rules) = &params.alert_rules else { return Wanted::new() };
    let percent = |rule: &wire::AlertRulePercents, total: u64| {
        by_percent(rule.min_threshold, rule.max_threshold, duration(rule.duration), total)
    };
    let points = |rule: &wire::AlertRulePoints| Rule {
        min: rule.min_threshold,
        max: rule.max_threshold,
        timeout: duration(rule.duration),
    };
    let partitions = rules.partitions.iter().take(MAX_PARTITIONS).filter_map(|one| {
        let total = totals.partitions.get(&one.name)?;
        let rule = by_percent(one.min_threshold, one.max_threshold, duration(one.duration), *total);
        Some((Parameter::Partition(one.name.clone()), rule))
    });
    [
        rules.cpu.map(|rule| (Parameter::Cpu, percent(&rule, totals.dmips))),
        rules.ram.map(|rule| (Parameter::Ram, percent(&rule, totals.ram))),
        rules.download.map(|rule| (Parameter::Download, points(&rule))),
        rules.upload.map(|rule| (Parameter::Upload, points(&rule))),
    ]
    .into_iter()
    .flatten()
    .chain(partitions)
    .collect()
}

fn duration(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a u64, cut to its range; 2^-53 of it is nobody's concern"
)]
fn by_percent(min: f64, max: f64, timeout: Duration, total: u64) -> Rule {
    // The nearest whole number: 55 % of 1000 must not become 551 because 0.55 has no exact form.
    let points = |percent: f64| (total as f64 * percent / 100.0).round() as u64;
    Rule { min: points(min), max: points(max), timeout }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { high_since: Option<Instant> },
    Raised { told: Instant, low_since: Option<Instant> },
}

/// A rule at work.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watcher {
    rule: Rule,
    state: State,
}

impl Watcher {
    fn new(rule: Rule) -> Self {
        Self { rule, state: State::Idle { high_since: None } }
    }

    fn on(&mut self, now: Instant, value: u64) -> Option<QuotaStatus> {
        let Rule { min, max, timeout } = self.rule;
        let lasted = |since: Instant| now.saturating_duration_since(since) >= timeout;
        match &mut self.state {
            State::Idle { high_since } if value >= max => {
                if !lasted(*high_since.get_or_insert(now)) {
                    return None;
                }
                self.state = State::Raised { told: now, low_since: None };
                Some(QuotaStatus::Raise)
            }
            State::Idle { high_since } => {
                *high_since = None;
                None
            }
            State::Raised { told, low_since } if value >= min => {
                *low_since = None;
                lasted(*told).then(|| {
                    *told = now;
                    QuotaStatus::Continue
                })
            }
            State::Raised { low_since, .. } => match *low_since {
                Some(since) if lasted(since) => {
                    self.state = State::Idle { high_since: None };
                    Some(QuotaStatus::Fall)
                }
                Some(_) => None,
                None => {
                    *low_since = Some(now);
                    None
                }
            },
        }
    }
}

/// An alert to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// About what.
    pub parameter: Parameter,
    /// The value now.
    pub value: u64,
    /// What happened.
    pub status: QuotaStatus,
}

/// The rules of one node or instance at work.
#[derive(Debug, Default)]
pub struct Rules {
    watchers: BTreeMap<Parameter, Watcher>,
}

impl Rules {
    /// Takes these rules from now on; those that are as before go on where they are.
    pub fn set(&mut self, wanted: Wanted) {
        let mut before = std::mem::take(&mut self.watchers);
        for (parameter, rule) in wanted {
            let known = before.remove(&parameter).filter(|known| known.rule == rule);
            self.watchers.insert(parameter, known.unwrap_or_else(|| Watcher::new(rule)));
        }
    }

    /// Looks at a sample; a value that it lacks changes nothing.
    pub fn on(&mut self, now: Instant, sample: &Sample) -> Vec<Told> {
        let looked = self.watchers.iter_mut().filter_map(|(parameter, watcher)| {
            let value = sample.value(parameter)?;
            let status = watcher.on(now, value)?;
            Some(Told { parameter: parameter.clone(), value, status })
        });
        looked.collect()
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;

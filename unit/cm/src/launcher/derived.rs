//! What follows from the records and the nodes' last words: statuses, and what each node has to be told.

use std::collections::BTreeSet;

use aos_ids::{InstanceIdent, ItemKind, NodeId};
use aos_status::{AosCode, ErrorInfo, InstanceState};

use super::core::Launcher;
use super::records::{Key, Record, Report, Status};

/// What a node has to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Instances to stop.
    pub stop: Vec<InstanceIdent>,
    /// All instances that should run there.
    pub start: Vec<(Key, Record)>,
    /// False when the node does all of it already.
    pub needed: bool,
}

impl Launcher {
    /// Takes the complete word of a node.
    pub fn node_reports(&mut self, node: &NodeId, reports: Vec<Report>) {
        for report in &reports {
            self.failures.remove(&(report.ident.clone(), report.version.clone()));
        }
        self.reports.insert(node.clone(), reports);
    }

    /// Takes a word about single instances of a node.
    pub fn update_reports(&mut self, node: &NodeId, reports: Vec<Report>) {
        let known = self.reports.entry(node.clone()).or_default();
        for report in reports {
            self.failures.remove(&(report.ident.clone(), report.version.clone()));
            known.retain(|old| old.ident != report.ident || old.version != report.version);
            known.push(report);
        }
    }

    /// Gives up waiting for instances that are still starting; a later word of the node repairs it.
    pub fn fail_starting(&mut self) {
        let starting: Vec<Key> = self
            .active()
            .filter(|(key, record)| {
                key.0.kind == ItemKind::Service && self.state(key, record).0 == InstanceState::Activating
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in starting {
            self.failures.insert(key, ErrorInfo::new(AosCode::Timeout, "not started in time"));
        }
    }

    /// The last word of its node about an instance that should run.
    pub fn report_of(&self, key: &Key) -> Option<&Report> {
        self.report(key, self.records.get(key)?)
    }

    fn report(&self, key: &Key, record: &Record) -> Option<&Report> {
        self.reports.get(record.node.as_ref()?)?.iter().find(|report| {
            report.ident == key.0 && report.version == key.1 && report.runtime == record.runtime
        })
    }

    fn state(&self, key: &Key, record: &Record) -> (InstanceState, Option<ErrorInfo>) {
        if let Some(error) = self.failures.get(key) {
            return (InstanceState::Failed, Some(error.clone()));
        }
        match self.report(key, record) {
            // Stopped for an offline limit; it is started again with the next command.
            Some(report) => (report.state, report.error.clone()),
            None => (InstanceState::Activating, None),
        }
    }

    /// Statuses of all instances that should run, then of those that the nodes came with.
    pub fn statuses(&self) -> Vec<Status> {
        let own = self.active().map(|(key, record)| {
            let (state, error) = self.state(key, record);
            Status {
                ident: key.0.clone(),
                version: key.1.clone(),
                node: record.node.clone(),
                runtime: record.runtime.clone(),
                state,
                error,
            }
        });
        let preinstalled = self.reports.iter().flat_map(|(node, reports)| {
            reports.iter().filter(|report| report.ident.preinstalled).map(|report| Status {
                ident: report.ident.clone(),
                version: report.version.clone(),
                node: Some(node.clone()),
                runtime: report.runtime.clone(),
                state: report.state,
                error: report.error.clone(),
            })
        });
        own.chain(preinstalled).collect()
    }

    /// Whether an instance that should run has not settled yet.
    pub fn starting(&self) -> bool {
        self.active().any(|(key, record)| self.state(key, record).0 == InstanceState::Activating)
    }

    /// What `node` has to be told now.
    pub fn command(&self, node: &NodeId) -> Command {
        let start: Vec<(Key, Record)> = self
            .active()
            .filter(|(_, record)| record.node.as_ref() == Some(node))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        let reports = self.reports.get(node).map_or(&[][..], Vec::as_slice);
        let stop: BTreeSet<InstanceIdent> = reports
            .iter()
            .filter(|report| {
                !report.ident.preinstalled
                    && report.state != InstanceState::Inactive
                    && !start.iter().any(|((ident, version), record)| {
                        *ident == report.ident
                            && *version == report.version
                            && record.runtime == report.runtime
                    })
            })
            .map(|report| report.ident.clone())
            .collect();
        let missing = start.iter().any(|(key, record)| {
            record.environment_untold
                || self.report(key, record).is_none_or(|report| report.state == InstanceState::Inactive)
        });
        Command { needed: missing || !stop.is_empty(), stop: stop.into_iter().collect(), start }
    }
}

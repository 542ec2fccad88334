//! Overridden variables: from the cloud's set to the instances, and what became of them back to the cloud.
//!
//! The set is stored by the transaction that accepts it, and so is the answer that is owed for it. The answer
//! goes out when all nodes concerned have carried the change out, or after a minute with what is known then.
//! A set that is replaced before is answered first. Variables that end take effect by a timer; since the
//! clock of a vehicle may be set, it is looked at once an hour while one waits.

use std::time::{Duration, Instant};

use aos_cloud_protocol::{AosIdentity, Body, EnvVarStatus, OverrideEnvVars, OverrideEnvVarsStatus};
use aos_ids::{InstanceIdent, ItemKind, NodeId};
use aos_status::{AosCode, ErrorInfo, InstanceState};
use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::super::coordinator::{Coordinator, CoordinatorError};
use crate::database::{self, StoreError};
use crate::envvars::Overrides;
use crate::launcher::core::Command;
use crate::launcher::records::{Record, Standing};
use crate::launcher::store;

/// The set in force.
const SET: &str = "overrides";
/// The answer that is owed for it.
const OWED: &str = "overrides_answer";
/// How long an answer waits for nodes.
const ANSWER_TIME: Duration = Duration::from_mins(1);
/// Longest sleep until a variable ends.
const MAX_SLEEP: Duration = Duration::from_hours(1);
/// Entries of one answer.
const MAX_STATUSES: usize = 4000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Owed {
    correlation: Option<String>,
    /// What was clear when the set came.
    clear: Vec<EnvVarStatus>,
}

/// The flow.
#[derive(Debug)]
pub struct EnvironmentFlow {
    overrides: Overrides,
    owed: Option<(Owed, Instant)>,
}

impl EnvironmentFlow {
    /// Takes up what is stored.
    pub fn load(db: &Connection) -> Result<Self, StoreError> {
        let overrides = database::document(db, SET)?.unwrap_or_default();
        let owed: Option<Option<Owed>> = database::document(db, OWED)?;
        let owed = owed.flatten().map(|owed| (owed, Instant::now() + ANSWER_TIME));
        Ok(Self { overrides, owed })
    }

    /// When it is to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        let end = self.overrides.next_end().map(|end| {
            let left = end.duration_since(Timestamp::now());
            Instant::now() + Duration::try_from(left).unwrap_or(Duration::ZERO).min(MAX_SLEEP)
        });
        end.into_iter().chain(self.owed.as_ref().map(|(_, until)| *until)).min()
    }
}

fn takes_variables(ident: &InstanceIdent, record: &Record) -> bool {
    ident.kind == ItemKind::Service && record.standing == Standing::Active
}

fn status(ident: &InstanceIdent, name: String, error: Option<ErrorInfo>) -> EnvVarStatus {
    EnvVarStatus {
        item: AosIdentity::by_id(ident.item.as_str()),
        subject: AosIdentity::by_id(ident.subject.as_str()),
        instance: ident.instance,
        name,
        error_info: error,
    }
}

impl Coordinator {
    /// A new set, within the transaction of its message.
    pub(in super::super) fn on_env_vars(
        &mut self,
        wish: &OverrideEnvVars,
        correlation: Option<String>,
    ) -> Result<(), CoordinatorError> {
        let overrides = match Overrides::accept(wish) {
            Ok(overrides) => overrides,
            Err(error) => {
                tracing::error!("override of variables: {error}; the former set stays");
                self.report_refused(&format!("override of variables: {error}"));
                // The form has no room for an error of the whole, so it names no instance.
                let none = OverrideEnvVarsStatus::default();
                return self.answer(Body::OverrideEnvVarsStatus(none), correlation);
            }
        };
        self.answer_env_vars(Some(&ErrorInfo::new(AosCode::Canceled, "replaced by a newer set")))?;
        let now = Timestamp::now();
        let mut clear = overrides.without_instance(|item, subject, number| {
            self.launcher.records().iter().any(|((ident, _), record)| {
                takes_variables(ident, record)
                    && (ident.item.as_str(), ident.subject.as_str(), ident.instance)
                        == (item, subject, number)
            })
        });
        for ((ident, _), record) in self.launcher.records() {
            if takes_variables(ident, record) {
                let refused = overrides.effect(ident, now).refused;
                clear.extend(refused.into_iter().map(|(name, error)| status(ident, name, Some(error))));
            }
        }
        let owed = Owed { correlation, clear };
        database::put_document(&self.parts.db, OWED, &Some(&owed))?;
        self.environment.owed = Some((owed, Instant::now() + ANSWER_TIME));
        self.environment.overrides = overrides;
        self.end_overrides()
    }

    /// Drops what has ended, and tells the nodes what changes by that.
    fn end_overrides(&mut self) -> Result<(), CoordinatorError> {
        self.transaction(|this| {
            this.environment.overrides.expire(Timestamp::now());
            database::put_document(&this.parts.db, SET, &this.environment.overrides)?;
            this.set_environments()?;
            for node in this.links.nodes() {
                this.command(&node);
            }
            this.answer_if_settled()
        })
    }

    /// Gives the instances the environments that the set says.
    pub(in super::super) fn set_environments(&mut self) -> Result<(), CoordinatorError> {
        let now = Timestamp::now();
        let overrides = &self.environment.overrides;
        let changes = self.launcher.set_environments(|ident| overrides.effect(ident, now).environment);
        Ok(store::apply(&mut self.parts.db, &changes)?)
    }

    /// A node has carried out what it was told.
    pub(in super::super) fn environments_told(
        &mut self,
        node: &NodeId,
        command: &Command,
    ) -> Result<(), CoordinatorError> {
        let changes = self.launcher.environments_told(command);
        if changes.is_empty() {
            return Ok(());
        }
        tracing::info!("node {node}: {} instances have their variables", changes.len());
        self.transaction(|this| {
            store::apply(&mut this.parts.db, &changes)?;
            this.answer_if_settled()
        })
    }

    /// The time of a variable or of an answer has come.
    pub(in super::super) fn on_env_time(&mut self) -> Result<(), CoordinatorError> {
        if self.environment.overrides.next_end().is_some_and(|end| end <= Timestamp::now()) {
            tracing::info!("overridden variables have ended");
            self.end_overrides()?;
        }
        if self.environment.owed.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            self.answer_env_vars(None)?;
        }
        Ok(())
    }

    fn answer_if_settled(&mut self) -> Result<(), CoordinatorError> {
        let mut records = self.launcher.records().values();
        let open = records.any(|record| record.environment_untold && record.node.is_some());
        if open { Ok(()) } else { self.answer_env_vars(None) }
    }

    /// Gives the answer that is owed; what no node has confirmed fails with `open`.
    fn answer_env_vars(&mut self, open: Option<&ErrorInfo>) -> Result<(), CoordinatorError> {
        let Some((owed, _)) = self.environment.owed.take() else { return Ok(()) };
        let mut statuses = owed.clear;
        for (key, record) in self.launcher.records() {
            let ident = &key.0;
            if !takes_variables(ident, record) {
                continue;
            }
            let report = self.launcher.report_of(key);
            let common = match (&record.node, report) {
                (None, _) => Some(ErrorInfo::new(AosCode::Failed, "the instance has no node")),
                (Some(node), _) if record.environment_untold => {
                    let late = format!("node {node} has not confirmed it yet");
                    Some(open.cloned().unwrap_or_else(|| ErrorInfo::new(AosCode::Timeout, late)))
                }
                (_, Some(report)) if report.state == InstanceState::Failed => report.error.clone(),
                _ => None,
            };
            for (name, _) in &record.environment {
                let own = report.and_then(|report| {
                    report.env_errors.iter().find(|(known, _)| known == name).map(|(_, error)| error.clone())
                });
                statuses.push(status(ident, name.clone(), own.or_else(|| common.clone())));
            }
        }
        if statuses.len() > MAX_STATUSES {
            let surplus = statuses.len() - MAX_STATUSES;
            self.report(&format!("{surplus} statuses of overridden variables are left out"));
            statuses.truncate(MAX_STATUSES);
        }
        self.transaction(|this| {
            database::put_document(&this.parts.db, OWED, &None::<Owed>)?;
            let answer = OverrideEnvVarsStatus { statuses };
            this.answer(Body::OverrideEnvVarsStatus(answer), owed.correlation)
        })
    }
}

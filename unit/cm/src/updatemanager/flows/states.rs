//! States of instances between their files and the cloud.
//!
//! A new state becomes a message when there is a link: until then the file itself keeps it, and a later
//! one takes its place. What the cloud was sent, or sent, is stored with the message that tells of it.

use std::time::Instant;

use aos_cloud_protocol::{AosIdentity, Body, InstanceStateData, StateAcceptance, StateRequest};
use aos_ids::InstanceIdent;
use aos_status::{AosCode, ErrorInfo};

use super::super::coordinator::{Coordinator, CoordinatorError};
use crate::launcher::records::{Key, Record, Standing};
use crate::storagestate::StorageState;
use crate::storagestate::exchange::{self, Verdict};
use crate::storagestate::states::Look;

impl Coordinator {
    /// Follows the states of what should run since the last run.
    pub(in super::super) fn take_up_states(&mut self) -> Result<(), CoordinatorError> {
        let records: Vec<(Key, Record)> =
            self.launcher.records().iter().map(|(key, record)| (key.clone(), record.clone())).collect();
        for ((ident, _), record) in records.iter().filter(|(_, record)| has_state(record)) {
            if self.states.known(ident).is_none() {
                self.set_up_state(ident, record)?;
            } else {
                self.follow_state(ident, record);
                let asked = self.states.checksum(ident).is_none();
                if asked && self.states.content(ident).is_ok_and(|content| content.is_empty()) {
                    continue;
                }
                // It may have been written to meanwhile.
                let now = Instant::now();
                self.states.look_at(ident, now, now);
            }
        }
        self.write_states()
    }

    /// Follows the state of an instance that got a place, and asks for it when the file is not the one known.
    pub(in super::super) fn set_up_state(
        &mut self,
        ident: &InstanceIdent,
        record: &Record,
    ) -> Result<(), CoordinatorError> {
        if !has_state(record) {
            if !self.launcher.records().iter().any(|((known, _), record)| known == ident && has_state(record))
            {
                self.states.leave(ident);
            }
            return Ok(());
        }
        if !self.follow_state(ident, record) {
            return Ok(());
        }
        if self.states.is_pending(ident) {
            return self.write_state(ident);
        }
        match self.states.look(ident) {
            Ok(Some(Look::New(content))) if content.is_empty() || self.states.known(ident).is_some() => {
                self.ask_for_state(ident)?;
            }
            Ok(Some(Look::New(_))) => {
                // Nobody knows where it comes from, so the cloud does not have it.
                let now = Instant::now();
                self.states.look_at(ident, now, now);
            }
            Ok(_) => {}
            Err(error) => tracing::error!("the state of {ident} cannot be read: {error}"),
        }
        Ok(())
    }

    fn follow_state(&mut self, ident: &InstanceIdent, record: &Record) -> bool {
        let paths = StorageState::paths(ident, record);
        self.states.follow(ident, &paths.state, record.extras.state)
    }

    fn ask_for_state(&mut self, ident: &InstanceIdent) -> Result<(), CoordinatorError> {
        let (item, subject) = identities(ident);
        tracing::info!("asking the cloud for the state of {ident}");
        let question = StateRequest { item, subject, instance: ident.instance, default: false };
        self.transaction(|this| {
            // From now on the state is one that both sides talk about.
            this.states.change(&this.parts.db, ident, |_| {})?;
            this.answer(Body::StateRequest(question), None)
        })
    }

    /// Looks at files that have been quiet since they were written to.
    pub(in super::super) fn look_at_states(&mut self) -> Result<(), CoordinatorError> {
        if !*self.parts.cloud.connected().borrow() {
            return Ok(());
        }
        for ident in self.states.due(Instant::now()) {
            if self.states.is_pending(&ident) {
                // What could not be written before comes first: told now, it would later be overwritten.
                self.write_state(&ident)?;
                if let Err(error) = self.states.look(&ident) {
                    tracing::error!("the state of {ident} cannot be read: {error}");
                }
                continue;
            }
            match self.states.look(&ident) {
                Ok(Some(Look::New(content))) => self.tell_state(&ident, content)?,
                Ok(_) => {}
                Err(error) => tracing::error!("the state of {ident} cannot be read: {error}"),
            }
        }
        Ok(())
    }

    /// When a state is to be looked at; without a link there is no hurry.
    pub(in super::super) fn states_deadline(&self) -> Option<Instant> {
        if *self.parts.cloud.connected().borrow() { self.states.deadline() } else { None }
    }

    fn tell_state(&mut self, ident: &InstanceIdent, content: Vec<u8>) -> Result<(), CoordinatorError> {
        let checksum = exchange::checksum(&content);
        let state = match exchange::text(content) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!("the state of {ident} cannot be sent: {error}");
                self.report(&format!("state of instance {ident} cannot be sent: {error}"));
                return Ok(());
            }
        };
        tracing::info!("the state of {ident} is new, {} bytes", state.len());
        let (item, subject) = identities(ident);
        let message = InstanceStateData {
            item: Some(item),
            subject: Some(subject),
            instance: ident.instance,
            state_checksum: checksum.clone(),
            state,
        };
        self.transaction(|this| {
            this.states.change(&this.parts.db, ident, |known| known.reported = Some(checksum))?;
            this.answer(Body::NewState(message), None)
        })?;
        self.reporter.touch(Instant::now());
        Ok(())
    }

    /// The instance that a message about a state is about; the operator is told when there is none.
    fn stateful(
        &mut self,
        item: Option<&AosIdentity>,
        subject: Option<&AosIdentity>,
        instance: u64,
    ) -> Option<InstanceIdent> {
        let item = item.and_then(|item| item.item_id().ok());
        let subject = subject.and_then(|subject| subject.subject_id().ok());
        let found = item.zip(subject).and_then(|(item, subject)| {
            let fits = |ident: &&InstanceIdent| {
                ident.item == item && ident.subject == subject && ident.instance == instance
            };
            self.states.followed().iter().find(fits).cloned()
        });
        if found.is_none() {
            tracing::error!("a message of the cloud is about the state of an instance that is not here");
            self.report_refused("there is no such instance with a state");
        }
        found
    }

    /// The cloud's word about a state that it was sent.
    pub(in super::super) fn on_state_acceptance(
        &mut self,
        word: &StateAcceptance,
    ) -> Result<(), CoordinatorError> {
        let Some(ident) = self.stateful(Some(&word.item), Some(&word.subject), word.instance) else {
            return Ok(());
        };
        let mut verdict = Verdict::Outdated;
        self.states.change(&self.parts.db, &ident, |known| verdict = known.judge(word))?;
        match verdict {
            Verdict::Outdated => tracing::info!("a word about an earlier state of {ident} is ignored"),
            Verdict::Accepted => tracing::info!("the cloud has the state of {ident}"),
            Verdict::Rejected => {
                tracing::warn!("the cloud rejects the state of {ident}: {}", word.reason);
                self.ask_for_state(&ident)?;
            }
        }
        Ok(())
    }

    /// A state that the cloud wants the instance to have.
    pub(in super::super) fn on_update_state(
        &mut self,
        update: &InstanceStateData,
    ) -> Result<(), CoordinatorError> {
        let found = self.stateful(update.item.as_ref(), update.subject.as_ref(), update.instance);
        let Some(ident) = found else { return Ok(()) };
        let quota = self.states.quota(&ident).unwrap_or(0);
        if let Err(error) = exchange::verify(update, quota) {
            tracing::error!("a state for {ident} is refused: {error}");
            self.report_refused(&format!("state for instance {ident}: {error}"));
            return Ok(());
        }
        self.states.change(&self.parts.db, &ident, |known| known.replace(update.state.as_bytes()))?;
        self.reporter.touch(Instant::now());
        Ok(())
    }

    /// The cloud asks for a state, against the usual direction: it gets what the instance has.
    pub(in super::super) fn on_state_request(
        &mut self,
        question: &StateRequest,
    ) -> Result<(), CoordinatorError> {
        let found = self.stateful(Some(&question.item), Some(&question.subject), question.instance);
        let Some(ident) = found else { return Ok(()) };
        match self.states.content(&ident) {
            Ok(content) => self.tell_state(&ident, content),
            Err(error) => {
                tracing::error!("the state of {ident} cannot be read: {error}");
                let error = ErrorInfo::new(AosCode::Failed, error.to_string());
                self.report(&format!("state of instance {ident} cannot be sent: {error}"));
                Ok(())
            }
        }
    }

    /// Writes states of the cloud to their files, after the transaction that keeps them.
    pub(in super::super) fn write_states(&mut self) -> Result<(), CoordinatorError> {
        for ident in self.states.pending() {
            self.write_state(&ident)?;
        }
        Ok(())
    }

    fn write_state(&mut self, ident: &InstanceIdent) -> Result<(), CoordinatorError> {
        let mut records = self.launcher.records().iter();
        let record = records.find(|((known, _), record)| known == ident && has_state(record));
        let prepared = record.map_or(Ok(()), |(_, record)| self.data.prepare(ident, record));
        let written = match prepared {
            Ok(()) => self.states.write(&self.parts.db, ident)?,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => tracing::info!("the state of {ident} is the cloud's"),
            // It stays kept and is tried again with the next message, write or start.
            Err(error) => {
                tracing::error!("the state of {ident} cannot be written: {error}");
                self.report(&format!("state of instance {ident} cannot be written: {error}"));
            }
        }
        Ok(())
    }
}

fn has_state(record: &Record) -> bool {
    record.standing == Standing::Active && record.node.is_some() && record.extras.state > 0
}

fn identities(ident: &InstanceIdent) -> (AosIdentity, AosIdentity) {
    (AosIdentity::by_id(ident.item.as_str()), AosIdentity::by_id(ident.subject.as_str()))
}

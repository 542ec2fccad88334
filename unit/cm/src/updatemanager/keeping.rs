//! Effects, acknowledgements and answers as one.
//!
//! What a message of the cloud changes, that it has been received, and what is answered go to disk in one
//! transaction. Only after the commit are the answers handed to the link and the message acknowledged. A
//! process that dies before the commit gets the message again and has done nothing; one that dies after it
//! recognises the repetition and sends the same answer.
//!
//! Handlers run without a pause inside the transaction: what they tell other tasks of this process is seen
//! after the commit.

use aos_cloud_protocol::{Body, Envelope};
use aos_ids::{SystemId, Txn};

use super::coordinator::{Coordinator, CoordinatorError};
use crate::communication::outbox;
use crate::database::{self, StoreError};

/// What the link is told after the commit.
#[derive(Debug, Default)]
pub(super) struct AfterCommit {
    kept: Vec<Envelope>,
    accepted: Vec<Txn>,
}

impl Coordinator {
    /// Carries out `work` as one transaction: all of it is durable when this returns, or nothing. Within
    /// another transaction it becomes a part of that.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, CoordinatorError>,
    ) -> Result<T, CoordinatorError> {
        if !self.parts.db.is_autocommit() {
            return work(self);
        }
        self.parts.db.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from)?;
        let committed = work(self).and_then(|result| {
            self.parts.db.execute_batch("COMMIT").map_err(StoreError::from)?;
            Ok(result)
        });
        let after = std::mem::take(&mut self.after_commit);
        match committed {
            Ok(result) => {
                for envelope in after.kept {
                    self.parts.cloud.send_kept(envelope);
                }
                for txn in after.accepted {
                    self.parts.cloud.accepted(txn);
                }
                Ok(result)
            }
            Err(error) => {
                if !self.parts.db.is_autocommit()
                    && let Err(error) = self.parts.db.execute_batch("ROLLBACK")
                {
                    tracing::error!("taking back a transaction: {error}");
                }
                Err(error)
            }
        }
    }

    /// The Unit's identity, also while IAM is away: work that an earlier run accepted may be done before IAM
    /// tells who we are.
    pub(super) fn address(&mut self) -> Result<Option<SystemId>, CoordinatorError> {
        let told = self.parts.system_id.borrow().clone();
        if told.is_some() && told != self.system_id {
            database::put_document(&self.parts.db, database::SYSTEM_ID, &told)?;
            self.system_id = told;
        }
        Ok(self.system_id.clone())
    }

    /// Sends a message that must not be lost: it is kept on disk until the cloud has acknowledged it. One
    /// that finds no room is reported as an alert.
    pub(super) fn answer(
        &mut self,
        body: Body,
        correlation_id: Option<String>,
    ) -> Result<(), CoordinatorError> {
        let kind = body.message_type();
        let Some(system_id) = self.address()? else {
            tracing::error!("{kind} is lost: this Unit does not know its identity yet");
            return Ok(());
        };
        self.transaction(|this| {
            match outbox::keep(&this.parts.db, &system_id, body, correlation_id) {
                Ok(envelope) => this.after_commit.kept.push(envelope),
                Err(error @ (StoreError::OutboxFull(_) | StoreError::Message { .. })) => {
                    tracing::error!("{kind} is lost: {error}");
                    this.report(&format!("{kind} for the cloud is lost: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }

    /// Handles a message of the cloud once, however often it comes, and acknowledges it.
    pub(super) fn on_message(&mut self, envelope: Envelope) -> Result<(), CoordinatorError> {
        let txn = envelope.header.txn.clone();
        self.transaction(|this| {
            if outbox::is_received(&this.parts.db, &txn)? {
                tracing::debug!("message {txn} came again and is only acknowledged");
            } else {
                this.handle(envelope)?;
                outbox::received(&this.parts.db, &txn)?;
            }
            this.after_commit.accepted.push(txn);
            Ok(())
        })
    }

    /// Removes kept messages that the cloud has acknowledged.
    pub(super) fn acknowledged(&mut self, txns: &[Txn]) -> Result<(), CoordinatorError> {
        self.transaction(|this| Ok(outbox::forget(&this.parts.db, txns.iter().map(Txn::as_str))?))
    }
}

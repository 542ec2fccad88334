//! What all flows share: addresses, patience, and the way of messages through the outbox.

use std::sync::Arc;
use std::time::Duration;

use aos_cloud_pki::Pki;
use aos_cloud_protocol::{Body, Direction, Envelope, limits, read, write};
use aos_cloud_store::{NewOutgoing, OutboxRow, Store, Unit, Work, now_micros};
use aos_ids::SystemId;
use aos_recovery_protocol::Challenges;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::error::FlowError;
use crate::log_content::READERS;
use crate::uploads::Uploads;

const PURPOSE: &str = "message for a Unit";

/// Where Units reach other parts of the cloud.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Base of blob downloads and log uploads, `https://host:port`.
    pub blobs: String,
    /// Where Units discover the cloud.
    pub discovery: String,
}

/// How long flows wait for a Unit that does not answer.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Log requests.
    pub log: Duration,
    /// Each half of provisioning a node: keys are slow to make.
    pub node_task: Duration,
    /// Renewals: Units may be off for days.
    pub renewal: Duration,
    /// How long a certificate stays good after its successor was installed, if that is not seen in use.
    pub old_certificate: Duration,
    /// Share of a certificate's life, per cent, after which the cloud has it renewed; 0 = never.
    pub renew_at_percent: u8,
}

impl Default for Patience {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self {
            log: hours(1),
            node_task: hours(1),
            renewal: hours(7 * 24),
            old_certificate: hours(24),
            renew_at_percent: 67,
        }
    }
}

/// The flows between operators, Units and the store. Cheap to clone.
#[derive(Clone)]
pub struct Flows {
    pub(crate) store: Store,
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) pki: Arc<Pki>,
    pub(crate) addresses: Addresses,
    pub(crate) patience: Patience,
    pub(crate) challenges: Challenges,
    pub(crate) log_readers: Arc<Semaphore>,
    pub(crate) uploads: Arc<Uploads>,
}

impl Flows {
    /// Flows with the usual patience.
    pub fn new(store: Store, pki: Arc<Pki>, addresses: Addresses) -> Self {
        Self::with_patience(store, pki, addresses, Patience::default())
    }

    /// Flows that wait as long as `patience` says.
    pub fn with_patience(store: Store, pki: Arc<Pki>, addresses: Addresses, patience: Patience) -> Self {
        let log_readers = Arc::new(Semaphore::new(READERS));
        let inner = Inner {
            pki,
            addresses,
            patience,
            challenges: Challenges::new(),
            log_readers,
            uploads: Arc::default(),
        };
        Self { store, inner: Arc::new(inner) }
    }

    /// The messages that wait for a Unit and have a number above `after`, in order, each with its number.
    /// Every one has the transaction it always had.
    pub async fn waiting(
        &self,
        unit_id: &str,
        system_id: &SystemId,
        after: i64,
    ) -> Result<Vec<(i64, Envelope)>, FlowError> {
        let mut messages = Vec::new();
        for row in self.store.outbox(unit_id, after).await? {
            match self.open(&row) {
                Ok(envelope) if envelope.header.system_id == *system_id => messages.push((row.seq, envelope)),
                Ok(_) => tracing::error!("message {row:?} waits for another Unit"),
                // It would be met again and again: the flow ends instead, visibly.
                Err(error) => {
                    tracing::error!("message {row:?} is damaged: {error}");
                    self.store.outbox_failed(unit_id, &row.txn, "the stored message is damaged").await?;
                }
            }
        }
        Ok(messages)
    }

    fn open(&self, row: &OutboxRow) -> Result<Envelope, FlowError> {
        let opened;
        let frame = if row.sealed {
            opened = self.inner.pki.vault().open(PURPOSE, &row.body).map_err(FlowError::Pki)?;
            &opened
        } else {
            &row.body
        };
        Ok(read(frame, Direction::CloudToUnit)?)
    }

    /// Puts a message into the outbox of a Unit, in the transaction of what causes it. A newer message with
    /// the same `slot` replaces it.
    pub(crate) fn push(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        body: Body,
        correlation_id: Option<&str>,
        slot: Option<String>,
    ) -> Result<aos_ids::Txn, FlowError> {
        limits::check_for_unit(correlation_id, &body)?;
        let system_id = SystemId::new(unit.system_uid.as_str()).map_err(|_| FlowError::Value("system id"))?;
        let kind = body.message_type().as_str();
        let sealed = has_secrets(&body);
        let mut envelope = Envelope::new(system_id, Timestamp::now(), body);
        envelope.correlation_id = correlation_id.map(str::to_owned);
        let txn = envelope.header.txn.clone();
        let frame = write(&envelope)?;
        let body = if sealed {
            self.inner.pki.vault().seal(PURPOSE, &frame).map_err(FlowError::Pki)?
        } else {
            frame
        };
        let new = NewOutgoing {
            txn: txn.clone(),
            kind,
            correlation_id: envelope.correlation_id,
            slot,
            body,
            sealed,
        };
        work.push(&unit.id, &new)?;
        Ok(txn)
    }

    pub(crate) fn deadline(patience: Duration) -> i64 {
        now_micros().saturating_add(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The Unit, which must be in service.
pub(crate) fn served(work: &Work<'_>, unit_id: &str) -> Result<Unit, FlowError> {
    let unit = work.unit(unit_id)?.ok_or(FlowError::missing("Unit"))?;
    if unit.provisioned { Ok(unit) } else { Err(FlowError::conflict("the Unit is not provisioned")) }
}

/// Passwords and tokens are not stored readable.
fn has_secrets(body: &Body) -> bool {
    matches!(
        body,
        Body::StartProvisioningRequest(_)
            | Body::FinishProvisioningRequest(_)
            | Body::DeprovisioningRequest(_)
            | Body::RenewCertificatesNotification(_)
            | Body::RequestLog(_)
    )
}

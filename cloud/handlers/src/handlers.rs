//! Who takes which kind of message.
//!
//! Each family of messages has its own bounded queue, so that a flood of alerts or log parts does not delay
//! a status. An error is an error of the cloud: the Unit is asked to come again. What a Unit sends wrongly
//! is noted and acknowledged, because repeating it would not make it better.

use std::time::Duration;

use aos_cloud_blobs::Blobs;
use aos_cloud_broker::{Answer, Broker, Inbound, Origin, Outcome};
use aos_cloud_protocol::{Body, Envelope, MessageType};
use aos_cloud_store::{Receipt, Received, StoreError, now_micros};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::error::FlowError;
use crate::flows::Flows;
use crate::{blobs, lanes};

const QUEUE: usize = 1024;
/// Pause that a Unit is asked for when its message could not be stored.
const RETRY: Duration = Duration::from_secs(5);

/// Kinds of messages that share a queue.
const FAMILIES: [&[MessageType]; 5] = [
    &[MessageType::UnitStatus],
    &[MessageType::RequestBlobUrls],
    &[MessageType::Alerts, MessageType::MonitoringData],
    &[MessageType::PushLog],
    // Everything else: the flows, and what does not belong here.
    MessageType::ALL,
];

/// The handlers of all messages; run them as long as the gateway runs.
pub struct Handlers {
    flows: Flows,
    blobs: Blobs,
    queues: Vec<mpsc::Receiver<Inbound>>,
}

/// A message with what its effect needs to know.
pub(crate) struct Message<B> {
    pub(crate) unit_id: String,
    pub(crate) session: i64,
    pub(crate) correlation_id: Option<String>,
    /// When the Unit made it, microseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) receipt: Receipt,
    pub(crate) body: B,
}

impl Handlers {
    /// Handlers, and the broker that leads to them.
    pub fn new(flows: Flows, blobs: Blobs) -> (Broker, Self) {
        let mut broker = Broker::new();
        // A later route replaces an earlier one, so the general one comes first.
        let mut queues: Vec<_> = FAMILIES.iter().rev().map(|kinds| broker.route(kinds, QUEUE)).collect();
        queues.reverse();
        (broker, Self { flows, blobs, queues })
    }

    /// Handles messages until all sessions and the gateway are gone; ends flows whose time is over.
    pub async fn run(self) {
        let Self { flows, blobs, queues } = self;
        let serving = queues.into_iter().map(|queue| serve(&flows, &blobs, queue));
        tokio::select! {
            _ = futures_util::future::join_all(serving) => {}
            () = crate::sweeper::run(&flows.store) => {}
            () = crate::renewing::run(&flows) => {}
        }
    }
}

async fn serve(flows: &Flows, blobs: &Blobs, queue: mpsc::Receiver<Inbound>) {
    let lane = |inbound: &Inbound| inbound.origin.unit_id.clone();
    lanes::run(queue, lane, |inbound| async move {
        let (origin, envelope, finish) = inbound.into_parts();
        let kind = envelope.body.message_type();
        let receipt = Receipt { unit_id: origin.unit_id.clone(), txn: envelope.header.txn.clone() };
        let mut outcome = handle(flows, blobs, &origin, envelope).await;
        if let Err(error) = &outcome
            && error.is_of_the_message()
        {
            outcome = flows.give_up(receipt, kind, aos_logging::with_causes(error)).await.map(|_| vec![]);
        }
        match outcome {
            Ok(answers) => finish.tell(Outcome::Done(answers)),
            Err(error) => {
                let unit = origin.system_id.as_str();
                tracing::error!(unit, "cannot handle {kind}: {}", aos_logging::with_causes(&error));
                finish.tell(Outcome::Later(RETRY));
            }
        }
    })
    .await;
}

async fn handle(
    flows: &Flows,
    blobs: &Blobs,
    origin: &Origin,
    envelope: Envelope,
) -> Result<Vec<Answer>, FlowError> {
    let Envelope { header, correlation_id, body } = envelope;
    let created_at = header.created_at.map_or_else(now_micros, Timestamp::as_microsecond);
    let unit_id = origin.unit_id.clone();
    let receipt = Receipt { unit_id: unit_id.clone(), txn: header.txn };
    let session = origin.session;
    macro_rules! message {
        ($body:expr) => {
            Message { unit_id, session, correlation_id, created_at, receipt, body: $body }
        };
    }
    let received = match body {
        Body::RequestBlobUrls(request) => {
            // Changes nothing, so nothing is remembered: a repeated request is answered again.
            let body = blobs::addresses(flows, blobs, origin, &request).await?;
            return Ok(vec![Answer { body, correlation_id }]);
        }
        Body::UnitStatus(report) => flows.take_status(message!(report)).await?,
        Body::Alerts(alerts) => flows.take_alerts(message!(alerts)).await?,
        Body::MonitoringData(data) => flows.take_monitoring(message!(data)).await?,
        Body::PushLog(part) => flows.take_log(message!(part)).await?,
        Body::NewState(state) => flows.take_state(message!(state)).await?,
        Body::StateRequest(request) => flows.take_state_request(message!(request)).await?,
        Body::OverrideEnvVarsStatus(status) => flows.take_env_status(message!(status)).await?,
        Body::IssueUnitCertificates(requests) => flows.take_requests(message!(requests)).await?,
        Body::InstallUnitCertificatesConfirmation(told) => flows.take_installed(message!(told)).await?,
        Body::StartProvisioningResponse(told) => flows.take_started(message!(told)).await?,
        Body::FinishProvisioningResponse(told) => flows.take_finished(message!(told)).await?,
        Body::DeprovisioningResponse(told) => flows.take_deprovisioned(message!(told)).await?,
        other => flows.take_misled(message!(other)).await?,
    };
    if received == Received::AlreadyDone {
        tracing::debug!(unit = origin.system_id.as_str(), "a message came again after it took effect");
    }
    Ok(vec![])
}

impl Flows {
    /// A message that can never take effect: repeated it would fail again.
    async fn give_up(
        &self,
        receipt: Receipt,
        kind: MessageType,
        reason: String,
    ) -> Result<Received<()>, FlowError> {
        let unit_id = receipt.unit_id.clone();
        tracing::warn!(unit_id, "{kind} has no effect: {reason}");
        self.store
            .receive(receipt, move |work| Ok(work.note_invalid(&unit_id, kind.as_str(), &reason)?))
            .await
    }

    /// A message that a Unit does not send: D14 to D16 of the table of disagreements.
    async fn take_misled(&self, message: Message<Body>) -> Result<Received<()>, FlowError> {
        let kind = message.body.message_type();
        tracing::warn!(unit = message.unit_id, "{kind} came the wrong way and is ignored");
        let unit_id = message.unit_id;
        self.store
            .receive(message.receipt, move |work| {
                work.note_invalid(&unit_id, kind.as_str(), "wrong direction").map_err(StoreError::into)
            })
            .await
    }
}

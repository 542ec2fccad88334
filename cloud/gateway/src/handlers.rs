//! What becomes of the messages of Units.
//!
//! Three handlers, each with its own bounded queue, so that a flood of alerts does not delay a status:
//! status, blob addresses, and the rest, which is kept for operators or only logged.

use std::time::Duration;

use aos_cloud_blobs::{BLOCK_ALG, Blobs, SIGN_ALG};
use aos_cloud_broker::{Answer, Broker, Inbound, Origin, Outcome};
use aos_cloud_fleet::{Merged, UnitState};
use aos_cloud_protocol::{
    Alerts, Base64Bytes, BlobInfo, BlobUrls, Body, DecryptInfo, Envelope, MessageType, RequestBlobUrls,
    ServedHash, SignInfo, UnitStatus,
};
use aos_cloud_store::{Store, now_micros};
use aos_ids::Digest;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::error::{GatewayError, full_text};

const QUEUE: usize = 256;
/// Pause that a Unit is asked for when its message could not be stored.
const RETRY: Duration = Duration::from_secs(5);

/// The handlers of all messages; run them as long as the gateway runs.
pub struct Handlers {
    tools: Tools,
    status: mpsc::Receiver<Inbound>,
    urls: mpsc::Receiver<Inbound>,
    records: mpsc::Receiver<Inbound>,
}

/// What handlers work with.
#[derive(Clone)]
struct Tools {
    store: Store,
    blobs: Blobs,
    blob_url: String,
}

impl Handlers {
    pub(crate) fn new(store: Store, blobs: Blobs, blob_url: String) -> (Broker, Self) {
        let mut broker = Broker::new();
        // Everything that has no route of its own.
        let records = broker.route(MessageType::ALL, QUEUE);
        let status = broker.route(&[MessageType::UnitStatus], QUEUE);
        let urls = broker.route(&[MessageType::RequestBlobUrls], QUEUE);
        (broker, Self { tools: Tools { store, blobs, blob_url }, status, urls, records })
    }

    /// Handles messages until all sessions and the gateway are gone.
    pub async fn run(self) {
        let Self { tools, status, urls, records } = self;
        tokio::join!(tools.clone().serve(status), tools.clone().serve(urls), tools.serve(records));
    }
}

impl Tools {
    async fn serve(self, mut queue: mpsc::Receiver<Inbound>) {
        while let Some(inbound) = queue.recv().await {
            let (origin, envelope, finish) = inbound.into_parts();
            let kind = envelope.body.message_type();
            match self.handle(&origin, envelope).await {
                Ok(answers) => finish.tell(Outcome::Done(answers)),
                Err(error) => {
                    let unit = origin.system_id.as_str();
                    tracing::error!(unit, "cannot handle {kind}: {}", full_text(&error));
                    finish.tell(Outcome::Later(RETRY));
                }
            }
        }
    }

    async fn handle(&self, origin: &Origin, envelope: Envelope) -> Result<Vec<Answer>, GatewayError> {
        let created_at = envelope.header.created_at.map(Timestamp::as_microsecond);
        match envelope.body {
            Body::UnitStatus(report) => {
                merge(&self.store, origin, report, created_at.unwrap_or_else(now_micros)).await?;
                Ok(vec![])
            }
            Body::RequestBlobUrls(request) => {
                let body = self.addresses(origin, &request).await?;
                Ok(vec![Answer { body, correlation_id: envelope.correlation_id }])
            }
            other => record(&self.store, origin, other).await.map(|()| vec![]),
        }
    }

    /// Addresses for the blobs that the Unit may have, in the order of the request. What does not exist or
    /// is not the Unit's business is left out.
    async fn addresses(&self, origin: &Origin, request: &RequestBlobUrls) -> Result<Body, GatewayError> {
        let mut items = Vec::with_capacity(request.digests.len());
        for digest in &request.digests {
            if self.store.unit_may_fetch(&origin.unit_id, &digest.to_string()).await? {
                items.extend(describe(&self.blobs, &self.blob_url, digest).await?);
            } else {
                let unit = origin.system_id.as_str();
                tracing::warn!(unit, "asks for {digest}, which belongs to nothing assigned to it");
            }
        }
        Ok(Body::BlobUrls(BlobUrls { items }))
    }
}

/// Merges a status into what is known. On return it is on disk.
async fn merge(
    store: &Store,
    origin: &Origin,
    report: UnitStatus,
    created_at: i64,
) -> Result<(), GatewayError> {
    let session = origin.session;
    let merge = move |stored: Option<&str>| -> Result<Option<(String, bool)>, GatewayError> {
        // A state that cannot be read is worth less than the report at hand; the next full one completes it.
        let read = stored.map(serde_json::from_str::<UnitState>).transpose();
        let mut state = read
            .unwrap_or_else(|error| {
                tracing::error!("the stored status of a Unit is damaged and starts anew: {error}");
                None
            })
            .unwrap_or_default();
        if state.merge(report, created_at, session) == Merged::Stale {
            return Ok(None);
        }
        let text = serde_json::to_string(&state).map_err(GatewayError::document("status"))?;
        Ok(Some((text, state.is_known_in(session))))
    };
    store.merge_status(&origin.unit_id, session, merge).await??;
    Ok(())
}

async fn describe(blobs: &Blobs, base: &str, digest: &Digest) -> Result<Option<BlobInfo>, GatewayError> {
    let Some(blob) = blobs.find(digest).await? else { return Ok(None) };
    let sha256 = ServedHash::parse(&blob.sha3).ok_or(GatewayError::Value("blob hash"))?;
    let signed_at =
        Timestamp::from_second(blob.signed_at).map_err(|_| GatewayError::Value("time of signature"))?;
    Ok(Some(BlobInfo {
        digest: *digest,
        urls: vec![format!("{base}{}", blobs.address(digest, now_micros() / 1_000_000))],
        sha256,
        size: blob.served_size,
        decrypt_info: Some(DecryptInfo {
            block_alg: BLOCK_ALG.to_owned(),
            block_key: Base64Bytes(blobs.content_key(&blob)?),
            block_iv: Base64Bytes(blob.iv),
        }),
        sign_info: Some(SignInfo {
            chain_name: blob.chain_name,
            alg: SIGN_ALG.to_owned(),
            value: Base64Bytes(blob.signature),
            trusted_timestamp: Some(signed_at),
            ocsp_values: Vec::new(),
        }),
    }))
}

/// Keeps what operators may want to see, logs the rest.
async fn record(store: &Store, origin: &Origin, body: Body) -> Result<(), GatewayError> {
    let unit = origin.system_id.as_str();
    match body {
        Body::Alerts(Alerts { items, refused }) => {
            for reason in refused {
                tracing::warn!(unit, "an alert cannot be read: {reason}");
            }
            for alert in items {
                let text = serde_json::to_string(&alert).map_err(GatewayError::document("alert"))?;
                tracing::info!(unit, "alert {text}");
                store.add_event(&origin.unit_id, "alerts", text).await?;
            }
        }
        Body::MonitoringData(data) => {
            let text = serde_json::to_string(&data).map_err(GatewayError::document("monitoring data"))?;
            store.add_event(&origin.unit_id, "monitoring", text).await?;
        }
        other => tracing::info!(unit, "{} received; nothing handles it yet", other.message_type()),
    }
    Ok(())
}

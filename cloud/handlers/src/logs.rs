//! Logs: `requestLog` and `pushLog`.

use aos_cloud_fleet::{LogState, NodeLog, log_state};
use aos_cloud_protocol::{
    AosIdentity, Body, IdentityType, LogFilter, LogStatus, LogType, PushLog, RequestLog, Secret,
    UploadOptions, UploadType,
};
use aos_cloud_store::{LogNode, LogRequest, NewLog, Received, StagedLog, Store, StoreError, Work, brief};
use jiff::Timestamp;
use uuid::Uuid;

use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::handlers::Message;

/// What an operator wants to see.
#[derive(Debug, Clone)]
pub struct NewLogRequest {
    /// Which logs.
    pub log_type: LogType,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub till: Option<Timestamp>,
    /// Nodes; empty means all that are registered.
    pub nodes: Vec<String>,
    /// Item, by id.
    pub item: Option<String>,
    /// Subject, by id.
    pub subject: Option<String>,
    /// Number of the instance.
    pub instance: Option<u64>,
    /// How the Unit shall send them.
    pub upload: UploadType,
}

impl Flows {
    /// Asks a Unit for logs. The answer comes later; see [`aos_cloud_store::Store::log_request`].
    pub async fn request_log(&self, unit_id: &str, new: NewLogRequest) -> Result<LogRequest, FlowError> {
        let (unit_id, flows) = (unit_id.to_owned(), self.clone());
        self.store
            .transact(move |work| {
                let unit = served(work, &unit_id)?;
                let nodes = nodes(work, &unit.id, &new.nodes)?;
                let id = Uuid::new_v4().to_string();
                let identity = |node: &String| AosIdentity::by_codename(node).with_type(IdentityType::Node);
                let filter = LogFilter {
                    from: new.from,
                    till: new.till,
                    // Always by name: for Units of the original an empty list is no node.
                    node_ids: nodes.iter().map(identity).collect(),
                    item: new.item.map(AosIdentity::by_id),
                    subject: new.subject.map(AosIdentity::by_id),
                    instance: new.instance,
                };
                let deadline = Self::deadline(flows.inner.patience.log);
                // Units of the original know no upload over the WebSocket by name: absent means that.
                let upload = (new.upload == UploadType::Https).then(Token::new);
                let stored = NewLog {
                    id: id.clone(),
                    log_type: word(&new.log_type)?,
                    filter: serde_json::to_string(&filter).map_err(FlowError::document("log filter"))?,
                    upload: word(&new.upload)?,
                    token_hash: upload.as_ref().map(|token| hash(&token.0)),
                    nodes,
                    deadline,
                };
                work.add_log(&unit.id, &stored)?;
                let base = &flows.inner.addresses.blobs;
                let upload_options = upload.map(|token| UploadOptions {
                    kind: UploadType::Https,
                    url: Some(format!("{base}/log-uploads/{id}")),
                    bearer_token: Some(Secret::new(token.0)),
                    bearer_token_ttl: Timestamp::from_microsecond(deadline).ok(),
                });
                let body = Body::RequestLog(RequestLog { log_type: new.log_type, filter, upload_options });
                flows.push(work, &unit, body, Some(&id), None)?;
                work.log(&unit.id, &id)?.ok_or(FlowError::missing("log request"))
            })
            .await
    }

    /// A Unit sends a part of a log.
    pub(crate) async fn take_log(&self, message: Message<PushLog>) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body: mut part, .. } = message;
        let id = correlation_id.unwrap_or_default();
        // Only what was asked for may cost disk space.
        let wanted = self.store.log_request(&unit_id, &id).await?.is_some_and(|log| log.deadline.is_some());
        let acceptable = part.content.0.len() <= aos_cloud_fleet::MAX_LOG_PART;
        let staged = if wanted && acceptable && part.status == LogStatus::Ok {
            let content = std::mem::take(&mut part.content.0);
            let (staged, content) = stage(&self.store, content).await?;
            part.content.0 = content;
            Some(staged)
        } else {
            None
        };
        self.store
            .receive(receipt, move |work| {
                let Some(request) = work.log(&unit_id, &id)? else {
                    return Ok(work.note_invalid(&unit_id, "pushLog", "belongs to no log request")?);
                };
                let node = part.node.node_id().map(|node| node.to_string()).unwrap_or_default();
                let Some(row) = request.nodes.iter().find(|row| row.node_id == node) else {
                    return Ok(work.note_invalid(&unit_id, "pushLog", "names a node that was not asked")?);
                };
                if request.deadline.is_none() {
                    tracing::info!(unit_id, "a part of log {id} came after the end of the request");
                    return Ok(());
                }
                let mut log = progress(row);
                if log.take(&part)
                    && let Some(staged) = staged
                    && !work.add_log_part(&unit_id, &id, &node, part.part, staged)?
                {
                    log.fail("the logs of the Unit need more room than there is");
                }
                keep_progress(work, &id, &node, &log)?;
                Ok(settle_request(work, &unit_id, &id)?)
            })
            .await
    }
}

/// Keeps what a node has sent.
pub(crate) fn keep_progress(
    work: &mut Work<'_>,
    id: &str,
    node: &str,
    log: &NodeLog,
) -> Result<(), StoreError> {
    let row = LogNode {
        node_id: node.to_owned(),
        state: log.state.as_str().to_owned(),
        parts_count: log.parts_count,
        parts: Vec::new(),
        reason: log.reason.as_deref().map(brief),
    };
    work.put_log_node(id, &row)
}

/// Brings the state of a request in line with its nodes.
pub(crate) fn settle_request(work: &mut Work<'_>, unit_id: &str, id: &str) -> Result<(), StoreError> {
    let Some(request) = work.log(unit_id, id)? else { return Ok(()) };
    let all: Vec<(&str, NodeLog)> =
        request.nodes.iter().map(|row| (row.node_id.as_str(), progress(row))).collect();
    let (state, reason) = log_state(all.iter().map(|(node, log)| (*node, log)));
    work.set_log_state(unit_id, id, state.as_str(), reason.as_deref(), state.is_final())
}

pub(crate) fn progress(row: &LogNode) -> NodeLog {
    NodeLog {
        state: LogState::parse(&row.state),
        parts_count: row.parts_count,
        parts: row.parts.iter().copied().collect(),
        reason: row.reason.clone(),
    }
}

/// Writes bytes to disk; gives them back.
async fn stage(store: &Store, content: Vec<u8>) -> Result<(StagedLog, Vec<u8>), FlowError> {
    let store = store.clone();
    let written = tokio::task::spawn_blocking(move || {
        let mut staged = store.stage_log()?;
        staged.write(&content)?;
        staged.sync()?;
        Ok::<_, StoreError>((staged, content))
    });
    Ok(written.await.map_err(|_| FlowError::Interrupted)??)
}

/// The nodes meant: those named, which must be registered, or all.
fn nodes(work: &Work<'_>, unit_id: &str, named: &[String]) -> Result<Vec<String>, FlowError> {
    let known: Vec<String> = work.registered_nodes(unit_id)?.into_iter().map(|(node, _)| node).collect();
    let chosen: Vec<String> = if named.is_empty() { known.clone() } else { named.to_vec() };
    if let Some(stranger) = chosen.iter().find(|node| !known.contains(node)) {
        return Err(FlowError::Invalid(format!("the Unit has no node '{stranger}'")));
    }
    if chosen.is_empty() {
        return Err(FlowError::conflict("the Unit has no registered nodes"));
    }
    let mut chosen = chosen;
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The token of one request, 256 bits.
struct Token(String);

impl Token {
    fn new() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }
}

pub(crate) fn hash(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// The word of an enumeration on the wire.
fn word(value: &impl serde::Serialize) -> Result<String, FlowError> {
    match serde_json::to_value(value).map_err(FlowError::document("kind of log"))? {
        serde_json::Value::String(word) => Ok(word),
        _ => Err(FlowError::Value("kind of log")),
    }
}

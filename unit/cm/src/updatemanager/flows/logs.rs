//! Logs: from the cloud's request to the nodes, and their parts back as messages or uploads.
//!
//! A request is kept in table `tasks` until every node has answered, has failed or has been given up, so it
//! is asked anew after a crash: the cloud may get a part twice then. A node has answered when the cloud has
//! all of its parts, which are not kept here; one that gets lost makes its node's share fail. Every node asked
//! is heard of: failures are kept messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use aos_cloud_protocol::{AosIdentity, Body, LogStatus, LogType, PushLog, RequestLog};
use aos_ids::{NodeId, Txn};
use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::common::v2::InstanceFilter;
use aos_unit_api::convert::error_from_wire;
use aos_unit_api::servicemanager::v5;
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::super::coordinator::{Coordinator, CoordinatorError};
use super::parts::{Room, Sender, Way, pass_on};
use crate::database::StoreError;
use crate::logrelay::{MAX_OPEN, Relay, Share, Word};
use crate::logupload::{Part, Target};
use crate::smcontroller::Command;

/// Kind of the rows of this flow in table `tasks`.
pub(super) const KIND: &str = "requestLog";
/// Longest part of logs that is passed on, bytes.
const MAX_LOG_PART: usize = 256 * 1024;

struct Open {
    correlation: Option<String>,
    request: RequestLog,
}

/// What goes on beside the coordinator's task.
pub enum LogEvent {
    /// A node was asked, or could not be.
    Asked(Share, Result<(), ErrorInfo>),
    /// The cloud has all parts of a node, or one cannot be brought to it; with whether it is owed a last word.
    Passed(Share, bool, Result<(), ErrorInfo>),
}

/// The flow.
pub struct LogFlow {
    open: BTreeMap<String, Open>,
    relay: Relay,
    /// Shares of an earlier run whose nodes are not back yet.
    unasked: BTreeSet<Share>,
    queues: BTreeMap<Share, Sender>,
    room: Room,
    work: JoinSet<LogEvent>,
}

impl LogFlow {
    /// Takes up requests that were not answered; their nodes are asked when they are connected.
    pub fn load(db: &Connection) -> Result<Self, StoreError> {
        let mut rows = db.prepare("SELECT txn, correlation_id, body FROM tasks WHERE kind = ?1")?;
        let rows = rows.query_map([KIND], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut flow = Self {
            open: BTreeMap::new(),
            relay: Relay::default(),
            unasked: BTreeSet::new(),
            queues: BTreeMap::new(),
            room: Room::new(),
            work: JoinSet::new(),
        };
        let mut useless = Vec::new();
        for row in rows {
            let (txn, correlation, body) = row?;
            let Ok(request) = serde_json::from_str::<RequestLog>(&body) else {
                // The text may hold a token, so the reason is not told.
                tracing::error!("a stored request for logs is unreadable and removed");
                useless.push(txn);
                continue;
            };
            for node in request.filter.node_ids.iter().filter_map(|node| node.node_id().ok()) {
                let share = (txn.clone(), node);
                flow.relay.asked(share.clone(), Instant::now());
                flow.unasked.insert(share);
            }
            flow.open.insert(txn, Open { correlation, request });
        }
        for txn in useless {
            db.execute("DELETE FROM tasks WHERE txn = ?1", [txn])?;
        }
        Ok(flow)
    }

    /// What went on; `None` while nothing does.
    pub async fn event(&mut self) -> Option<LogEvent> {
        loop {
            match self.work.join_next().await? {
                Ok(event) => return Some(event),
                Err(error) => tracing::error!("work on logs broke: {error}"),
            }
        }
    }

    /// When a node is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.relay.deadline()
    }
}

fn word(node: AosIdentity, status: LogStatus, error: Option<ErrorInfo>) -> Body {
    Body::PushLog(PushLog {
        node,
        part: 1,
        parts_count: 1,
        content: Vec::new().into(),
        status,
        error_info: error,
    })
}

impl Coordinator {
    /// A request, within the transaction of its message.
    pub(in super::super) fn on_log_request(
        &mut self,
        txn: &Txn,
        mut request: RequestLog,
        correlation: Option<String>,
    ) -> Result<(), CoordinatorError> {
        request.filter.node_ids = self.log_nodes(&request);
        let refusal = if self.logs.open.len() >= MAX_OPEN {
            Some(ErrorInfo::new(AosCode::NoMemory, "too many requests for logs are open"))
        } else {
            Target::of(request.upload_options.as_ref(), Timestamp::now()).err()
        };
        let mut shares = Vec::new();
        for node in &request.filter.node_ids {
            let refused = match (&refusal, node.node_id()) {
                (None, Ok(id)) => {
                    shares.push((txn.to_string(), id));
                    continue;
                }
                (Some(error), _) => error.clone(),
                (None, Err(error)) => ErrorInfo::new(AosCode::InvalidArgument, error.to_string()),
            };
            let answer = word(node.clone(), LogStatus::Failed, Some(refused));
            self.answer(answer, correlation.clone())?;
        }
        if shares.is_empty() {
            return Ok(());
        }
        let body = serde_json::to_string(&request).map_err(StoreError::from)?;
        let sql = "INSERT OR IGNORE INTO tasks (txn, kind, correlation_id, body) VALUES (?1, ?2, ?3, ?4)";
        let row = (txn.as_str(), KIND, &correlation, body);
        let inserted = self.parts.db.prepare_cached(sql).and_then(|mut insert| insert.execute(row));
        if inserted.map_err(StoreError::from)? == 0 {
            return Ok(());
        }
        self.logs.open.insert(txn.to_string(), Open { correlation, request });
        for share in shares {
            self.logs.relay.asked(share.clone(), Instant::now());
            self.ask_for_logs(share);
        }
        Ok(())
    }

    /// The nodes that a request is about: those it lists, else all.
    fn log_nodes(&self, request: &RequestLog) -> Vec<AosIdentity> {
        let mut nodes: Vec<AosIdentity> = request.filter.node_ids.clone();
        if nodes.is_empty() {
            nodes = self.nodes.known().map(AosIdentity::node).collect();
        }
        if nodes.is_empty() {
            nodes.extend(self.parts.main_node.borrow().as_ref().map(AosIdentity::node));
        }
        let mut seen = BTreeSet::new();
        nodes.retain(|node| seen.insert(node.key().unwrap_or_default().to_owned()));
        nodes
    }

    /// A node is back: it is asked for what it owed when this process ended.
    pub(in super::super) fn ask_again_for_logs(&mut self, node: &NodeId) {
        let back: Vec<Share> = self.logs.unasked.iter().filter(|(_, known)| known == node).cloned().collect();
        for share in back {
            self.logs.unasked.remove(&share);
            self.ask_for_logs(share);
        }
    }

    fn ask_for_logs(&mut self, share: Share) {
        let Some(open) = self.logs.open.get(&share.0) else { return };
        let message = question(&share.0, &open.request);
        let (sender, answer) = oneshot::channel();
        let sent = self.parts.controller.send(Command::Tell(share.1.clone(), message, sender));
        self.logs.work.spawn(async move {
            let busy = || ErrorInfo::new(AosCode::Failed, "the node cannot be asked now");
            let result = if sent { answer.await.unwrap_or_else(|_| Err(busy())) } else { Err(busy()) };
            LogEvent::Asked(share, result)
        });
    }

    /// Something beside this task is done.
    pub(in super::super) fn on_log_event(&mut self, event: LogEvent) -> Result<(), CoordinatorError> {
        match event {
            LogEvent::Asked(_, Ok(())) => Ok(()),
            LogEvent::Asked(share, Err(error)) | LogEvent::Passed(share, _, Err(error)) => {
                self.settle_logs(&share, LogStatus::Failed, Some(error))
            }
            LogEvent::Passed(share, true, Ok(())) => self.settle_logs(&share, LogStatus::Ok, None),
            LogEvent::Passed(share, false, Ok(())) => {
                self.transaction(|this| this.close_logs(&share))?;
                self.forget_secrets();
                Ok(())
            }
        }
    }

    /// A node is gone: what it owes does not come any more.
    pub(in super::super) fn logs_lost(&mut self, node: &NodeId) -> Result<(), CoordinatorError> {
        for share in self.logs.relay.owed_by(node) {
            if !self.logs.unasked.contains(&share) {
                let error = ErrorInfo::new(AosCode::Failed, "the node was disconnected meanwhile");
                self.settle_logs(&share, LogStatus::Failed, Some(error))?;
            }
        }
        Ok(())
    }

    /// Gives up nodes that say nothing.
    pub(in super::super) fn on_log_time(&mut self) -> Result<(), CoordinatorError> {
        for share in self.logs.relay.overdue(Instant::now()) {
            let error = ErrorInfo::new(AosCode::Timeout, "the node does not answer");
            self.settle_logs(&share, LogStatus::Failed, Some(error))?;
        }
        Ok(())
    }

    /// The last word about a node's share.
    fn settle_logs(
        &mut self,
        share: &Share,
        status: LogStatus,
        error: Option<ErrorInfo>,
    ) -> Result<(), CoordinatorError> {
        if !self.logs.relay.is_open(share) {
            return Ok(());
        }
        if let Some(error) = &error {
            tracing::warn!("no logs of node {}: {error}", share.1);
        }
        let correlation = self.logs.open.get(&share.0).and_then(|open| open.correlation.clone());
        self.transaction(|this| {
            this.answer(word(AosIdentity::by_codename(share.1.as_str()), status, error), correlation)?;
            this.close_logs(share)
        })?;
        self.forget_secrets();
        Ok(())
    }

    fn close_logs(&mut self, share: &Share) -> Result<(), CoordinatorError> {
        self.logs.queues.remove(share);
        self.logs.unasked.remove(share);
        if self.logs.relay.settled(share) {
            self.logs.open.remove(&share.0);
            let deleted = self.parts.db.execute("DELETE FROM tasks WHERE txn = ?1", [&share.0]);
            deleted.map_err(StoreError::from)?;
        }
        Ok(())
    }

    /// A word of a node about its logs.
    pub(in super::super) fn on_log(
        &mut self,
        node: &NodeId,
        log: v5::LogData,
    ) -> Result<(), CoordinatorError> {
        let share = (log.correlation_id, node.clone());
        let status = match log.status.as_str() {
            "ok" => LogStatus::Ok,
            "empty" => LogStatus::Empty,
            "absent" => LogStatus::Absent,
            _ => LogStatus::Failed,
        };
        let count = log.part_count.max(1);
        let said = self.logs.relay.said(&share, log.part, count, status != LogStatus::Ok, Instant::now());
        if said == Word::Unasked {
            tracing::debug!("node {node} sends logs that nobody waits for");
            return Ok(());
        }
        if status != LogStatus::Ok {
            return self.settle_logs(&share, status, error_from_wire(log.error));
        }
        if log.data.len() > MAX_LOG_PART {
            let error = ErrorInfo::new(AosCode::NoMemory, "the node sends a part that is too big");
            return self.settle_logs(&share, LogStatus::Failed, Some(error));
        }
        if !self.logs.queues.contains_key(&share)
            && let Err(error) = self.begin_passing(&share)
        {
            return self.settle_logs(&share, LogStatus::Failed, Some(error));
        }
        let part = Part { number: log.part, count, content: log.data.into() };
        let taken = self.logs.queues.get(&share).is_some_and(|queue| self.logs.room.add(queue, part));
        if said == Word::Last {
            // The work ends with its queue.
            self.logs.queues.remove(&share);
        }
        if taken {
            return Ok(());
        }
        let error =
            ErrorInfo::new(AosCode::NoMemory, "no room for a part of the logs: the cloud is too slow");
        self.settle_logs(&share, LogStatus::Failed, Some(error))
    }

    /// Begins to pass on the parts of a node, beside this task.
    fn begin_passing(&mut self, share: &Share) -> Result<(), ErrorInfo> {
        let Some(open) = self.logs.open.get(&share.0) else { return Ok(()) };
        let target = Target::of(open.request.upload_options.as_ref(), Timestamp::now())?;
        let uploads = target.is_some();
        let way = match target {
            Some(target) => {
                let request = open.correlation.clone().unwrap_or_else(|| share.0.clone());
                Way::Upload(self.parts.dialer.clone(), target, request)
            }
            None => Way::Messages(self.parts.cloud.clone(), open.correlation.clone()),
        };
        let (queue, parts) = Room::queue();
        self.logs.queues.insert(share.clone(), queue);
        let share = share.clone();
        self.logs.work.spawn(async move {
            let passed = pass_on(&way, &share.1, parts).await;
            LogEvent::Passed(share, uploads, passed)
        });
        Ok(())
    }
}

/// What a node is asked.
fn question(id: &str, request: &RequestLog) -> SmIncomingMessage {
    let filter = &request.filter;
    let time =
        |at: Timestamp| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() };
    let (from, till) = (filter.from.map(time), filter.till.map(time));
    let correlation_id = id.to_owned();
    let name = |identity: &Option<AosIdentity>| {
        identity.as_ref().and_then(AosIdentity::key).unwrap_or_default().to_owned()
    };
    let instances = Some(InstanceFilter {
        item_id: name(&filter.item),
        subject_id: name(&filter.subject),
        // Any.
        instance: filter.instance.and_then(|number| i64::try_from(number).ok()).unwrap_or(-1),
    });
    match request.log_type {
        LogType::SystemLog => {
            SmIncomingMessage::SystemLogRequest(v5::SystemLogRequest { correlation_id, from, till })
        }
        LogType::InstanceLog => SmIncomingMessage::InstanceLogRequest(v5::InstanceLogRequest {
            correlation_id,
            filter: instances,
            from,
            till,
        }),
        LogType::CrashLog => SmIncomingMessage::InstanceCrashLogRequest(v5::InstanceCrashLogRequest {
            correlation_id,
            filter: instances,
            from,
            till,
        }),
    }
}

//! Nodes of a Unit: what is registered and reported, pause and resume, provisioning of secondary ones.

use aos_cloud_fleet::UnitState;
use aos_cloud_protocol::NodeInfo;
use aos_cloud_store::{AuditEntry, Node, NodeTask, NodeWish, Unit};
use aos_ids::NodeId;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input, checked_password};
use crate::poll::Poll;
use crate::view;

/// All that is known about the nodes of a Unit.
struct Known {
    registered: Vec<Node>,
    reported: Vec<NodeInfo>,
    /// Newest first.
    tasks: Vec<NodeTask>,
    wishes: Vec<NodeWish>,
}

impl Known {
    async fn load(api: &Api, unit: &Unit) -> Result<Self, ApiError> {
        let view = api.store.unit_view(&unit.id).await?;
        let state = view.and_then(|view| view.status).map_or_else(UnitState::default, |status| {
            // A state that cannot be read shows as none; the status endpoint says so.
            serde_json::from_str(&status.merged).unwrap_or_default()
        });
        Ok(Self {
            registered: api.store.nodes(&unit.id).await?,
            reported: state.nodes.into_iter().map(|node| node.value).collect(),
            tasks: api.store.node_tasks(&unit.id).await?,
            wishes: api.store.node_wishes(&unit.id).await?,
        })
    }

    /// Registered nodes, then those that only the Unit tells of.
    fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.registered.iter().map(|node| node.node_id.as_str()).collect();
        for node in self.reported.iter().filter_map(|node| node.identity.key()) {
            if !ids.contains(&node) {
                ids.push(node);
            }
        }
        ids
    }

    fn has(&self, node: &str) -> Result<(), ApiError> {
        if self.ids().contains(&node) { Ok(()) } else { Err(ApiError::not_found("no such node")) }
    }

    fn reported(&self, id: &str) -> Option<&NodeInfo> {
        self.reported.iter().find(|node| node.identity.key() == Some(id))
    }

    fn task(&self, id: &str) -> Option<&NodeTask> {
        self.tasks.iter().find(|task| task.node_id == id)
    }

    fn wish(&self, id: &str) -> Option<&NodeWish> {
        self.wishes.iter().find(|wish| wish.node_id == id)
    }

    fn shown(&self, id: &str) -> Value {
        let registered = self.registered.iter().find(|node| node.node_id == id);
        let reported = self.reported(id);
        let is_main = registered.map_or_else(
            || {
                reported
                    .and_then(|node| node.attrs.as_ref())
                    .is_some_and(|attrs| attrs.contains_key("MainNode"))
            },
            |node| node.is_main,
        );
        let node_type = registered.map(|node| node.node_type.as_str());
        let title = reported.and_then(|node| node.identity.title.as_deref());
        json!({
            "id": id,
            "node_id": id,
            "node_type": node_type.or_else(|| reported?.node_group_subject.key()),
            "name": registered.map(|node| node.name.as_str()).or(title),
            "is_main": is_main,
            "is_primary": is_main,
            "status": reported
                .map(|node| node.state.as_str())
                .or_else(|| registered.map(|node| node.status.as_str())),
            "is_connected": reported.is_some_and(|node| node.is_connected),
            "desired_state": self.wish(id).map(|wish| &wish.state),
            "task": self.task(id).map(task),
            "error": reported.and_then(|node| node.error_info.as_ref()),
            "info": registered.map(|node| serde_json::from_str::<Value>(&node.info).unwrap_or_default()),
        })
    }
}

fn task(task: &NodeTask) -> Value {
    json!({
        "id": task.id,
        "kind": task.kind,
        "state": task.state,
        "error": task.reason,
        "created_at": view::time(task.created_at),
        "finished_at": view::optional_time(task.finished_at),
    })
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let known = Known::load(&api, &unit).await?;
    Ok(Json(view::whole_list(known.ids().into_iter().map(|id| known.shown(id)))))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path((key, node)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let known = Known::load(&api, &unit).await?;
    known.has(&node)?;
    Ok(Json(known.shown(&node)))
}

/// The newest task of a node, to be followed until it is over.
pub(crate) async fn show_task(
    State(api): State<Api>,
    caller: Caller,
    Path((key, node)): Path<(String, String)>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    let revision = api.store.unit(&unit.id).await?.map(|unit| unit.revision);
    let known = Known::load(&api, &unit).await?;
    let newest = known.task(&node).ok_or_else(|| ApiError::not_found("nothing was asked of this node"))?;
    let mut shown = task(newest);
    shown["revision"] = json!(revision);
    Ok(Json(shown))
}

/// Whether a node is as it shall be since the last pause or resume.
pub(crate) async fn show_switch(
    State(api): State<Api>,
    caller: Caller,
    Path((key, node)): Path<(String, String)>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    let revision = api.store.unit(&unit.id).await?.map(|unit| unit.revision);
    let known = Known::load(&api, &unit).await?;
    known.has(&node)?;
    Ok(Json(switch(&known, &node, revision)))
}

fn switch(known: &Known, node: &str, revision: Option<i64>) -> Value {
    let wanted = known.wish(node).map(|wish| wish.state.as_str());
    let reported = known.reported(node);
    let status = reported.map(|node| node.state.as_str());
    let state = match (wanted, status) {
        (wanted, Some(status)) if wanted.is_none_or(|wanted| wanted == status) => "done",
        (_, Some("error")) => "failed",
        _ => "waiting",
    };
    json!({
        "node_id": node,
        "state": state,
        "wanted": wanted,
        "status": status,
        "error": reported.and_then(|node| node.error_info.as_ref()).map(|error| &error.message),
        "revision": revision,
    })
}

#[derive(Deserialize)]
pub(crate) struct TaskInput {
    #[serde(default)]
    password: Option<String>,
}

pub(crate) async fn provision(
    state: State<Api>,
    caller: Caller,
    place: Path<(String, String)>,
    input: Input<TaskInput>,
) -> Result<Response, ApiError> {
    start(state, caller, place, input, true).await
}

pub(crate) async fn deprovision(
    state: State<Api>,
    caller: Caller,
    place: Path<(String, String)>,
    input: Input<TaskInput>,
) -> Result<Response, ApiError> {
    start(state, caller, place, input, false).await
}

async fn start(
    State(api): State<Api>,
    caller: Caller,
    Path((key, node)): Path<(String, String)>,
    Input(input): Input<TaskInput>,
    provision: bool,
) -> Result<Response, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    NodeId::new(node.as_str()).map_err(|error| ApiError::bad_request(format!("node: {error}")))?;
    if let Some(password) = &input.password {
        checked_password(password)?;
    }
    let (action, started) = if provision {
        ("node provisioned", api.flows.provision_node(&unit.id, &node, input.password).await?)
    } else {
        ("node deprovisioned", api.flows.deprovision_node(&unit.id, &node, input.password).await?)
    };
    let entry = AuditEntry { actor: caller.name(), action, object: unit.system_uid, detail: node };
    api.store.audit(entry).await?;
    Ok((StatusCode::ACCEPTED, Json(task(&started))).into_response())
}

pub(crate) async fn pause(
    state: State<Api>,
    caller: Caller,
    place: Path<(String, String)>,
) -> Result<Response, ApiError> {
    wish(state, caller, place, true).await
}

pub(crate) async fn resume(
    state: State<Api>,
    caller: Caller,
    place: Path<(String, String)>,
) -> Result<Response, ApiError> {
    wish(state, caller, place, false).await
}

async fn wish(
    State(api): State<Api>,
    caller: Caller,
    Path((key, node)): Path<(String, String)>,
    paused: bool,
) -> Result<Response, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    Known::load(&api, &unit).await?.has(&node)?;
    api.store.set_node_wish(&unit.id, &node, paused).await?;
    let action = if paused { "node paused" } else { "node resumed" };
    let entry =
        AuditEntry { actor: caller.name(), action, object: unit.system_uid.clone(), detail: node.clone() };
    api.store.audit(entry).await?;
    let known = Known::load(&api, &unit).await?;
    Ok((StatusCode::ACCEPTED, Json(switch(&known, &node, None))).into_response())
}

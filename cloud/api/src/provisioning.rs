//! Provisioning: registers a Unit and issues its certificates.
//!
//! A repeated call with the same requests has the result of the first, so a lost answer costs nothing.
//! Node passwords are kept sealed; the Unit needs them again when its certificates are renewed.

use std::collections::HashSet;

use aos_cloud_pki::{CertType, Request};
use aos_cloud_store::{AuditEntry, Holder, NewCertificate, NewNode, NewUnit, Role, now_micros};
use aos_ids::{NodeId, SystemId};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Input;

/// Most certificates of one Unit: upstream Units can renew no more at once.
const MAX_CERTIFICATES: usize = 80;
const MAX_NODES: usize = 16;
const MAX_SECRETS: usize = 64 * 1024;
const SECRETS_PURPOSE: &str = "unit secrets";

#[derive(Deserialize)]
pub(crate) struct Registration {
    system_uid: String,
    #[serde(default)]
    model_name: Option<String>,
    #[serde(default)]
    model_version: Option<String>,
    #[serde(default)]
    provisioning_software: Option<String>,
    online_public_csr: String,
    #[serde(default)]
    offline_public_csr: Option<String>,
    #[serde(default)]
    online_public_node_id: Option<String>,
    #[serde(default)]
    offline_public_node_id: Option<String>,
    #[serde(default)]
    additional_csrs: Option<Vec<NodeRequest>>,
    #[serde(default)]
    nodes: Option<Vec<Value>>,
    #[serde(default)]
    secure_data: Option<String>,
}

#[derive(Deserialize)]
struct NodeRequest {
    cert_type: String,
    csr: String,
    #[serde(default)]
    node_id: Option<String>,
}

pub(crate) async fn provision(
    State(api): State<Api>,
    caller: Caller,
    Input(input): Input<Registration>,
) -> Result<Json<Value>, ApiError> {
    caller.require(&[Role::Oem])?;
    let system_id = SystemId::new(input.system_uid.as_str())
        .map_err(|error| ApiError::invalid(format!("system_uid: {error}")))?;
    let nodes =
        read_nodes(input.nodes.as_deref().unwrap_or_default(), input.online_public_node_id.as_deref())?;
    let main = nodes.iter().find(|node| node.is_main).map_or("", |node| node.node_id.as_str()).to_owned();
    let node_of = |node: Option<String>| node.filter(|node| !node.is_empty()).unwrap_or_else(|| main.clone());

    let mut wanted = vec![(CertType::Online, node_of(input.online_public_node_id), input.online_public_csr)];
    if let Some(csr) = input.offline_public_csr {
        wanted.push((CertType::Offline, node_of(input.offline_public_node_id), csr));
    }
    let cloud_facing = wanted.len();
    for additional in input.additional_csrs.into_iter().flatten() {
        let cert_type: CertType = additional.cert_type.parse()?;
        wanted.push((cert_type, node_of(additional.node_id), additional.csr));
    }
    let mut seen = HashSet::new();
    if wanted.len() > MAX_CERTIFICATES || !wanted.iter().all(|(kind, node, _)| seen.insert((*kind, node))) {
        return Err(ApiError::bad_request("more than 80 requests, or two of one type for one node"));
    }

    let sealed_secrets = seal_secrets(&api, input.secure_data.as_deref())?;
    let now = now_micros() / 1_000_000;
    let mut fresh = Vec::with_capacity(wanted.len());
    for (cert_type, node_id, csr) in &wanted {
        let place = |error| match ApiError::from(error) {
            refused if refused.status().is_client_error() => {
                ApiError::bad_request(format!("{} of node '{node_id}': {refused}", cert_type.as_str()))
            }
            other => other,
        };
        let request = Request::from_pem(csr).map_err(place)?;
        let issued = api
            .pki
            .issue_unit(&request, system_id.as_str(), *cert_type, &api.discovery_url, now)
            .map_err(place)?;
        fresh.push(NewCertificate {
            holder: Holder::Nobody,
            cert_type: cert_type.as_str().to_owned(),
            node_id: node_id.clone(),
            issuer: issued.issuer_der,
            serial: issued.serial,
            key_hash: issued.key_hash,
            chain: issued.chain_pem,
            not_before: issued.not_before,
            not_after: issued.not_after,
        });
    }
    let new = NewUnit {
        system_uid: system_id.to_string(),
        company_id: caller.0.company_id.clone(),
        model_name: input.model_name.unwrap_or_default(),
        model_version: input.model_version.unwrap_or_else(|| "Unknown".to_owned()),
        provisioning_software: input.provisioning_software.unwrap_or_default(),
        sealed_secrets,
        nodes,
    };
    let (unit, certificates) = api.store.provision(new, fresh, now).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "provisioned",
        object: unit.system_uid.clone(),
        detail: format!("{} certificates", certificates.len()),
    };
    api.store.audit(entry).await?;
    tracing::info!(unit = unit.system_uid, "provisioned");
    let (facing, additional) = certificates.split_at(cloud_facing.min(certificates.len()));
    let chain = |kind: &str| facing.iter().find(|found| found.cert_type == kind).map(|found| &found.chain);
    let additional: Vec<Value> = additional
        .iter()
        .map(|found| json!({"cert_type": found.cert_type, "node_id": found.node_id, "cert": found.chain}))
        .collect();
    Ok(Json(json!({
        "id": unit.id,
        "system_uid": unit.system_uid,
        "online_certificate": chain("online"),
        "offline_certificate": chain("offline"),
        "additional_certs": additional,
    })))
}

/// The lower bound is exclusive for the tools.
pub(crate) async fn supported_software(_caller: Caller) -> Json<Value> {
    Json(json!({"software": [
        {"name": "aos-provisioning", "min_version": "5.0.0"},
        {"name": "aosctl", "min_version": "0.0.0"},
    ]}))
}

fn read_nodes(nodes: &[Value], online_node: Option<&str>) -> Result<Vec<NewNode>, ApiError> {
    if nodes.len() > MAX_NODES {
        return Err(ApiError::bad_request(format!("a Unit has at most {MAX_NODES} nodes")));
    }
    let mut read = Vec::with_capacity(nodes.len());
    for node in nodes {
        let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let id =
            NodeId::new(text("id")).map_err(|error| ApiError::invalid(format!("nodes[].id: {error}")))?;
        let marked = node.pointer("/attrs/MainNode").is_some();
        read.push(NewNode {
            is_main: marked || nodes.len() == 1 || online_node == Some(id.as_str()),
            node_id: id.to_string(),
            node_type: text("type"),
            name: text("name"),
            status: text("status"),
            info: trimmed(node).to_string(),
        });
    }
    let distinct: HashSet<&str> = read.iter().map(|node| node.node_id.as_str()).collect();
    if distinct.len() != read.len() {
        return Err(ApiError::invalid("nodes[].id: two nodes have the same id"));
    }
    Ok(read)
}

/// The tools leave a slash or a blank where variant or version are empty.
fn trimmed(node: &Value) -> Value {
    let mut node = node.clone();
    let trim = |value: &mut Value, end: char| {
        if let Value::String(text) = value {
            *text = text.trim_end_matches(end).to_owned();
        }
    };
    if let Some(os) = node.get_mut("osType") {
        trim(os, ' ');
    }
    for cpu in node.get_mut("cpus").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(arch) = cpu.get_mut("arch") {
            trim(arch, '/');
        }
    }
    node
}

fn seal_secrets(api: &Api, text: Option<&str>) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let secrets = Some(text).filter(|text| text.len() <= MAX_SECRETS);
    let secrets = secrets.and_then(|text| serde_json::from_str::<Value>(text).ok());
    if !secrets.is_some_and(|secrets| secrets.get("nodes").is_some_and(Value::is_object)) {
        return Err(ApiError::bad_request("secure_data is not the JSON text of node passwords"));
    }
    Ok(Some(api.pki.vault().seal(SECRETS_PURPOSE, text.as_bytes())?))
}

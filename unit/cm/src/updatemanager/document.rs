//! The local status document `cm`.

use std::time::{Instant, UNIX_EPOCH};

use aos_tls::PeerIdentity;
use serde_json::{Value, json};

use super::coordinator::Coordinator;

impl Coordinator {
    pub(super) fn document(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .statuses(Instant::now())
            .into_iter()
            .map(|node| {
                json!({
                    "id": node.identity.codename, "title": node.identity.title, "state": node.state,
                    "connected": node.is_connected, "error": node.error_info,
                })
            })
            .collect();
        let items: Vec<Value> = self
            .parts
            .book
            .records()
            .iter()
            .map(|((id, version), record)| {
                json!({
                    "id": id, "type": record.kind, "version": version, "state": record.state,
                    "error": record.error,
                })
            })
            .collect();
        let instances: Vec<Value> = self
            .launcher
            .statuses()
            .into_iter()
            .map(|status| {
                json!({
                    "id": status.ident.instance_id(), "item": status.ident.item, "subject": status.ident.subject,
                    "instance": status.ident.instance, "version": status.version, "node": status.node,
                    "runtime": status.runtime, "state": status.state, "error": status.error,
                })
            })
            .collect();
        let certificate = |kind: &str, identity: Option<&aos_token::Identity>| {
            let read = PeerIdentity::from_certificate(identity?.leaf()?).ok()?;
            let seconds = read.not_after.duration_since(UNIX_EPOCH).ok()?.as_secs();
            let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
            Some(json!({"type": kind, "serial": hex::encode(&read.serial), "notAfter": time.to_string()}))
        };
        let certificates: Vec<Value> = [("online", &self.parts.online), ("cm", &self.parts.own)]
            .into_iter()
            .filter_map(|(kind, identity)| certificate(kind, identity.borrow().as_deref()))
            .collect();
        json!({
            "systemId": *self.parts.system_id.borrow(),
            "cloud": self.parts.cloud.state(),
            "update": {
                "state": self.machine.state().as_str(),
                "appliedDesired": self.machine.stored().applied,
            },
            "nodes": nodes,
            "items": items,
            "instances": instances,
            "certificates": certificates,
        })
    }
}

//! From the message `desiredStatus` to the wish we keep, and from the wish to run requests.

use std::collections::BTreeMap;

use aos_cloud_protocol::{AosIdentity, DesiredNodeState, DesiredStatus, IdentityType, SubjectType};
use aos_ids::{IdError, ItemKind, OwnerId};

use super::desired::{
    Certificate, Chain, Desired, DesiredInstance, DesiredItem, DesiredNode, DesiredSubject, Trust,
};
use crate::imagemanager::book::Book;
use crate::launcher::records::RunRequest;

/// Most items, instances entries, subjects and nodes of one wish.
const MAX_ENTRIES: usize = 256;
/// Most instances of one Unit.
const MAX_INSTANCES: u64 = 256;
/// Longest version text.
const MAX_VERSION: usize = 32;

/// Why a wish cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWish {
    /// An identity names nothing.
    #[error("desired status: {what}: {source}")]
    Identity {
        /// Where it stands.
        what: &'static str,
        /// Why.
        #[source]
        source: IdError,
    },
    /// An item whose type cannot be on a Unit.
    #[error("desired status: item {0} is no service, component or layer")]
    ItemType(String),
    /// Empty, or too long for any peer.
    #[error("desired status: item {0} has no usable version")]
    Version(String),
    /// The same item twice.
    #[error("desired status: item {0} is listed twice")]
    Twice(String),
    /// More than a Unit can have.
    #[error("desired status: too many {0}")]
    TooMany(&'static str),
}

/// Checks the message and takes it over.
pub fn accept(message: DesiredStatus) -> Result<Desired, BadWish> {
    let named = |what| move |source| BadWish::Identity { what, source };
    let few = |what, count: usize| if count > MAX_ENTRIES { Err(BadWish::TooMany(what)) } else { Ok(()) };
    few("nodes", message.nodes.as_ref().map_or(0, Vec::len))?;
    few("items", message.items.as_ref().map_or(0, Vec::len))?;
    few("instances", message.instances.as_ref().map_or(0, Vec::len))?;
    few("subjects", message.subjects.as_ref().map_or(0, Vec::len))?;
    few("certificates", message.certificates.as_ref().map_or(0, Vec::len))?;

    let nodes = message.nodes.unwrap_or_default().into_iter().map(|node| {
        let id = node.item.node_id().map_err(named("nodes"))?;
        Ok(DesiredNode { id, paused: node.state == DesiredNodeState::Paused })
    });
    let item = |item: aos_cloud_protocol::DesiredItem| {
        let id = item.item.item_id().map_err(named("items"))?;
        let kind = kind_of(&item.item).ok_or_else(|| BadWish::ItemType(id.to_string()))?;
        if item.version.is_empty() || item.version.len() > MAX_VERSION {
            return Err(BadWish::Version(id.to_string()));
        }
        let owner: OwnerId = item.owner.owner_id().map_err(named("items: owner"))?;
        Ok(DesiredItem { id, kind, version: item.version, owner, index: item.index_digest })
    };
    let items =
        message.items.map(|items| items.into_iter().map(item).collect::<Result<Vec<_>, _>>()).transpose()?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = items.iter().flatten().find(|item| !seen.insert(&item.id)) {
        return Err(BadWish::Twice(twice.id.to_string()));
    }
    let instance = |one: aos_cloud_protocol::DesiredInstance| {
        Ok(DesiredInstance {
            item: one.item.item_id().map_err(named("instances: item"))?,
            subject: one.subject.subject_id().map_err(named("instances: subject"))?,
            priority: one.priority.into(),
            count: one.num_instances.into(),
            labels: one.labels,
        })
    };
    let instances = message.instances.map(|all| all.into_iter().map(instance).collect::<Result<Vec<_>, _>>());
    let instances = instances.transpose()?;
    if instances.iter().flatten().map(|one| one.count).sum::<u64>() > MAX_INSTANCES {
        return Err(BadWish::TooMany("instances"));
    }
    let subject = |one: aos_cloud_protocol::Subject| {
        Ok(DesiredSubject {
            id: one.identity.subject_id().map_err(named("subjects"))?,
            user: one.kind == SubjectType::User,
            reported_from_unit: one.is_reported_from_unit,
        })
    };
    let subjects = message.subjects.map(|all| all.into_iter().map(subject).collect::<Result<Vec<_>, _>>());
    let certificate = |one: aos_cloud_protocol::CertificateInfo| Certificate {
        fingerprint: one.fingerprint,
        der: one.certificate.0,
    };
    let chain =
        |one: aos_cloud_protocol::CertificateChain| Chain { name: one.name, fingerprints: one.fingerprints };
    Ok(Desired {
        nodes: nodes.collect::<Result<_, _>>()?,
        unit_config: message.unit_config.and_then(|config| serde_json::to_value(config).ok()),
        items,
        instances,
        subjects: subjects.transpose()?,
        trust: Trust {
            certificates: message.certificates.unwrap_or_default().into_iter().map(certificate).collect(),
            chains: message.certificate_chains.unwrap_or_default().into_iter().map(chain).collect(),
        },
    })
}

fn kind_of(identity: &AosIdentity) -> Option<ItemKind> {
    match identity.kind? {
        IdentityType::Service => Some(ItemKind::Service),
        IdentityType::Component => Some(ItemKind::Component),
        IdentityType::Layer => Some(ItemKind::Layer),
        _ => None,
    }
}

/// What is to run for this wish. An item whose wanted version could not be had runs in the version that is
/// installed. `None` when the wish leaves instances as they are.
pub fn run_requests(desired: &Desired, book: &Book) -> Option<Vec<RunRequest>> {
    let items: BTreeMap<_, _> = desired.items.iter().flatten().map(|item| (&item.id, item)).collect();
    let subjects: BTreeMap<_, _> =
        desired.subjects.iter().flatten().map(|subject| (&subject.id, subject)).collect();
    let request = |wish: &DesiredInstance| {
        let Some(item) = items.get(&wish.item) else {
            tracing::error!("instances of item {} are wished, but not the item", wish.item);
            return None;
        };
        let version =
            book.usable(&item.id, &item.version).map_or(item.version.as_str(), |(version, _)| version);
        Some(RunRequest {
            item: item.id.clone(),
            kind: item.kind,
            version: version.to_owned(),
            owner: item.owner.clone(),
            subject: wish.subject.clone(),
            unit_subject: subjects.get(&wish.subject).is_some_and(|subject| subject.reported_from_unit),
            priority: wish.priority,
            count: wish.count,
            labels: wish.labels.clone(),
        })
    };
    desired.instances.as_ref().map(|wishes| wishes.iter().filter_map(request).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &serde_json::Value) -> DesiredStatus {
        let envelope = serde_json::json!({
            "header": {"version": 7, "systemId": "u", "createdAt": "2026-01-01T00:00:00Z", "txn": "t"},
            "data": text
        });
        let read = aos_cloud_protocol::read(
            envelope.to_string().as_bytes(),
            aos_cloud_protocol::Direction::CloudToUnit,
        );
        match read.unwrap().body {
            aos_cloud_protocol::Body::DesiredStatus(status) => status,
            other => panic!("{other:?}"),
        }
    }

    // CM-24, CM-41
    #[test]
    fn a_wish_of_all_kinds() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let wish = accept(message(&serde_json::json!({
            "messageType": "desiredStatus",
            "nodes": [{"item": {"codename": "rear", "type": "node"}, "state": "paused"}],
            "unitConfig": {"version": "1.0.0", "formatVersion": "7", "nodes": []},
            "items": [{"item": {"id": "i", "type": "AosService"}, "version": "1.0.0", "owner": {"id": "sp"},
                       "indexDigest": digest}],
            "instances": [{"item": {"id": "i"}, "subject": {"id": "s"}}],
            "subjects": [{"identity": {"id": "s"}, "type": "user", "isReportedFromUnit": true}]
        })))
        .unwrap();
        assert!(wish.nodes[0].paused);
        assert!(wish.unit_config.is_some());
        let requests = run_requests(&wish, &Book::default()).unwrap();
        assert_eq!((requests[0].count, requests[0].unit_subject), (1, true));
        let text = serde_json::to_string(&wish).unwrap();
        assert_eq!(serde_json::from_str::<Desired>(&text).unwrap(), wish);
    }

    #[test]
    fn lists_left_out_stay_unknown() {
        let wish =
            accept(message(&serde_json::json!({"messageType": "desiredStatus", "items": null}))).unwrap();
        assert_eq!((&wish.items, &wish.instances), (&None, &None));
        assert_eq!(run_requests(&wish, &Book::default()), None);
    }

    #[test]
    fn wrong_wishes_are_refused_as_a_whole() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let item = |id: &str, kind: &str, version: &str| {
            serde_json::json!({"item": {"id": id, "type": kind}, "version": version, "owner": {"id": "sp"},
                               "indexDigest": digest})
        };
        let wrong = [
            vec![item("i", "fleet", "1.0.0")],
            vec![item("i", "service", "")],
            vec![item("", "service", "1.0.0")],
            vec![item("i", "service", "1.0.0"), item("i", "service", "2.0.0")],
        ];
        for items in wrong {
            let message = message(&serde_json::json!({"messageType": "desiredStatus", "items": items}));
            assert!(accept(message).is_err());
        }
    }
}

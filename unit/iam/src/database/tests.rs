use std::collections::BTreeMap;

use aos_status::{AosCode, ErrorInfo, NodeState};

use super::*;
use crate::currentnode::{Cpu, OsInfo, Partition};

fn record(serial: u8) -> CertRecord {
    CertRecord {
        cert_type: "online".into(),
        issuer: vec![1, 0, 2],
        serial: vec![serial],
        cert_url: "cert".into(),
        key_url: "key".into(),
        not_after: 4_102_444_800_000_000_000,
    }
}

fn node() -> NodeInfo {
    NodeInfo {
        node_id: "node".into(),
        node_type: "type".into(),
        title: "title".into(),
        max_dmips: 1,
        total_ram: 2,
        physical_ram: Some(3),
        os: OsInfo { os: "linux".into(), version: Some("6".into()), features: vec!["one".into()] },
        cpus: vec![Cpu {
            model_name: "model".into(),
            cores: 4,
            threads: 8,
            architecture: "arm64".into(),
            variant: Some("v8".into()),
            max_dmips: None,
        }],
        partitions: vec![Partition {
            name: "work".into(),
            path: "/work".into(),
            types: vec!["services".into()],
            total_size: 5,
        }],
        attrs: BTreeMap::from([("MainNode".into(), String::new())]),
        state: NodeState::Error,
        error: Some(ErrorInfo::new(AosCode::Failed, "broken")),
    }
}

// IAM 26.16
#[test]
fn certificates_take_their_key_from_the_waiting_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.add_pending_key("online", b"one").unwrap();
    store.add_pending_key("online", b"two").unwrap();
    store.add_pending_key("offline", b"two").unwrap();
    store.add_certificate(&record(1), b"one").unwrap();
    assert_eq!(store.add_certificate(&record(1), b"two").unwrap_err().code(), AosCode::Failed);
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.certificates().unwrap(), [record(1)]);
    assert_eq!(store.pending_keys("online").unwrap(), [b"two"]);
    store.clear_type("online").unwrap();
    assert!(store.certificates().unwrap().is_empty());
    assert_eq!(store.pending_keys("offline").unwrap(), [b"two"]);
    store.remove_certificate(b"none", b"none").unwrap();
}

// IAM-07
#[test]
fn nodes_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.set_node(&node()).unwrap();
    store.set_node(&NodeInfo { title: "other".into(), ..node() }).unwrap();
    assert_eq!(store.nodes().unwrap(), [NodeInfo { title: "other".into(), ..node() }]);
    store.connection.execute("INSERT INTO nodeinfo VALUES ('broken', 'no JSON')", []).unwrap();
    assert_eq!(store.nodes().unwrap().len(), 1, "an unreadable row hides no other");
    store.remove_node("node").unwrap();
    assert!(store.nodes().unwrap().is_empty());
}

// A database left by the reference implementation is taken over.
// IAM-07
#[test]
fn a_database_of_the_reference_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let old = rusqlite::Connection::open(dir.path().join(FILE_NAME)).unwrap();
    old.execute_batch(
        "CREATE TABLE SchemaVersion (version INTEGER);
         INSERT INTO SchemaVersion VALUES (1);
         CREATE TABLE certificates (type TEXT NOT NULL, issuer BLOB NOT NULL, serial BLOB NOT NULL,
             certURL TEXT, keyURL TEXT, notAfter TIMESTAMP, PRIMARY KEY (issuer, serial));
         INSERT INTO certificates VALUES ('online', x'010002', x'01', 'cert', 'key', 4102444800000000000);
         CREATE TABLE nodeinfo (id TEXT NOT NULL PRIMARY KEY, info TEXT);",
    )
    .unwrap();
    drop(old);
    assert_eq!(Store::open(dir.path()).unwrap().certificates().unwrap(), [record(1)]);
}

//! The blobs flow: addresses on request, bytes that are useless to others, signatures the Unit checks.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aos_testbed::{http, tls_probe};
use common::{LIMIT, Scene, Way};
use serde_json::Value;

fn fetch(scene: &Scene, url: &str) -> http::Answer {
    let path = url.splitn(4, '/').nth(3).unwrap();
    let (address, root) = (&scene.stage.cloud.endpoints().blobs, scene.stage.cloud.root_certificate());
    // No client certificate: the address alone opens the door.
    let mut stream = tls_probe::connect(address, &root, None, LIMIT).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    http::parse(&tls_probe::ask(&mut stream, &request).unwrap()).unwrap()
}

fn plain_blobs(dir: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            plain_blobs(&entry.path(), found);
        } else if dir.ends_with("sha256") {
            found.insert(format!("sha256:{}", entry.file_name().to_str().unwrap()), entry.path());
        }
    }
}

// REL-15
#[test]
fn blobs_are_asked_for_one_by_one_and_served_encrypted_and_signed() {
    let mut scene = Scene::online("e2e-blobs");
    scene.deploy("1.0.0", "one");

    let requests = scene.sent(Way::Out, "requestBlobUrls");
    let answers = scene.sent(Way::In, "blobUrls");
    assert!(requests.len() >= 4, "index, manifest, configurations and layer: {}", requests.len());
    let mut infos: BTreeMap<String, Value> = BTreeMap::new();
    for request in &requests {
        scene.wait_acked(request);
        assert!(!request.correlation_id().is_empty());
        assert_ne!(request.correlation_id(), request.txn());
        let mine: Vec<_> =
            answers.iter().filter(|answer| answer.correlation_id() == request.correlation_id()).collect();
        let [answer] = mine.as_slice() else { panic!("{} answers", mine.len()) };
        scene.wait_acked(answer);
        let asked: Vec<&str> =
            request.data()["digests"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        let items = answer.data()["items"].as_array().unwrap();
        let told: Vec<&str> = items.iter().map(|item| item["digest"].as_str().unwrap()).collect();
        assert_eq!(told, asked, "answers keep the order of the request");
        infos.extend(items.iter().map(|item| (item["digest"].as_str().unwrap().to_owned(), item.clone())));
    }
    let correlations: BTreeSet<&str> = requests.iter().map(common::Frame::correlation_id).collect();
    assert_eq!(correlations.len(), requests.len(), "each request has its own");

    let desired = scene.sent(Way::In, "desiredStatus").pop().unwrap();
    let chains = desired.data()["certificateChains"].as_array().unwrap();
    let mut plain = BTreeMap::new();
    plain_blobs(&scene.stage.unit.dir().join("cm"), &mut plain);
    for (digest, info) in &infos {
        let served = fetch(&scene, info["urls"][0].as_str().unwrap());
        assert_eq!(served.status, 200);
        assert_eq!(served.body.len() as u64, info["size"].as_u64().unwrap());
        let content = fs::read(&plain[digest]).unwrap();
        assert_ne!(served.body, content, "{digest} is served encrypted");
        let piece = &content[..content.len().min(32)];
        assert!(
            !served.body.windows(piece.len()).any(|window| window == piece),
            "{digest} is served encrypted"
        );
        for (member, field) in
            [("decryptInfo", "blockKey"), ("decryptInfo", "blockIv"), ("signInfo", "value")]
        {
            assert!(
                info[member][field].as_str().is_some_and(|text| !text.is_empty()),
                "{member}.{field}: {info}"
            );
        }
        let chain = &info["signInfo"]["chainName"];
        assert!(chains.iter().any(|known| known["name"] == *chain), "{chain} is in {chains:?}");
    }

    // An address works for its own blob and for nothing else.
    let url = |index: usize| infos.values().nth(index).unwrap()["urls"][0].as_str().unwrap().to_owned();
    let (first, second) = (url(0), url(1));
    let token = |url: &str| url.split_once('?').unwrap().1.to_owned();
    let crossed = first.replace(&token(&first), &token(&second));
    assert_eq!(fetch(&scene, &crossed).status, 403);
    assert_eq!(fetch(&scene, first.split('?').next().unwrap()).status, 403);

    // Each blob was fetched once by the Unit and once here, whatever the number of questions.
    for digest in infos.keys() {
        let (requests, _) = scene.stage.served(digest).unwrap();
        assert_eq!(requests, 2, "{digest}");
    }
}

//! The published vector: blob, desired status and root of one made-up cloud.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

fn folder() -> Option<PathBuf> {
    let shared = std::env::var_os("AOS_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    Some(shared.join("spec/examples/v7")).filter(|folder| folder.is_dir())
}

// PRO-46, PRO-47, PRO-105, PRO-106, CLO-30
#[test]
fn the_published_vector_unpacks() {
    let Some(folder) = folder() else {
        eprintln!("skipped: no folder of published vectors (AOS_SHARED)");
        return;
    };
    let json =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let blob = json("cloud-to-unit-blobUrls.json")["data"]["items"][0].clone();
    let desired = json("cloud-to-unit-desiredStatus.json")["data"].clone();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let root = std::fs::read(folder.join("crypto/ca.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&root).unwrap();
    let chains = ChainStore::new(
        list(&desired["certificates"]).iter().map(|c| (text(&c["fingerprint"]), bytes(&c["certificate"]))),
        list(&desired["certificateChains"])
            .iter()
            .map(|c| (text(&c["name"]), list(&c["fingerprints"]).iter().map(text).collect())),
        [pem.contents],
    );
    let sign = &blob["signInfo"];
    let timestamp: jiff::Timestamp = text(&sign["trustedTimestamp"]).parse().unwrap();
    let decrypt = &blob["decryptInfo"];
    let digest: Digest = text(&blob["digest"]).parse().unwrap();
    let recipe = Recipe {
        digest,
        served: Some(ServedDigest::parse(&text(&blob["sha256"])).unwrap()),
        decryption: Some(
            Decryption::new(
                &text(&decrypt["blockAlg"]),
                &bytes(&decrypt["blockKey"]),
                &bytes(&decrypt["blockIv"]),
            )
            .unwrap(),
        ),
        signature: Some((
            SignatureInfo {
                chain_name: text(&sign["chainName"]),
                alg: text(&sign["alg"]),
                value: bytes(&sign["value"]),
                trusted_timestamp: Some(timestamp.into()),
            },
            &chains,
        )),
    };
    let served = std::fs::read(folder.join(format!("crypto/{}.enc", digest.hex()))).unwrap();
    let plain = std::fs::read(folder.join(format!("crypto/{}.dec", digest.hex()))).unwrap();
    assert_eq!(run(&served, &recipe).unwrap(), plain);
}

//! Blobs end to end: what is uploaded, and what a Unit gets and can verify.

use std::time::SystemTime;

use aos_blob_crypto::{ChainStore, ServedDigest, SignatureInfo};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    pki: Arc<Pki>,
    store: Store,
    blobs: Blobs,
}

fn now() -> i64 {
    aos_cloud_store::now_micros() / 1_000_000
}

fn digest(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Digest::from_sha256(hash.as_ref().try_into().unwrap())
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &["localhost".to_owned()], now()).unwrap();
        let store = Store::open(&dir.path().join("cloud.db")).unwrap();
        let (counter, task) = Counter::new(store.clone());
        tokio::spawn(task);
        let pki = Arc::new(pki);
        let blobs =
            Blobs::open(&dir.path().join("blobs"), store.clone(), Arc::clone(&pki), counter).await.unwrap();
        Self { dir, pki, store, blobs }
    }

    async fn put(&self, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        self.upload(digest, bytes).await.unwrap();
        digest
    }

    async fn upload(&self, digest: Digest, bytes: &[u8]) -> Result<bool, BlobError> {
        let pieces: Vec<Result<Bytes, ()>> =
            bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.blobs.upload(digest, stream::iter(pieces)).await
    }

    async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.blobs.routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("blobs")).unwrap().count()
    }
}

// CLO-30
#[tokio::test]
async fn what_is_served_decrypts_and_verifies() {
    let fixture = Fixture::new().await;
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = fixture.put(&content).await;
    assert!(!fixture.upload(digest, &content).await.unwrap(), "there already");
    assert_eq!(fixture.blobs.find(&digest).await.unwrap().unwrap().size, content.len() as u64);

    let address = fixture.blobs.address(&digest, now());
    let (status, headers, served) = fixture.get(&address, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["accept-ranges"], "bytes");
    let blob = fixture.blobs.find(&digest).await.unwrap().unwrap();
    assert_eq!(served.len() as u64, blob.served_size);
    assert_ne!(&served[..content.len().min(64)], &content[..64]);

    let certificates: Vec<(String, Vec<u8>)> =
        fixture.pki.signer().certificates().map(|(der, fingerprint)| (fingerprint, der.to_vec())).collect();
    let fingerprints = certificates.iter().map(|(label, _)| label.clone()).collect();
    let chains = ChainStore::new(
        certificates,
        [(blob.chain_name.clone(), fingerprints)],
        [fixture.pki.root_der().to_vec()],
    );
    let signed = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(blob.signed_at.unsigned_abs());
    let recipe = Recipe {
        digest,
        served: Some(ServedDigest::parse(&blob.sha3).unwrap()),
        decryption: Some(
            Decryption::new(BLOCK_ALG, &fixture.blobs.content_key(&blob).unwrap(), &blob.iv).unwrap(),
        ),
        signature: Some((
            SignatureInfo {
                chain_name: blob.chain_name.clone(),
                alg: SIGN_ALG.to_owned(),
                value: blob.signature.clone(),
                trusted_timestamp: Some(signed),
            },
            &chains,
        )),
    };
    let mut plain = Vec::new();
    aos_blob_crypto::unpack(served.as_slice(), &mut plain, &recipe, SystemTime::now()).unwrap();
    assert_eq!(plain, content);
}

#[tokio::test]
async fn a_bad_upload_leaves_nothing() {
    let fixture = Fixture::new().await;
    let wrong = fixture.upload(digest(b"other"), b"content").await;
    assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
    let pieces = [Ok(Bytes::from_static(b"cont")), Err(())];
    let broken = fixture.blobs.upload(digest(b"content"), stream::iter(pieces)).await;
    assert!(matches!(broken, Err(BlobError::BrokenOff)));
    assert_eq!(fixture.files(), 0);
    assert!(fixture.blobs.find(&digest(b"content")).await.unwrap().is_none());
}

#[tokio::test]
async fn uploads_of_the_same_content_at_once_keep_one() {
    let fixture = Fixture::new().await;
    let content = vec![7; 50_000];
    let digest = digest(&content);
    let (one, two) = tokio::join!(fixture.upload(digest, &content), fixture.upload(digest, &content));
    assert!(one.unwrap() != two.unwrap());
    assert_eq!(fixture.files(), 1);
    assert_eq!(fixture.blobs.document(&digest).await.unwrap().unwrap(), content);
}

#[tokio::test]
async fn left_overs_of_a_crash_are_removed_at_start() {
    let fixture = Fixture::new().await;
    fixture.put(b"content").await;
    std::fs::write(fixture.dir.path().join("blobs/.half.tmp"), "half").unwrap();
    std::fs::write(fixture.dir.path().join("blobs").join("ab".repeat(32)), "no row").unwrap();
    let (counter, _task) = Counter::new(fixture.store.clone());
    let dir = fixture.dir.path().join("blobs");
    let again = Blobs::open(&dir, fixture.store.clone(), Arc::clone(&fixture.pki), counter).await.unwrap();
    assert_eq!(fixture.files(), 1);
    assert_eq!(again.document(&digest(b"content")).await.unwrap().unwrap(), b"content");
}

#[tokio::test]
async fn ranges_resume_a_download() {
    let fixture = Fixture::new().await;
    let digest = fixture.put(&[9; 5000]).await;
    let address = fixture.blobs.address(&digest, now());
    let (_, headers, whole) = fixture.get(&address, &[]).await;
    let etag = headers["etag"].to_str().unwrap().to_owned();

    let (status, headers, tail) =
        fixture.get(&address, &[("range", "bytes=1000-"), ("if-range", &etag)]).await;
    assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(headers["content-range"], format!("bytes 1000-{}/{}", whole.len() - 1, whole.len()));
    assert_eq!(tail, whole[1000..]);

    let (status, _, all) = fixture.get(&address, &[("range", "bytes=1000-"), ("if-range", "\"old\"")]).await;
    assert_eq!((status, all.len()), (StatusCode::OK, whole.len()));
    let (status, headers, _) = fixture.get(&address, &[("range", "bytes=999999-")]).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(headers["content-range"], format!("bytes */{}", whole.len()));
    let (status, _, _) = fixture.get(&address, &[("if-none-match", &etag)]).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);

    fixture.blobs.inner.counter.flush().await;
    let served = fixture.store.served(&digest.to_string()).await.unwrap().unwrap();
    assert_eq!(served.requests, 3);
    assert_eq!(served.bytes, (whole.len() * 2 + tail.len()) as u64);
}

#[tokio::test]
async fn addresses_expire_and_cannot_be_made_up() {
    let fixture = Fixture::new().await;
    let digest = fixture.put(b"content").await;
    let other = fixture.put(b"other").await;
    let old = fixture.blobs.address(&digest, now() - TOKEN_LIFETIME - 1);
    let good = fixture.blobs.address(&digest, now());
    let swapped = good.replace(&digest.hex(), &other.hex());
    let later = {
        let (head, tail) = good.split_once("?t=").unwrap();
        let (until, tag) = tail.split_once('.').unwrap();
        format!("{head}?t={}.{tag}", until.parse::<i64>().unwrap() + 1)
    };
    let bare = format!("/blobs/{}", digest.hex());
    for address in [old, swapped, later, bare.clone(), format!("{bare}?t=x"), format!("{bare}?t=1.x")] {
        assert_eq!(fixture.get(&address, &[]).await.0, StatusCode::FORBIDDEN, "{address}");
    }
}

async fn publish(fixture: &Fixture, edit: impl FnOnce(&mut serde_json::Value)) -> Result<Tree, BlobError> {
    use serde_json::json;
    let put = async |media_type: &str, bytes: &[u8]| {
        let digest = fixture.put(bytes).await.to_string();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layer = put("application/vnd.oci.image.layer.v1.tar", b"layer").await;
    let diff_id = layer["digest"].clone();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()).await;
    let item = br#"{"created": "2026-01-01T00:00:00Z"}"#;
    let item = put("application/vnd.aos.item.config.v1+json", item).await;
    let mut manifest =
        json!({"schemaVersion": 2, "config": config, "aosItemConfig": item, "layers": [layer]});
    edit(&mut manifest);
    let manifest = manifest.to_string();
    let manifest = put("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes()).await;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    let index = fixture.put(index.as_bytes()).await;
    fixture.blobs.check_tree(index, true).await
}

#[tokio::test]
async fn a_version_is_checked_as_a_whole() {
    let fixture = Fixture::new().await;
    let tree = publish(&fixture, |_| {}).await.unwrap();
    assert_eq!(tree.blobs.len(), 5);
    let absent = digest(b"absent").to_string();
    let refused = |outcome| assert!(matches!(outcome, Err(BlobError::Tree(_))), "{outcome:?}");
    refused(publish(&fixture, |m| m["layers"][0]["digest"] = absent.into()).await);
    refused(publish(&fixture, |m| m["layers"][0]["size"] = 6.into()).await);
    refused(publish(&fixture, |m| m["layers"] = serde_json::json!([])).await);
    refused(publish(&fixture, |m| m["aosItemConfig"] = serde_json::Value::Null).await);
    let odd = fixture.put(br#"{"quotas": "many"}"#).await.to_string();
    refused(
        publish(&fixture, |m| {
            m["aosItemConfig"]["digest"] = odd.into();
            m["aosItemConfig"]["size"] = 18.into();
        })
        .await,
    );
    refused(publish(&fixture, |m| m["config"]["digest"] = "sha256:../../etc/passwd".into()).await);
    refused(fixture.blobs.check_tree(digest(b"absent"), true).await);
}

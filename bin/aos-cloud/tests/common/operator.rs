//! People: enrolment, and calls of the API in their name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::client::{Answer, Credentials, key_and_csr, request, tls};

/// Somebody with a user certificate.
pub struct Operator {
    pub credentials: Credentials,
    data: PathBuf,
    api: String,
}

/// A call without certificate.
pub async fn anonymous(api: &str, data: &Path, call: Request<Full<Bytes>>) -> Answer {
    request(api, &tls(data, None), call).await.unwrap()
}

pub fn enrolment(token: &str, csr: &str) -> Request<Full<Bytes>> {
    Request::post("/api/v11/user-certificates/")
        .header("authorization", format!("Token {token}"))
        .body(Full::from(json!({"csr": csr}).to_string()))
        .unwrap()
}

impl Operator {
    /// Uses up a token.
    pub async fn enrol(api: &str, data: &Path, token: &str) -> Self {
        let (key, csr) = key_and_csr(|_| {});
        let answer = anonymous(api, data, enrolment(token, &csr)).await.ok().json();
        let chain = answer["certificate"].as_str().unwrap();
        let credentials = Credentials::from_pem(chain, &key.serialize_pem());
        Self { credentials, data: data.to_owned(), api: api.to_owned() }
    }

    /// The first administrator.
    pub async fn admin(api: &str, data: &Path) -> Self {
        let token = std::fs::read_to_string(data.join("bootstrap-token")).unwrap();
        Self::enrol(api, data, token.trim()).await
    }

    /// Somebody invited by an administrator.
    pub async fn invited(&self, role: &str, company: &str, username: &str) -> Self {
        let invitation = json!({"role": role, "company": company, "username": username});
        let answer = self.post("users/", &invitation).await.ok().json();
        Self::enrol(&self.api, &self.data, answer["token"].as_str().unwrap()).await
    }

    pub async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let call = Request::builder()
            .method(method)
            .uri(format!("/api/v11/{path}"))
            .body(Full::new(body.into()))
            .unwrap();
        request(&self.api, &self.tls(), call).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, body.to_string()).await
    }

    fn tls(&self) -> Arc<ClientConfig> {
        tls(&self.data, Some(&self.credentials))
    }

    /// Uploads content and returns its digest.
    pub async fn upload(&self, content: &[u8]) -> String {
        let digest = digest(content);
        let answer = self.call("PUT", &format!("blobs/{digest}"), content.to_vec()).await;
        answer.ok();
        digest
    }

    /// Publishes a service of one layer; returns the item's id and the digests of all blobs.
    pub async fn publish(&self, codename: &str, version: &str, layer: &[u8]) -> (String, Vec<String>) {
        let put = async |media_type: &str, bytes: &[u8]| {
            let digest = self.upload(bytes).await;
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let layer_blob = put("application/vnd.oci.image.layer.v1.tar", layer).await;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        });
        let config = config.to_string();
        let config = put("application/vnd.oci.image.config.v1+json", config.as_bytes()).await;
        let item_config = br#"{"created":"2026-01-01T00:00:00Z","author":"t"}"#;
        let item_config = put("application/vnd.aos.item.config.v1+json", item_config).await;
        let manifest = json!({
            "schemaVersion": 2, "config": config, "aosItemConfig": item_config, "layers": [layer_blob],
        });
        let text = manifest.to_string();
        let manifest_blob = put("application/vnd.oci.image.manifest.v1+json", text.as_bytes()).await;
        let index = json!({"schemaVersion": 2, "manifests": [manifest_blob]});
        let index = self.upload(index.to_string().as_bytes()).await;
        let of = |blob: &Value| blob["digest"].as_str().unwrap().to_owned();
        let digests = vec![
            index.clone(),
            of(&manifest_blob),
            of(&manifest["config"]),
            of(&manifest["aosItemConfig"]),
            of(&manifest["layers"][0]),
        ];
        let item = json!({"type": "service", "codename": codename});
        let item = self.post("update-items/", &item).await.ok().json();
        let id = item["id"].as_str().unwrap().to_owned();
        let new = json!({"version": version, "index_digest": index});
        self.post(&format!("update-items/{id}/versions/"), &new).await.ok();
        (id, digests)
    }

    /// Assigns an item to a Unit.
    pub async fn assign(&self, unit: &str, item: &str, body: &Value) {
        self.call("PUT", &format!("units/{unit}/assignments/{item}/"), body.to_string()).await.ok();
    }

    /// Polls the Unit's status until `done` likes it.
    pub async fn status_until(&self, unit: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut path = format!("units/{unit}/status/");
        let mut last = Value::Null;
        let poll = async {
            loop {
                last = self.get(&path).await.ok().json();
                if done(&last) {
                    return;
                }
                path = format!("units/{unit}/status/?after={}&wait=10", last["revision"]);
            }
        };
        let in_time = tokio::time::timeout(super::LIMIT, poll).await;
        assert!(in_time.is_ok(), "status is {last:#}");
        last
    }
}

pub fn digest(content: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    let value: [u8; 32] = hash.as_ref().try_into().unwrap();
    aos_ids::Digest::from_sha256(value).to_string()
}

//! The cloud's REST API as this program uses it: one client, errors in words.

use std::fmt::Write as _;
use std::io::Cursor;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::output::elements;
use crate::profile::Profile;

/// Longer than the server's longest long poll, so that a poll is answered and not cut off.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Longest answer that is read, bytes; far above what the cloud sends.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

pub struct Cloud {
    http: reqwest::Client,
    base: String,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the cloud answered {}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for Refused {}

impl Cloud {
    /// A client that shows the profile's certificate.
    pub fn connect(profile: &Profile) -> Result<Self> {
        let chain = CertificateDer::pem_reader_iter(Cursor::new(&profile.chain_pem))
            .collect::<Result<Vec<_>, _>>()
            .context("the saved certificate is damaged; run `aosctl login` again")?;
        let key = PrivateKeyDer::from_pem_slice(&profile.key_pem)
            .context("the saved key is damaged; run `aosctl login` again")?;
        let tls = roots(&profile.ca_pem)?.with_client_auth_cert(chain, key)?;
        Self::with_tls(&profile.cloud, tls)
    }

    /// A client without a certificate, which may only enrol.
    pub fn anonymous(cloud: &str, ca_pem: &[u8]) -> Result<Self> {
        Self::with_tls(cloud, roots(ca_pem)?.with_no_client_auth())
    }

    fn with_tls(cloud: &str, tls: rustls::ClientConfig) -> Result<Self> {
        let base = cloud.trim_end_matches('/');
        if !base.starts_with("https://") {
            bail!("'{cloud}' is no address of a cloud; expected https://HOST[:PORT]");
        }
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(TIMEOUT).build()?;
        Ok(Self { http, base: base.to_owned() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v11/{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::GET, path)).await
    }

    /// All entries of a list, which the cloud hands out in pages; `path` has no parameters.
    pub async fn list(&self, path: &str) -> Result<Value> {
        let mut items: Vec<Value> = Vec::new();
        loop {
            let page = self.get(&format!("{path}?offset={}", items.len())).await?;
            let count = elements(&page).len();
            items.extend(elements(&page).iter().cloned());
            if count == 0 || page["total"].as_u64().is_none_or(|total| items.len() as u64 >= total) {
                return Ok(json!({ "items": items, "total": items.len(), "offset": 0 }));
            }
        }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub async fn post_with_token(&self, path: &str, token: &str, body: &Value) -> Result<Value> {
        let authorization = format!("Token {token}");
        self.json(self.request(Method::POST, path).header("Authorization", authorization).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    /// Puts a text as it is.
    pub async fn put_text(&self, path: &str, body: String) -> Result<Value> {
        let request = self.request(Method::PUT, path).header("Content-Type", "text/plain; charset=utf-8");
        self.json(request.body(body)).await
    }

    /// A document of any length, to be read piece by piece.
    pub async fn open(&self, path: &str) -> Result<Response> {
        self.send(self.request(Method::GET, path).timeout(Duration::from_hours(1))).await
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, path)).await.map(|_| ())
    }

    /// Whether something is there.
    pub async fn has(&self, path: &str) -> Result<bool> {
        match self.send(self.request(Method::HEAD, path)).await {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, StatusCode::NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads `body`, whose length is `size` bytes. Uploads may take long, so they have no time limit.
    pub async fn upload(&self, path: &str, body: reqwest::Body, size: u64) -> Result<()> {
        let request = self.request(Method::PUT, path).header("Content-Length", size).body(body);
        self.send(request.timeout(Duration::from_hours(24))).await.map(|_| ())
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value> {
        let text = body(self.send(request).await?).await?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context("the cloud's answer is not JSON; is this an AosEdge cloud?")
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.explain(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = body(response).await.unwrap_or_default();
        Err(anyhow!(Refused { status, message: message_of(&text, status) }))
    }

    fn explain(&self, error: reqwest::Error) -> anyhow::Error {
        let advice = if error.is_timeout() {
            "it did not answer in time"
        } else if error.is_connect() {
            "is it running, is the address right, and is --ca its root certificate?"
        } else {
            "the exchange failed"
        };
        anyhow::Error::new(error).context(format!("cannot reach the cloud at {}: {advice}", self.base))
    }
}

/// The text of an answer, up to a limit.
async fn body(mut response: Response) -> Result<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.context("the cloud's answer broke off")? {
        if bytes.len() + piece.len() > LARGEST_ANSWER {
            bail!("the cloud's answer is longer than {LARGEST_ANSWER} bytes");
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).context("the cloud's answer is no text")
}

/// A name or id given by a person as one part of a path, whatever characters it has.
pub fn segment(name: &str) -> Result<String> {
    if matches!(name, "" | "." | "..") {
        bail!("'{name}' is no name and no id");
    }
    let mut part = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            part.push(char::from(byte));
        } else {
            let _ = write!(part, "%{byte:02X}");
        }
    }
    Ok(part)
}

/// Whether `error` is an answer of the cloud with `status`.
pub fn is_status(error: &anyhow::Error, status: StatusCode) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == status)
}

fn roots(
    ca_pem: &[u8],
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(Cursor::new(ca_pem)) {
        roots.add(certificate.context("the root certificate file is damaged")?)?;
    }
    if roots.is_empty() {
        bail!("the root certificate file holds no certificate");
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots))
}

/// The sentence for people in an error body; its form varies with the kind of error.
fn message_of(text: &str, status: StatusCode) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let mut message = match &value["message"] {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        _ => String::new(),
    };
    if let Value::Array(details) = &value["detail"] {
        let parts = details.iter().map(|d| d["msg"].as_str().map_or_else(|| d.to_string(), str::to_owned));
        let whole: Vec<_> = std::iter::once(message).filter(|m| !m.is_empty()).chain(parts).collect();
        message = whole.join("; ");
    }
    if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").clone_into(&mut message);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_part_of_the_path() {
        assert_eq!(segment("gateway-1").unwrap(), "gateway-1");
        assert_eq!(segment("a/../b?c#d e").unwrap(), "a%2F..%2Fb%3Fc%23d%20e");
        for name in ["", ".", ".."] {
            assert!(segment(name).is_err(), "{name}");
        }
    }

    #[test]
    fn error_bodies_become_sentences() {
        let of = |text| message_of(text, StatusCode::BAD_REQUEST);
        assert_eq!(of(r#"{"message":"no such Unit"}"#), "no such Unit");
        assert_eq!(of(r#"{"message":"bad","detail":[{"msg":"field x"},"y"]}"#), "bad; field x; \"y\"");
        assert_eq!(of("<html>"), "Bad Request");
    }
}

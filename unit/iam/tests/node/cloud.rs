//! The cloud's recovery endpoint as a node sees it: TLS, a challenge, a proof by the `offline` key, certificates
//! from the authority of the test. It remembers what it issued and to which node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aos_recovery_protocol::{
    CHALLENGE_PATH, CertificateOf, Certificates, CertificatesRequest, Challenge, ChallengeRequest,
    Challenges, Named, Refusal, RefusedOf, signed_by, stated,
};
use aos_tls::{ClientAuth, Incoming, Protocol};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming as Body};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::authority::Authority;

pub const UNIT: &str = "unit-under-test";
const YEAR: Duration = Duration::from_hours(365 * 24);

#[derive(Default)]
pub struct Record {
    /// `offline` certificates, DER.
    pub offline: Vec<Vec<u8>>,
    /// Serial numbers (hexadecimal) by node, as far as they count there.
    pub of_node: BTreeMap<String, Vec<String>>,
    /// What is told to be due.
    pub due: Vec<Named>,
    /// Answers by request, so that a repeated one has the same.
    pub issued: BTreeMap<String, String>,
    /// Requests that came with a proof that holds.
    pub proved: usize,
    /// Out of order: everything is refused.
    pub away: bool,
}

/// A running endpoint.
#[derive(Clone)]
pub struct Cloud {
    authority: Arc<Authority>,
    challenges: Arc<Challenges>,
    pub record: Arc<Mutex<Record>>,
    port: u16,
}

impl Cloud {
    pub async fn start(authority: &Arc<Authority>) -> Self {
        let mut cloud = Self {
            authority: Arc::clone(authority),
            challenges: Arc::new(Challenges::new()),
            record: Arc::default(),
            port: 0,
        };
        cloud.port = cloud.serve("127.0.0.1:0", "localhost").await;
        cloud
    }

    /// Serves at another address too.
    pub async fn also_at(&self, address: &str) {
        self.serve(address, "localhost").await;
    }

    /// Serves at another port too, with a certificate for `host`; returns the port.
    pub async fn named(&self, host: &str) -> u16 {
        self.serve("127.0.0.1:0", host).await
    }

    async fn serve(&self, address: &str, host: &str) -> u16 {
        let tls = aos_tls::server_config(self.authority.server(host), ClientAuth::None).unwrap();
        let mut incoming = Incoming::bind_tls(address, &tls, Protocol::Http1).await.unwrap();
        let (port, cloud) = (incoming.local_addr().port(), self.clone());
        tokio::spawn(async move {
            loop {
                let connection = TokioIo::new(incoming.accept().await);
                let cloud = cloud.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request| cloud.answer(request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(connection, service).await;
                });
            }
        });
        port
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Takes the chain of a certificate that was issued elsewhere to the record.
    pub fn note(&self, node: &str, cert_type: &str, chain: &str) {
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let mut record = self.record.lock().unwrap();
        record.of_node.entry(node.to_owned()).or_default().push(serial(&leaf));
        if cert_type == "offline" {
            record.offline.push(leaf.to_vec());
        }
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let answer = if self.record.lock().unwrap().away {
            Err("out of order")
        } else if path == CHALLENGE_PATH {
            let asked: ChallengeRequest = serde_json::from_slice(&body).unwrap();
            let challenge = self.challenges.make(&asked.system_id, 0).unwrap();
            Ok(serde_json::to_vec(&Challenge { challenge }).unwrap())
        } else {
            self.issue(&serde_json::from_slice(&body).unwrap())
                .map(|given| serde_json::to_vec(&given).unwrap())
        };
        Ok(match answer {
            Ok(body) => Response::new(Full::new(body.into())),
            Err(why) => {
                let refusal = serde_json::to_vec(&Refusal { message: why.to_owned() }).unwrap();
                Response::builder().status(403).body(Full::new(refusal.into())).unwrap()
            }
        })
    }

    fn issue(&self, request: &CertificatesRequest) -> Result<Certificates, &'static str> {
        let mut record = self.record.lock().unwrap();
        let text = stated(&request.challenge, &request.system_id, &request.requests);
        let signature = hex::decode(request.signature.as_deref().unwrap_or_default()).unwrap();
        let known = self.challenges.knows(&request.challenge, UNIT, 0);
        if !known || !record.offline.iter().any(|leaf| signed_by(leaf, &text, &signature)) {
            return Err("this does not prove to be a Unit in service");
        }
        record.proved += 1;
        let mut given = Certificates { due: record.due.clone(), ..Certificates::default() };
        for one in &request.requests {
            let held = record.of_node.entry(one.node.clone()).or_default();
            if one.proved_by.as_ref().is_some_and(|serial| !held.contains(serial)) {
                given.refused.push(RefusedOf {
                    cert_type: one.cert_type.clone(),
                    node: one.node.clone(),
                    reason: "was revoked".into(),
                });
                continue;
            }
            let chain = record.issued.get(&one.csr).cloned().unwrap_or_else(|| {
                let now = SystemTime::now();
                self.authority.sign_from(&one.csr, now - Duration::from_secs(1), now + 2 * YEAR)
                    + &self.authority.pem()
            });
            record.issued.insert(one.csr.clone(), chain.clone());
            let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
            record.of_node.entry(one.node.clone()).or_default().push(serial(&leaf));
            let due = Named { cert_type: one.cert_type.clone(), node: one.node.clone() };
            record.due.retain(|other| *other != due);
            given.certificates.push(CertificateOf {
                cert_type: one.cert_type.clone(),
                node: one.node.clone(),
                certificate_chain: chain,
            });
        }
        Ok(given)
    }
}

fn serial(leaf: &CertificateDer<'_>) -> String {
    hex::encode(aos_tls::PeerIdentity::from_certificate(leaf).unwrap().serial)
}

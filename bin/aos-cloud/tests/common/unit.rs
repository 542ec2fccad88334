//! A scripted Unit: provisioned with keys of its own, speaks the protocol by hand.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use aos_cloud_protocol::{
    Body, Direction, Envelope, InstanceState, ItemState, MessageType, UnitStatus, read, write,
};
use aos_ids::SystemId;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::Request;
use jiff::Timestamp;
use rcgen::DnType;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Answer, Credentials, connect, key_and_csr, request, tls};
use super::operator::Operator;
use super::{LIMIT, schema};

/// A provisioned Unit.
pub struct TestUnit {
    pub system_id: SystemId,
    pub online: Credentials,
    pub offline: Credentials,
    pub iam: Credentials,
    pub registration: Value,
    data: PathBuf,
    address: String,
}

impl TestUnit {
    pub async fn provision(oem: &Operator, data: &Path, address: &str, system_id: &str) -> Self {
        let csr = || key_and_csr(|params| params.distinguished_name.push(DnType::CommonName, system_id));
        let (online, offline, iam) = (csr(), csr(), csr());
        let registration = json!({
            "hardware_id": system_id,
            "system_uid": system_id,
            "model_name": "model",
            "model_version": "1.0",
            "provisioning_software": "aos-provisioning:5.5.0",
            "online_public_csr": online.1,
            "offline_public_csr": offline.1,
            "additional_csrs": [{"cert_type": "iam", "csr": iam.1, "node_id": "main"}],
            "nodes": [{
                "id": "main", "type": "gateway", "name": "Main", "status": "provisioned",
                "attrs": {"MainNode": ""}, "cpus": [{"arch": "amd64/"}], "osType": "linux ",
            }],
            "secure_data": "{\"version\":\"2.0.0\",\"nodes\":{\"main\":\"secret\"}}",
        });
        let answer = oem.post("units/provisioning/", &registration).await.ok().json();
        let credentials = |chain: &Value, key: &rcgen::KeyPair| {
            Credentials::from_pem(chain.as_str().unwrap(), &key.serialize_pem())
        };
        Self {
            system_id: SystemId::new(system_id).unwrap(),
            online: credentials(&answer["online_certificate"], &online.0),
            offline: credentials(&answer["offline_certificate"], &offline.0),
            iam: credentials(&answer["additional_certs"][0]["cert"], &iam.0),
            registration,
            data: data.to_owned(),
            address: address.to_owned(),
        }
    }

    /// Discovery with the given credentials.
    pub async fn discover(
        &self,
        credentials: Option<&Credentials>,
        system_id: &str,
    ) -> anyhow::Result<Answer> {
        let body = json!({"version": 7, "systemId": system_id, "supportedProtocols": ["wss"]});
        let call = Request::post("/sd/v7/").body(Full::from(body.to_string())).unwrap();
        request(&self.address, &tls(&self.data, credentials), call).await
    }

    pub async fn connect(&self) -> Link {
        self.try_connect(&self.online).await.unwrap()
    }

    pub async fn try_connect(&self, credentials: &Credentials) -> anyhow::Result<Link> {
        let stream = connect(&self.address, &tls(&self.data, Some(credentials))).await?;
        let request = Request::get("wss://localhost/ws/v7/")
            .header("Host", "localhost")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
            .header("Authorization", "Bearer ")
            .body(())?;
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
        let connection = response.headers()["connection"].to_str()?.to_ascii_lowercase();
        assert_eq!(connection, "upgrade", "upstream Units compare the whole value");
        Ok(Link { socket, system_id: self.system_id.clone(), inbox: VecDeque::new() })
    }
}

/// An open session, the Unit's end.
pub struct Link {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    system_id: SystemId,
    inbox: VecDeque<Envelope>,
}

impl Link {
    pub async fn send(&mut self, body: Body) -> Envelope {
        let envelope = Envelope::new(self.system_id.clone(), Timestamp::now(), body);
        self.transmit(&envelope).await;
        envelope
    }

    pub async fn transmit(&mut self, envelope: &Envelope) {
        let bytes = write(envelope).unwrap();
        self.socket.send(Message::Binary(bytes.into())).await.unwrap();
    }

    pub async fn raw(&mut self, bytes: impl Into<Bytes>) {
        self.socket.send(Message::Binary(bytes.into())).await.unwrap();
    }

    /// The next frame, or the code the cloud closed with.
    async fn next(&mut self) -> Result<Envelope, u16> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(frame))) => {
                    schema::check(&frame);
                    return Ok(read(&frame, Direction::CloudToUnit).unwrap());
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(0, |frame| frame.code.into())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message that `wanted` likes; others wait.
    pub async fn expect(&mut self, what: &str, wanted: impl Fn(&Envelope) -> bool) -> Envelope {
        if let Some(at) = self.inbox.iter().position(&wanted) {
            return self.inbox.remove(at).unwrap();
        }
        let search = async {
            loop {
                let envelope = self.next().await.unwrap_or_else(|code| panic!("closed with {code}: {what}"));
                if wanted(&envelope) {
                    return envelope;
                }
                self.inbox.push_back(envelope);
            }
        };
        tokio::time::timeout(LIMIT, search).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    pub async fn expect_kind(&mut self, kind: MessageType) -> Envelope {
        self.expect(kind.as_str(), |envelope| envelope.body.message_type() == kind).await
    }

    /// Waits for the acknowledgement of `sent`.
    pub async fn acked(&mut self, sent: &Envelope) {
        let txn = &sent.header.txn;
        let ack = |envelope: &Envelope| matches!(envelope.body, Body::Ack(_)) && envelope.header.txn == *txn;
        self.expect("ack", ack).await;
    }

    pub async fn ack(&mut self, received: &Envelope) {
        let ack = Envelope::ack(self.system_id.clone(), Timestamp::now(), &received.header.txn);
        self.transmit(&ack).await;
    }

    /// The code the cloud closes with.
    pub async fn closed(&mut self) -> u16 {
        let search = async {
            loop {
                if let Err(code) = self.next().await {
                    return code;
                }
            }
        };
        tokio::time::timeout(LIMIT, search).await.expect("the cloud closes")
    }

    /// True when nothing of this kind has arrived once a fresh message was acknowledged.
    pub async fn nothing_of(&mut self, kind: MessageType) -> bool {
        let probe = self.send(delta()).await;
        self.acked(&probe).await;
        !self.inbox.iter().any(|envelope| envelope.body.message_type() == kind)
    }
}

pub fn delta() -> Body {
    Body::UnitStatus(UnitStatus { is_delta_info: true, ..UnitStatus::default() })
}

/// A full status with one node and, when given, one item and its instance.
pub fn full_status(item: Option<(&str, &str, &str)>, state: InstanceState) -> Body {
    let items = item.map(|(id, _, version)| {
        json!({
            "item": {"id": id, "type": "service"}, "version": version, "state": ItemState::Installed,
        })
    });
    let instances = item.map(|(id, subject, version)| {
        json!({
            "item": {"id": id, "type": "service"}, "subject": {"id": subject}, "version": version,
            "instances": [{
                "node": {"codename": "main"}, "runtime": {"codename": "crun"}, "instance": 0,
                "state": state,
            }],
        })
    });
    let status = json!({
        "isDeltaInfo": false,
        "unitConfig": [],
        "nodes": [{
            "identity": {"codename": "main", "title": "Main"},
            "nodeGroupSubject": {"codename": "gateway"},
            "maxDmips": 1000, "totalRam": 1024, "osInfo": {"os": "linux"},
            "attrs": {"MainNode": ""}, "isConnected": true, "state": "provisioned",
        }],
        "items": items.into_iter().collect::<Vec<_>>(),
        "instances": instances.into_iter().collect::<Vec<_>>(),
        "subjects": [],
    });
    Body::UnitStatus(serde_json::from_value(status).unwrap())
}

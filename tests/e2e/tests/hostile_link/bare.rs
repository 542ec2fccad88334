//! Ends of the cloud link that are nothing but sockets: they send whatever bytes a test likes.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aos_cloud_protocol::discovery;
use aos_cloud_websocket::{Event, Frame, Reader, Role, encode};
use aos_testbed::tls_probe::{self, Identity};
use aos_testbed::{Cloud, Operator, Site, http};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x99];

/// A Unit that the cloud has provisioned and that consists of a certificate.
pub struct BareUnit {
    pub system_id: String,
    address: String,
    root: PathBuf,
    files: [PathBuf; 2],
}

impl BareUnit {
    pub fn provision(site: &Site, cloud: &Cloud, operator: &Operator, system_id: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, system_id);
        let request = parameters.serialize_request(&key).unwrap();
        let answer = post(
            cloud,
            operator,
            "units/provisioning/",
            &json!({
                "system_uid": system_id,
                "model_name": "bare",
                "model_version": "1",
                "online_public_csr": request.pem().unwrap(),
                "nodes": [{"id": "main", "type": "bare", "name": "main", "status": "provisioned", "attrs": {"MainNode": ""}}],
            }),
        );
        let files = ["pem", "key"].map(|end| site.dir().join(format!("{system_id}.{end}")));
        std::fs::write(&files[0], answer["online_certificate"].as_str().unwrap()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        Self {
            system_id: system_id.to_owned(),
            address: cloud.endpoints().units.clone(),
            root: cloud.root_certificate(),
            files,
        }
    }

    /// Opens the WebSocket.
    pub fn connect(&self) -> io::Result<Socket<impl Read + Write + use<>>> {
        let identity = Identity::from_files(&self.files[0], &self.files[1])?;
        let mut stream = tls_probe::connect(&self.address, &self.root, Some(identity), LIMIT)?;
        let path = discovery::WEB_SOCKET_PATH;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        let head = read_head(&mut stream)?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(io::Error::other(head));
        }
        Ok(Socket::new(stream, Role::Client))
    }
}

/// What a request or an answer begins with, up to the empty line.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 16 * 1024 {
            return Err(io::Error::other("endless head"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn post(cloud: &Cloud, operator: &Operator, path: &str, body: &Value) -> Value {
    let identity = Some(operator.identity().unwrap());
    let root = cloud.root_certificate();
    let mut stream = tls_probe::connect(&cloud.endpoints().api, &root, identity, LIMIT).unwrap();
    let body = body.to_string();
    let request = format!(
        "POST /api/v11/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http::parse(&tls_probe::ask(&mut stream, &request).unwrap()).unwrap();
    assert!(answer.status < 300, "{}: {}", answer.status, answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// One end of a WebSocket.
pub struct Socket<S> {
    stream: S,
    reader: Reader,
    role: Role,
    rest: Vec<u8>,
    pings: u64,
}

impl<S: Read + Write> Socket<S> {
    pub fn new(stream: S, role: Role) -> Self {
        Self { stream, reader: Reader::new(role, 64 << 20), role, rest: Vec::new(), pings: 0 }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub fn frame(&mut self, frame: Frame<'_>) -> io::Result<()> {
        let bytes = self.framed(frame);
        self.raw(&bytes)
    }

    /// The bytes of a frame as this end sends it.
    pub fn framed(&self, frame: Frame<'_>) -> Vec<u8> {
        encode(frame, (self.role == Role::Client).then_some(MASK))
    }

    pub fn message(&mut self, message: &[u8]) -> io::Result<()> {
        self.frame(Frame::Binary(message))
    }

    /// The next event.
    pub fn receive(&mut self) -> io::Result<Event> {
        loop {
            let mut rest = &self.rest[..];
            let event = self.reader.read(&mut rest).map_err(|error| io::Error::other(error.to_string()))?;
            let left = rest.len();
            self.rest.drain(..self.rest.len() - left);
            if let Some(event) = event {
                if let Event::Ping(content) = &event {
                    self.frame(Frame::Pong(content))?;
                }
                return Ok(event);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.rest.extend_from_slice(&chunk[..length]),
            }
        }
    }

    /// Waits until the peer has read everything sent so far; returns the messages that came meanwhile.
    pub fn sync(&mut self) -> io::Result<Vec<Vec<u8>>> {
        self.pings += 1;
        self.frame(Frame::Ping(&self.pings.to_be_bytes()))?;
        let mut messages = Vec::new();
        loop {
            match self.receive()? {
                Event::Message(message) => messages.push(message),
                // Only our own ping is answered, and there is one at a time.
                Event::Pong => return Ok(messages),
                Event::Close(code) => return Err(io::Error::other(format!("closed with {code:?}"))),
                Event::Ping(_) => {}
            }
        }
    }

    /// Waits for the peer to close, and returns the code.
    pub fn closed(&mut self) -> io::Result<Option<u16>> {
        loop {
            if let Event::Close(code) = self.receive()? {
                return Ok(code);
            }
        }
    }

    /// Sends a message and waits for its acknowledgement.
    pub fn exchange(&mut self, message: &Value) -> io::Result<Duration> {
        let start = Instant::now();
        self.message(message.to_string().as_bytes())?;
        loop {
            match self.receive()? {
                Event::Message(answer) if is_ack_of(&answer, message) => return Ok(start.elapsed()),
                Event::Close(code) => return Err(io::Error::other(format!("closed with {code:?}"))),
                _ => {}
            }
        }
    }
}

/// A message without content.
pub fn alerts(system_id: &str, txn: &str) -> Value {
    json!({
        "header": {"version": 7, "systemId": system_id, "createdAt": "2026-01-01T00:00:00Z", "txn": txn},
        "data": {"messageType": "alerts", "items": []},
    })
}

fn is_ack_of(answer: &[u8], message: &Value) -> bool {
    let value: Value = serde_json::from_slice(answer).unwrap_or_default();
    value["data"]["messageType"] == "ack" && value["header"]["txn"] == message["header"]["txn"]
}

//! Logs: parts as messages and as uploads, and every way in which there are none.

use std::sync::{Arc, Mutex};

use aos_cloud_protocol::{
    AosIdentity, LogFilter, LogType, MessageType, PushLog, RequestLog, Secret, UploadOptions, UploadType,
};
use aos_tls::{ClientAuth, Incoming, Protocol};
use aos_unit_api::servicemanager::v5::LogData;
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::crashes::count;
use super::sm::Sm;
use super::*;

const ID: &str = "71b0d6e4-2c95-4e3f-b8a0-4d6c19f7e852";

fn request(kind: LogType, nodes: &[&str], upload_options: Option<UploadOptions>) -> Body {
    Body::RequestLog(RequestLog {
        log_type: kind,
        filter: LogFilter {
            node_ids: nodes.iter().map(|node| AosIdentity::by_codename(*node)).collect(),
            item: Some(AosIdentity::by_id("item")),
            ..LogFilter::default()
        },
        upload_options,
    })
}

/// The name of the next request for instance logs, as the node is told it.
async fn asked(sm: &mut Sm) -> String {
    loop {
        if let SmIncomingMessage::InstanceLogRequest(request) = sm.next().await {
            let filter = request.filter.unwrap();
            assert_eq!(
                (filter.item_id.as_str(), filter.subject_id.as_str(), filter.instance),
                ("item", "", -1)
            );
            return request.correlation_id;
        }
    }
}

async fn say(sm: &Sm, id: &str, part: u64, part_count: u64, data: &[u8], status: &str) {
    let log = LogData {
        correlation_id: id.to_owned(),
        part_count,
        part,
        data: data.to_vec(),
        status: status.to_owned(),
        error: None,
    };
    sm.send(SmOutgoingMessage::Log(log)).await;
}

fn line(push: &PushLog) -> String {
    let error = push.error_info.as_ref().map_or("", |error| &error.message);
    let text = String::from_utf8_lossy(&push.content.0);
    format!("{} {}/{} {:?} {text}{error}", push.node.key().unwrap(), push.part, push.parts_count, push.status)
}

impl World {
    async fn with_node() -> Self {
        let mut world = Self::new().await;
        world.cloud.connected().await;
        world.connect_node().await;
        world
    }

    /// Until no request is open.
    async fn answered(&self) {
        while count(self, "tasks", "") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn pushed(&mut self) -> String {
        let envelope = self.cloud.answer().await;
        assert_eq!(envelope.correlation_id.as_deref(), Some(ID));
        match envelope.body {
            Body::PushLog(push) => line(&push),
            other => panic!("{other:?}"),
        }
    }
}

// PRO-85, PRO-87, PRO-88, PRO-90 to PRO-92, PRO-121: every node that is asked is heard of.
#[tokio::test]
async fn parts_are_passed_on_and_failures_are_told() {
    in_time!(async {
        let mut world = World::with_node().await;
        world.cloud.send_as(request(LogType::InstanceLog, &["rear", "main"], None), Some(ID)).await;
        let id = asked(&mut world.sm).await;
        assert_eq!(world.pushed().await, "rear 1/1 Failed node rear is not connected");
        for (part, data) in [(2, "two"), (1, "one"), (2, "again"), (3, "three")] {
            say(&world.sm, &id, part, 3, data.as_bytes(), "ok").await;
        }
        for expected in ["main 2/3 Ok two", "main 1/3 Ok one", "main 3/3 Ok three"] {
            assert_eq!(world.pushed().await, expected);
        }
        say(&world.sm, &id, 4, 4, b"late", "ok").await;
        say(&world.sm, "nobody", 1, 1, b"asked for this", "ok").await;

        // No list means all nodes; the kinds of words that are no parts.
        for (word, status) in [("empty", "Empty"), ("absent", "Absent"), ("error", "Failed")] {
            world.cloud.send_as(request(LogType::InstanceLog, &[], None), Some(ID)).await;
            let id = asked(&mut world.sm).await;
            say(&world.sm, &id, 0, 0, b"", word).await;
            assert_eq!(world.pushed().await, format!("main 1/1 {status} "));
        }

        world.cloud.send_as(request(LogType::InstanceLog, &["main"], None), Some(ID)).await;
        let id = asked(&mut world.sm).await;
        say(&world.sm, &id, 1, 1, &vec![0; 256 * 1024 + 1], "ok").await;
        assert_eq!(world.pushed().await, "main 1/1 Failed the node sends a part that is too big");

        world.cloud.send_as(request(LogType::InstanceLog, &["main"], None), Some(ID)).await;
        let id = asked(&mut world.sm).await;
        say(&world.sm, &id, 1, 2, b"one", "ok").await;
        assert_eq!(world.pushed().await, "main 1/2 Ok one");
        world.sm.disconnect();
        assert_eq!(world.pushed().await, "main 1/1 Failed the node was disconnected meanwhile");
    });
}

// REL-02: a request that was open when the program died is asked anew, one that was answered is not.
#[tokio::test]
async fn an_open_request_survives_a_crash() {
    in_time!(async {
        let mut world = World::with_node().await;
        let txn = world.cloud.send_as(request(LogType::InstanceLog, &["main"], None), Some(ID)).await;
        let first = asked(&mut world.sm).await;
        world.cloud.acknowledged(&txn).await;
        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        assert_eq!(asked(&mut world.sm).await, first);
        say(&world.sm, &first, 1, 1, b"all", "ok").await;
        assert_eq!(world.pushed().await, "main 1/1 Ok all");
        world.answered().await;
        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        world.cloud.send_as(request(LogType::SystemLog, &["main"], None), Some(ID)).await;
        loop {
            match world.sm.next().await {
                SmIncomingMessage::SystemLogRequest(_) => break,
                SmIncomingMessage::InstanceLogRequest(_) => panic!("that one is answered"),
                _ => {}
            }
        }
    });
}

// A part that the cloud does not acknowledge is not taken for told: after a crash the node is asked again, and
// the end of all tries is a word of its own.
#[tokio::test]
async fn a_part_counts_when_it_has_arrived() {
    in_time!(async {
        let mut world = World::with_node().await;
        world.kill().await;
        world.config.cloud_response_wait_timeout = Duration::from_millis(200);
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        world.cloud.withheld = Some(MessageType::PushLog);
        world.cloud.send_as(request(LogType::InstanceLog, &["main"], None), Some(ID)).await;
        let first = asked(&mut world.sm).await;
        say(&world.sm, &first, 1, 1, b"all", "ok").await;
        assert_eq!(world.pushed().await, "main 1/1 Ok all");
        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        assert_eq!(asked(&mut world.sm).await, first);
        say(&world.sm, &first, 1, 1, b"all", "ok").await;
        assert_eq!(world.pushed().await, "main 1/1 Ok all");
        let failed = "main 1/1 Failed part 1 of 1 of the logs: not acknowledged after all tries";
        assert_eq!(world.pushed().await, failed);
        world.answered().await;
    });
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    in_time!(async {
        let mut world = World::with_node().await;
        for _ in 0..crate::logrelay::MAX_OPEN {
            world.cloud.send_as(request(LogType::CrashLog, &["main"], None), Some(ID)).await;
        }
        world.cloud.send_as(request(LogType::CrashLog, &["main", "rear"], None), Some(ID)).await;
        for node in ["main", "rear"] {
            assert_eq!(
                world.pushed().await,
                format!("{node} 1/1 Failed too many requests for logs are open")
            );
        }
    });
}

type Uploads = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server for uploads: answers with these statuses, then with 200.
async fn upload_server(world: &World, statuses: &'static [u16]) -> (String, Uploads) {
    let config = aos_tls::server_config(world.pki.identity("uploads"), ClientAuth::None).unwrap();
    let mut incoming = Incoming::bind_tls("127.0.0.1:0", &config, Protocol::Http1).await.unwrap();
    let url = format!("https://localhost:{}/log-uploads/{ID}?x=1", incoming.local_addr().port());
    let uploads = Uploads::default();
    let noted = Arc::clone(&uploads);
    tokio::spawn(async move {
        let mut statuses = statuses.iter();
        loop {
            let mut connection = incoming.accept().await;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            connection.read_exact(&mut body).await.unwrap();
            noted.lock().unwrap().push((head, body));
            let status = statuses.next().copied().unwrap_or(200);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).await.unwrap();
            let _ = connection.shutdown().await;
        }
    });
    (url, uploads)
}

fn https(url: &str, ttl: Option<jiff::Timestamp>) -> UploadOptions {
    UploadOptions {
        kind: UploadType::Https,
        url: Some(url.to_owned()),
        bearer_token: Some(Secret::new("t0ken")),
        bearer_token_ttl: ttl,
    }
}

// PRO-89: parts go to the address given, with the token given, each until the server has it.
#[tokio::test]
async fn logs_are_uploaded() {
    in_time!(async {
        let mut world = World::with_node().await;
        let (url, uploads) = upload_server(&world, &[200, 503]).await;
        let later = Some(jiff::Timestamp::now() + Duration::from_mins(1));
        let wish = request(LogType::InstanceLog, &["main"], Some(https(&url, later)));
        world.cloud.send_as(wish, Some(ID)).await;
        let id = asked(&mut world.sm).await;
        say(&world.sm, &id, 1, 2, b"one", "ok").await;
        say(&world.sm, &id, 2, 2, b"two", "ok").await;
        assert_eq!(world.pushed().await, "main 1/1 Ok ");
        let seen = std::mem::take(&mut *uploads.lock().unwrap());
        let bodies: Vec<&[u8]> = seen.iter().map(|(_, body)| body.as_slice()).collect();
        assert_eq!(bodies, [&b"one"[..], b"two", b"two"], "the second needed two tries");
        let head = &seen[2].0;
        assert!(head.starts_with(&format!("put /log-uploads/{ID}?x=1 http/1.1\r\n")), "{head}");
        for header in [
            "authorization: bearer t0ken",
            &format!("aos-request: {ID}"),
            "aos-node: main",
            "aos-part: 2",
            "aos-parts-count: 2",
            "content-type: application/gzip",
        ] {
            assert!(head.contains(&format!("{header}\r\n")), "{header} in {head}");
        }

        let past = Some(jiff::Timestamp::now());
        world
            .cloud
            .send_as(request(LogType::InstanceLog, &["main"], Some(https(&url, past))), Some(ID))
            .await;
        assert_eq!(world.pushed().await, "main 1/1 Failed the token for the upload of logs has ended");
        let plain = Some(https("http://localhost/x", None));
        world.cloud.send_as(request(LogType::InstanceLog, &["main"], plain), Some(ID)).await;
        assert_eq!(world.pushed().await, "main 1/1 Failed logs are uploaded to https addresses only");
        assert!(uploads.lock().unwrap().is_empty(), "the token never left");

        let (url, uploads) = upload_server(&world, &[403]).await;
        world
            .cloud
            .send_as(request(LogType::InstanceLog, &["main"], Some(https(&url, None))), Some(ID))
            .await;
        let id = asked(&mut world.sm).await;
        say(&world.sm, &id, 1, 1, b"one", "ok").await;
        let told = world.pushed().await;
        assert!(told.starts_with("main 1/1 Failed upload of logs: ") && told.contains("403"), "{told}");
        assert_eq!(uploads.lock().unwrap().len(), 1, "that is no passing failure");

        // Nothing to upload is told as always.
        world
            .cloud
            .send_as(request(LogType::InstanceLog, &["main"], Some(https(&url, None))), Some(ID))
            .await;
        let id = asked(&mut world.sm).await;
        say(&world.sm, &id, 1, 1, b"", "empty").await;
        assert_eq!(world.pushed().await, "main 1/1 Empty ");
    });
}

//! Logs in parts, from several nodes, over both ways.

use std::io::Write as _;

use aos_cloud_protocol::{LogStatus, LogType, PushLog, UploadType};
use aos_status::ErrorInfo;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::{FlowError, NewLogRequest};

fn wanted(nodes: &[&str], upload: UploadType) -> NewLogRequest {
    NewLogRequest {
        log_type: LogType::SystemLog,
        from: None,
        till: None,
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        item: None,
        subject: None,
        instance: None,
        upload,
    }
}

fn part(of: &str, number: u64, count: u64, content: Vec<u8>) -> PushLog {
    PushLog {
        node: node(of),
        part: number,
        parts_count: count,
        content: content.into(),
        status: LogStatus::Ok,
        error_info: None,
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

async fn text(cloud: &Cloud, id: &str) -> String {
    let mut content = cloud.flows.log_content(&cloud.unit.id, id, None).await.unwrap().unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = content.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(text).unwrap()
}

// D39, D40, D41: nodes by name, parts from 0 or 1 in any order, compressed or not.
// PRO-87, PRO-90, PRO-91, PRO-121
#[tokio::test]
async fn a_log_is_put_together_from_parts_of_all_nodes() {
    let world = World::new();
    let cloud = world.cloud().await;
    let request = cloud.flows.request_log(&cloud.unit.id, wanted(&[], UploadType::Wss)).await.unwrap();
    let sent = cloud.take().await;
    assert_eq!(sent.correlation_id.as_deref(), Some(request.id.as_str()));
    let Body::RequestLog(asked) = &sent.body else { panic!("{sent:?}") };
    assert_eq!(asked.filter.node_ids.len(), 2, "every node by name");
    assert!(asked.upload_options.is_none());

    cloud.answer(Body::PushLog(part("main", 2, 2, gzip("two\n"))), &sent).await;
    let state = || async { cloud.store.log_request(&cloud.unit.id, &request.id).await.unwrap().unwrap() };
    assert_eq!(state().await.state, "partial");
    cloud.answer(Body::PushLog(part("main", 1, 2, b"one\n".to_vec())), &sent).await;
    assert_eq!(state().await.state, "partial", "the other node is missing");
    let wrong = Body::PushLog(part("front", 1, 1, vec![1]));
    cloud.answer(wrong, &sent).await;
    cloud.send(Body::PushLog(part("main", 1, 1, vec![1]))).await;
    assert_eq!(cloud.invalid().await.len(), 2, "a node that was not asked, and no request at all");
    let last = Cloud::message(Body::PushLog(part("rear", 0, 1, gzip("rear\n"))), Some(&request.id));
    cloud.deliver(last.clone()).await;
    cloud.deliver(last).await;
    let done = state().await;
    assert_eq!((done.state.as_str(), done.reason, done.deadline), ("done", None, None));
    let expected = "==> node main <==\none\ntwo\n==> node rear <==\nrear\n";
    assert_eq!(text(&cloud, &request.id).await, expected);
    let files = || std::fs::read_dir(world.dir.path().join("logs")).unwrap().count();
    assert_eq!(files(), 3, "what came twice is kept once");
    drop(cloud);
    let cloud = world.cloud().await;
    assert_eq!(text(&cloud, &request.id).await, expected, "after a restart");
}

// D38
// PRO-92
#[tokio::test]
async fn a_log_that_fails_says_why_and_one_without_lines_is_empty() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    for (status, message, state) in [
        (LogStatus::Failed, Some("journal is gone"), "failed"),
        (LogStatus::Empty, None, "empty"),
        (LogStatus::Absent, None, "absent"),
    ] {
        let request = cloud.flows.request_log(unit, wanted(&["main"], UploadType::Wss)).await.unwrap();
        let sent = cloud.take().await;
        let error_info =
            message.map(|text| ErrorInfo { aos_code: 1, exit_code: 0, message: text.to_owned() });
        let body = PushLog { status, error_info, ..part("main", 0, 0, vec![]) };
        cloud.answer(Body::PushLog(body), &sent).await;
        let ended = cloud.store.log_request(unit, &request.id).await.unwrap().unwrap();
        assert_eq!(ended.state, state);
        assert_eq!(ended.reason.is_some_and(|text| text.contains("journal is gone")), message.is_some());
    }
    let strange = cloud.flows.request_log(unit, wanted(&["front"], UploadType::Wss)).await;
    assert!(matches!(strange, Err(FlowError::Invalid(_))));
}

#[tokio::test]
async fn a_unit_that_does_not_answer_fails_the_request() {
    let patience = Patience { log: Duration::from_millis(50), ..Patience::default() };
    let world = World::patient(patience);
    let cloud = world.cloud().await;
    let request = cloud.flows.request_log(&cloud.unit.id, wanted(&[], UploadType::Wss)).await.unwrap();
    cloud
        .until(async || {
            let found = cloud.store.log_request(&cloud.unit.id, &request.id).await.unwrap().unwrap();
            found.state == "failed" && found.reason.is_some()
        })
        .await;
    assert!(cloud.waiting().await.is_empty(), "a Unit that comes later is not asked any more");
}

// D42
// PRO-89
// CLO-24
#[tokio::test]
async fn a_unit_uploads_its_logs_with_the_token_of_the_request() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let request = cloud.flows.request_log(unit, wanted(&[], UploadType::Https)).await.unwrap();
    let row = cloud.store.outbox(unit, 0).await.unwrap().remove(0);
    let sent = cloud.take().await;
    let Body::RequestLog(asked) = &sent.body else { panic!("{sent:?}") };
    let options = asked.upload_options.clone().unwrap();
    assert!(options.bearer_token_ttl.unwrap() > Timestamp::now());
    let token = options.bearer_token.unwrap();
    let token = token.expose();
    assert!(row.sealed && !String::from_utf8_lossy(&row.body).contains(token), "not readable at rest");
    assert_eq!(options.url.unwrap(), format!("https://blobs.example/log-uploads/{}", request.id));

    let begin = |token: &'static str, part| cloud.flows.begin_upload(&request.id, token, Some("main"), part);
    assert!(matches!(begin("guess", None).await, Err(FlowError::Forbidden(_))));
    for (number, piece) in [(2, "two\n"), (1, "uno\n"), (1, "one\n")] {
        let upload = cloud.flows.begin_upload(&request.id, token, Some("main"), Some((number, 3)));
        let upload = upload.await.unwrap().write(Bytes::from(gzip(piece))).await.unwrap();
        upload.finish().await.unwrap();
    }
    let upload = cloud.flows.begin_upload(&request.id, token, None, None).await.unwrap();
    drop(upload.write(Bytes::from_static(b"broken off")).await.unwrap());
    let found = cloud.store.log_request(unit, &request.id).await.unwrap().unwrap();
    assert_eq!((found.state.as_str(), found.bytes > 0), ("partial", true));
    // Bytes that do not count yet take disk space, so uploads at the same time are few.
    let mut open = Vec::new();
    for _ in 0..crate::uploads::MOST_OF_A_UNIT {
        open.push(cloud.flows.begin_upload(&request.id, token, None, None).await.unwrap());
    }
    let more = cloud.flows.begin_upload(&request.id, token, None, None).await.err().unwrap();
    assert!(more.to_string().contains("too many uploads"), "{more}");
    drop(open);
    let upload = cloud.flows.begin_upload(&request.id, token, Some("main"), Some((3, 3))).await.unwrap();
    upload.write(Bytes::from_static(b"three\n")).await.unwrap().finish().await.unwrap();
    let upload = cloud.flows.begin_upload(&request.id, token, Some("rear"), None).await.unwrap();
    upload.write(Bytes::from_static(b"rear\n")).await.unwrap().finish().await.unwrap();
    let found = cloud.store.log_request(unit, &request.id).await.unwrap().unwrap();
    assert_eq!(found.state, "done");
    assert_eq!(
        text(&cloud, &request.id).await,
        "==> node main <==\none\ntwo\nthree\n==> node rear <==\nrear\n"
    );
    let late = cloud.flows.begin_upload(&request.id, token, Some("rear"), None).await;
    assert!(matches!(late, Err(FlowError::Forbidden(_))), "the token ends with the request");
}

#[tokio::test]
async fn readers_that_stand_still_take_few_threads() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let request = cloud.flows.request_log(unit, wanted(&["main"], UploadType::Wss)).await.unwrap();
    let sent = cloud.take().await;
    let long = gzip(&"a line of a log\n".repeat(100_000));
    cloud.answer(Body::PushLog(part("main", 1, 1, long)), &sent).await;
    let open = || cloud.flows.log_content(unit, &request.id, None);
    let mut readers = Vec::new();
    for _ in 0..crate::log_content::READERS {
        readers.push(open().await.unwrap().unwrap());
    }
    assert!(open().await.err().unwrap().to_string().contains("too many logs are being read"));
    readers.clear();
    let free = async {
        while open().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}

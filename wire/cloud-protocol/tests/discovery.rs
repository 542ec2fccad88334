//! Discovery: bodies of both ends, and what a Unit makes of a response.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use aos_cloud_protocol::discovery::{DiscoveryError, ErrorCode, MAX_BODY, Request, Response, Verdict};
use serde_json::{Value, json};

fn response(extra: &Value) -> Response {
    let mut body = json!({"connectionInfo": ["wss://a/ws/v7/", "wss://b/ws/v7/"]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Response::read(&serde_json::to_vec(&body).unwrap()).unwrap()
}

fn both() -> Vec<String> {
    vec!["wss://a/ws/v7/".into(), "wss://b/ws/v7/".into()]
}

/// PRO-07, PRO-08, D7: the request.
// DIS-09
#[test]
fn request_is_the_documented_one() {
    let request = Request::new("veh-7f3a91c2".parse().unwrap());
    let value: Value = serde_json::from_slice(&request.to_json()).unwrap();
    assert_eq!(value, json!({"version": 7, "systemId": "veh-7f3a91c2", "supportedProtocols": ["wss"]}));
    assert_eq!(Request::read(&request.to_json()), Ok(request));
    assert!(Request::read(br#"{"systemId": "u"}"#).is_ok());
    assert!(Request::read(br#"{"SYSTEMID": "u", "supportedProtocols": ["ws/v7"], "version": "7"}"#).is_ok());
    assert!(matches!(Request::read(b"{}"), Err(DiscoveryError::Content(_))));
    assert!(matches!(Request::read(b"<html>"), Err(DiscoveryError::Json(_))));
    assert_eq!(Request::read(&vec![b' '; MAX_BODY + 1]), Err(DiscoveryError::TooLong(MAX_BODY + 1)));
}

/// PRO-12, D4, D5: error codes as number, numeric text and name.
#[test]
fn error_codes_in_all_forms() {
    let delay = json!({"nextRequestDelay": 2000});
    for (forms, verdict) in [
        (
            vec![json!(0), json!("0"), json!("NoError"), json!("noerror"), json!(null)],
            Verdict::Connect(both()),
        ),
        (vec![json!(1), json!("1"), json!("Redirect")], Verdict::Connect(both())),
        (vec![json!(2), json!("2"), json!("RepeatLater")], Verdict::RepeatLater(Duration::from_secs(2))),
        (vec![json!(3), json!("3"), json!("error"), json!(17), json!("??"), json!({})], Verdict::Failed),
    ] {
        for form in forms {
            let mut extra = delay.clone();
            extra["errorCode"] = form.clone();
            assert_eq!(response(&extra).verdict(), verdict, "{form}");
        }
    }
    let redirect = json!({"errorCode": 1, "connectionInfo": ["https://other:9000/sd/v7/"]});
    assert_eq!(response(&redirect).verdict(), Verdict::Redirect(vec!["https://other:9000/sd/v7/".into()]));
}

/// PRO-09, PRO-10, D6: delays are clamped, addresses of other schemes are not used.
// DIS-09
#[test]
fn delays_and_addresses() {
    assert_eq!(response(&json!({})).delay(), None);
    assert_eq!(response(&json!({"nextRequestDelay": 10})).delay(), Some(Duration::from_secs(1)));
    assert_eq!(response(&json!({"nextRequestDelay": "5000"})).delay(), Some(Duration::from_secs(5)));
    assert_eq!(response(&json!({"nextRequestDelay": u64::MAX})).delay(), Some(Duration::from_mins(10)));
    assert_eq!(response(&json!({"errorCode": 2})).verdict(), Verdict::RepeatLater(Duration::from_secs(1)));
    assert_eq!(response(&json!({"connectionInfo": []})).verdict(), Verdict::Failed);
    assert_eq!(response(&json!({"connectionInfo": null})).verdict(), Verdict::Failed);
    let mixed =
        response(&json!({"connectionInfo": ["file:///etc/passwd", "WSS://a/", "nonsense", "http://b/"]}));
    assert_eq!(mixed.verdict(), Verdict::Connect(vec!["WSS://a/".into(), "http://b/".into()]));
}

/// PRO-08, PRO-11: what a cloud writes is what upstream Units read: a number and no null.
// DIS-09
#[test]
fn response_is_strict() {
    let response = Response {
        version: 7,
        system_id: "u".into(),
        next_request_delay: 2000,
        connection_info: vec!["wss://a/".into()],
        auth_token: String::new(),
        error_code: ErrorCode::NoError,
    };
    let value: Value = serde_json::from_slice(&response.to_json()).unwrap();
    assert_eq!(value["errorCode"], json!(0));
    assert!(!support::has_null(&value));
    assert_eq!(Response::read(&response.to_json()), Ok(response));
}

/// The example bodies, also the one that upstream Units refuse.
#[test]
fn examples_are_read() {
    let Some(folder) = support::facts("spec/examples/v7") else { return };
    let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
    Request::read(&file("http-discoveryRequest.json")).unwrap();
    let plain = Response::read(&file("http-discoveryResponse.json")).unwrap();
    let documented = Response::read(&file("http-discoveryResponse-docStyle.json")).unwrap();
    assert_eq!(plain, documented);
    assert_eq!((plain.connection_info.len(), plain.auth_token.as_str()), (2, "tkn-4be1"));
}

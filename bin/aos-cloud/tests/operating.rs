//! What operators do with Units over the REST API: who may, what is refused, and what is never shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod common;

use bytes::Bytes;
use common::TestCloud;
use common::operator::Operator;
use common::unit::TestUnit;
use hyper::StatusCode;
use serde_json::{Value, json};

struct Scene {
    cloud: TestCloud,
    admin: Operator,
    oem: Operator,
    item: String,
}

async fn scene() -> Scene {
    let cloud = TestCloud::start().await;
    let admin = Operator::admin(&cloud.endpoints().api, &cloud.data()).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    TestUnit::provision(&oem, &cloud.data(), &cloud.endpoints().units, "unit-1").await;
    let (item, _) = oem.publish("web", "1.0.0", b"layer").await;
    oem.assign("unit-1", &item, &json!({})).await;
    Scene { cloud, admin, oem, item }
}

/// All ways to look, and all ways to change, with a body that would do.
fn calls(item: &str) -> (Vec<String>, Vec<(&'static str, String, String)>) {
    let unit = "units/unit-1";
    let looks = [
        "logs",
        "env-overrides",
        "states",
        "alerts",
        "monitoring",
        "renewals",
        "nodes",
        "nodes/main",
        "unit-config",
    ];
    let looks = looks.iter().map(|part| format!("{unit}/{part}/")).collect();
    let config = json!({"version": "1.0.0", "nodes": []}).to_string();
    let env = json!({"items": [{"variables": [{"name": "A", "value": "b"}]}]}).to_string();
    let changes = vec![
        ("PUT", format!("{unit}/env-overrides/"), env),
        ("DELETE", format!("{unit}/env-overrides/"), String::new()),
        ("PUT", format!("{unit}/states/{item}/default/0/"), "state".to_owned()),
        ("DELETE", format!("{unit}/states/{item}/default/0/"), String::new()),
        ("POST", format!("{unit}/certificates/renew/"), "{}".to_owned()),
        ("POST", format!("{unit}/nodes/main/pause/"), String::new()),
        ("POST", format!("{unit}/nodes/main/resume/"), String::new()),
        ("PUT", format!("{unit}/unit-config/"), config),
        ("PUT", format!("{unit}/messages/recording/"), json!({"recording": true}).to_string()),
    ];
    (looks, changes)
}

#[tokio::test]
async fn roles_and_companies_decide() {
    let Scene { cloud: _cloud, admin, oem, item } = scene().await;
    let provider = admin.invited("sp", "Apps", "eve").await;
    let fleet = admin.invited("fleet", "Axle Works", "flo").await;
    let stranger = admin.invited("oem", "Other Works", "otto").await;
    let (looks, changes) = calls(&item);
    for path in &looks {
        oem.get(path).await.ok();
        fleet.get(path).await.ok();
        assert_eq!(provider.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(stranger.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path, body) in &changes {
        for (who, status) in [
            (&provider, StatusCode::FORBIDDEN),
            (&fleet, StatusCode::FORBIDDEN),
            (&stranger, StatusCode::NOT_FOUND),
        ] {
            let answer = who.call(method, path, body.clone()).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(answer.json()["message"].is_string());
        }
    }
    // The Unit never connected, so it has no instance whose state could be set; all else is taken.
    for (method, path, body) in changes.iter().filter(|(_, path, _)| !path.contains("/states/")) {
        oem.call(method, path, body.clone()).await.ok();
    }
    // Logs change nothing on a Unit: fleet owners may ask for them.
    fleet.post("units/unit-1/logs/", &json!({"type": "system"})).await.ok();
    for path in ["gateway/drain/", "gateway/"] {
        let answer = oem.call(if path == "gateway/" { "GET" } else { "POST" }, path, "{}").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn inputs_have_limits() {
    let Scene { cloud: _cloud, admin, oem, item } = scene().await;
    let unit = |part: &str| format!("units/unit-1/{part}");
    let variables = |variables: Value| json!({"items": [{"variables": variables}]}).to_string();
    let long = "x".repeat(11 * 1024);
    let many: Vec<Value> = (0..17).map(|n| json!({"name": format!("N{n}"), "value": ""})).collect();
    let sets: Vec<Value> = (0..257).map(|_| json!({"variables": [{"name": "A", "value": ""}]})).collect();
    let nodes: Vec<String> = (0..17).map(|n| format!("node{n}")).collect();
    let config_nodes: Vec<Value> =
        (0..17).map(|_| json!({"nodeGroupSubject": {"codename": "t"}, "priority": 0})).collect();
    let env = unit("env-overrides/");
    let state = unit(&format!("states/{item}/default/0/"));
    let refused: Vec<(&str, String, Bytes)> = vec![
        ("PUT", env.clone(), variables(json!([{"name": "", "value": ""}])).into()),
        ("PUT", env.clone(), variables(json!([{"name": "A=B", "value": ""}])).into()),
        ("PUT", env.clone(), variables(json!([{"name": "A", "value": long}])).into()),
        ("PUT", env.clone(), variables(json!([{"name": "A", "value": "a\u{0}b"}])).into()),
        ("PUT", env.clone(), variables(json!([{"name": "A", "value": "", "ttl": "soon"}])).into()),
        (
            "PUT",
            env.clone(),
            variables(json!([{"name": "A", "value": "", "ttl": "2020-01-01T00:00:00Z"}])).into(),
        ),
        ("PUT", env.clone(), variables(json!([])).into()),
        ("PUT", env.clone(), variables(json!(many)).into()),
        ("PUT", env.clone(), json!({"items": sets}).to_string().into()),
        ("PUT", env.clone(), "{}".into()),
        ("PUT", state.clone(), vec![b'x'; 65_537].into()),
        ("PUT", state.clone(), vec![0xff, 0xfe].into()),
        ("PUT", unit(&format!("states/{item}/default/one/")), "x".into()),
        ("POST", unit("logs/"), json!({"type": "instance"}).to_string().into()),
        ("POST", unit("logs/"), json!({"type": "system", "item": item}).to_string().into()),
        ("POST", unit("logs/"), json!({"type": "everything"}).to_string().into()),
        ("POST", unit("logs/"), json!({"type": "system", "upload": "ftp"}).to_string().into()),
        ("POST", unit("logs/"), json!({"type": "system", "from": "yesterday"}).to_string().into()),
        ("POST", unit("logs/"), json!({"type": "system", "nodes": nodes}).to_string().into()),
        (
            "POST",
            unit("logs/"),
            json!({"type": "system", "from": "2026-01-02T00:00:00Z", "till": "2026-01-01T00:00:00Z"})
                .to_string()
                .into(),
        ),
        ("POST", unit("certificates/renew/"), json!({"types": ["nonsense"]}).to_string().into()),
        ("POST", unit("certificates/renew/"), json!({"secrets": {"main": ""}}).to_string().into()),
        ("POST", unit("nodes/main/provision/"), json!({"password": "x".repeat(65)}).to_string().into()),
        ("PUT", unit("unit-config/"), json!({"version": "one", "nodes": []}).to_string().into()),
        ("PUT", unit("unit-config/"), json!({"version": "1.0.0", "nodes": config_nodes}).to_string().into()),
        (
            "PUT",
            unit("unit-config/"),
            json!({"version": "1.0.0", "nodes": [{"priority": 1}]}).to_string().into(),
        ),
    ];
    for (method, path, body) in refused {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = oem.call(method, &path, body).await;
        assert!(answer.status.is_client_error(), "{method} {path} {shown}: {}", answer.status);
        assert!(answer.json()["message"].is_string(), "{method} {path} {shown}");
    }
    for path in ["logs/none/", "logs/none/content/", "renewals/none/", "nodes/none/", "nodes/main/task/"] {
        assert_eq!(oem.get(&unit(path)).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(oem.get(&unit("messages/")).await.status, StatusCode::CONFLICT, "nothing is recorded yet");
    assert_eq!(
        admin.post("gateway/drain/", &json!({"seconds": 4000})).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    // Nothing of all that has left a trace.
    assert_eq!(oem.get(&env).await.ok().json()["items"], json!([]));
    assert_eq!(oem.get(&unit("logs/")).await.ok().json()["total"], 0);
}

#[tokio::test]
async fn secrets_are_not_told_back() {
    let Scene { cloud, oem, .. } = scene().await;
    let secrets = json!({"types": ["iam"], "secrets": {"main": "open-sesame"}});
    let renewal = oem.post("units/unit-1/certificates/renew/", &secrets).await.ok().json();
    let id = renewal["id"].as_str().unwrap();
    let log = oem.post("units/unit-1/logs/", &json!({"type": "system", "upload": "https"})).await.ok().json();
    let texts = [
        oem.get(&format!("units/unit-1/renewals/{id}/")).await.ok(),
        oem.get("units/unit-1/renewals/").await.ok(),
        oem.get(&format!("units/unit-1/logs/{}/", log["id"].as_str().unwrap())).await.ok(),
        oem.get("units/unit-1/nodes/").await.ok(),
    ];
    for text in texts {
        let text = String::from_utf8_lossy(&text.body).to_lowercase();
        for word in ["open-sesame", "password", "bearer", "token", "sealed"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
    let refused =
        oem.post("units/unit-1/certificates/renew/", &json!({"secrets": {"main": "blank blank"}})).await;
    assert!(!String::from_utf8_lossy(&refused.body).contains("blank blank"));
    // On the disk neither.
    for file in ["cloud.db", "cloud.db-wal"] {
        let bytes = std::fs::read(cloud.data().join(file)).unwrap_or_default();
        let found = bytes.windows(11).any(|window| window == b"open-sesame");
        assert!(!found, "the password lies open in {file}");
    }
}

#[tokio::test]
async fn an_upload_needs_the_token_of_its_request() {
    let Scene { cloud, oem, .. } = scene().await;
    let log = oem.post("units/unit-1/logs/", &json!({"type": "system", "upload": "https"})).await.ok().json();
    let id = log["id"].as_str().unwrap();
    let blobs = &cloud.endpoints().blobs;
    for (id, token, status) in [
        (id, Some("Bearer guess"), StatusCode::FORBIDDEN),
        ("no-request", Some("Bearer guess"), StatusCode::FORBIDDEN),
        (id, Some("guess"), StatusCode::UNAUTHORIZED),
        (id, None, StatusCode::UNAUTHORIZED),
    ] {
        let mut call = hyper::Request::put(format!("/log-uploads/{id}")).header("aos-node", "main");
        if let Some(token) = token {
            call = call.header("authorization", token);
        }
        let call = call.body(http_body_util::Full::from("text")).unwrap();
        let answer = common::operator::anonymous(blobs, &cloud.data(), call).await;
        assert_eq!(answer.status, status, "{id} {token:?}");
    }
    let kept = oem.get(&format!("units/unit-1/logs/{id}/")).await.ok().json();
    assert_eq!(kept["state"], "waiting", "{kept}");
}

#[tokio::test]
async fn a_gateway_is_drained_and_opened_again() {
    let Scene { cloud: _cloud, admin, .. } = scene().await;
    assert_eq!(admin.get("gateway/").await.ok().json(), json!({"draining": false, "sessions": 0}));
    let draining = admin.post("gateway/drain/", &json!({"seconds": 1})).await.ok().json();
    assert_eq!(draining["draining"], true);
    let opened = admin.call("DELETE", "gateway/drain/", "").await.ok().json();
    assert_eq!(opened["draining"], false);
}

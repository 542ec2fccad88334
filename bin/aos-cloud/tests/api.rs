//! The REST API as an operator's tool uses it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod common;

use common::TestCloud;
use common::operator::{Operator, digest};
use hyper::StatusCode;
use serde_json::{Value, json};

async fn scene() -> (TestCloud, Operator, Operator) {
    let cloud = TestCloud::start().await;
    let admin = Operator::admin(&cloud.endpoints().api, &cloud.data()).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    (cloud, admin, oem)
}

#[tokio::test]
async fn each_role_sees_itself() {
    let (_cloud, admin, oem) = scene().await;
    let provider = admin.invited("sp", "Apps", "eve").await;
    let fleet = admin.invited("fleet", "Axle Works", "flo").await;
    for (who, role, company) in [
        (&admin, "admin", None),
        (&oem, "oem", Some("oem")),
        (&provider, "service provider", Some("service_provider")),
        (&fleet, "fleet owner", Some("oem")),
    ] {
        let me = who.get("users/me/").await.ok().json();
        assert_eq!(me["role"], role);
        if let Some(company) = company {
            assert!(me[company]["title"].is_string(), "{me}");
        }
    }
    let refused = oem.post("users/", &json!({"role": "admin", "company": "x", "username": "y"})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(provider.get("units/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(fleet.get("units/").await.ok().json()["total"], 0);
}

#[tokio::test]
async fn blobs_are_checked_and_repeatable() {
    let (_cloud, _admin, oem) = scene().await;
    let good = digest(b"content");
    let path = format!("blobs/{good}/");
    assert_eq!(oem.call("HEAD", &path, "").await.status, StatusCode::NOT_FOUND);
    let wrong = oem.call("PUT", &path, "other content").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.json()["message"].as_str().unwrap().contains(&digest(b"other content")));
    assert_eq!(oem.call("PUT", &path, "content").await.status, StatusCode::CREATED);
    assert_eq!(oem.call("PUT", &path, "content").await.status, StatusCode::OK);
    assert_eq!(oem.call("HEAD", &path, "").await.status, StatusCode::OK);
    assert_eq!(oem.call("PUT", "blobs/sha256:..%2F..%2Fx/", "x").await.status, StatusCode::BAD_REQUEST);
    let large = vec![b'x'; 3 * 1024 * 1024];
    oem.upload(&large).await;
}

#[tokio::test]
async fn a_version_is_published_once() {
    let (_cloud, admin, oem) = scene().await;
    let (item, digests) = oem.publish("hello", "1.0.0", b"layer").await;
    let versions = format!("update-items/{item}/versions/");
    let publish = |version: &str, index: &str| json!({"version": version, "index_digest": index});
    let same = oem.post(&versions, &publish("1.0.0", &digests[0])).await;
    assert_eq!(same.status, StatusCode::OK);
    // Adds 1.1.0 with other content, whose index then claims to be 1.0.0.
    let (again, other) = oem.publish("hello", "1.1.0", b"other layer").await;
    assert_eq!(again, item, "one item per owner, type and codename");
    let conflict = oem.post(&versions, &publish("1.0.0", &other[0])).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert_eq!(oem.get(&versions).await.ok().json()["total"], 2);
    let listed = oem.get("update-items/").await.ok().json();
    assert_eq!(listed["items"][0]["latest_version"], "1.1.0");
    assert_eq!(oem.get("update-items/hello/").await.ok().json()["id"], item.as_str());

    for (what, body) in [
        ("no blob", publish("2.0.0", &digest(b"absent"))),
        ("a layer as index", publish("2.0.0", &digests[4])),
        ("no digest", publish("2.0.0", "latest")),
        ("no version", publish("two", &digests[0])),
        ("nothing", json!({})),
        ("a list", json!([])),
    ] {
        let refused = oem.post(&versions, &body).await;
        assert!(refused.status.is_client_error(), "{what}: {}", refused.status);
        assert!(refused.json()["message"].is_string(), "{what}");
    }
    let provider = admin.invited("sp", "Apps", "eve").await;
    let refused = provider.post(&versions, &publish("3.0.0", &digests[0])).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let component = json!({"type": "component", "codename": "rootfs"});
    assert_eq!(provider.post("update-items/", &component).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn assignments_are_checked() {
    let (cloud, _admin, oem) = scene().await;
    let units = &cloud.endpoints().units;
    common::unit::TestUnit::provision(&oem, &cloud.data(), units, "unit-1").await;
    let (item, _) = oem.publish("hello", "1.0.0", b"layer").await;
    let path = format!("units/unit-1/assignments/{item}/");
    for (what, body, status) in [
        ("unknown version", json!({"version": "9.0.0"}), StatusCode::BAD_REQUEST),
        ("no instance", json!({"num_instances": 0}), StatusCode::UNPROCESSABLE_ENTITY),
        ("priority", json!({"priority": 1_000_000}), StatusCode::UNPROCESSABLE_ENTITY),
        ("labels", json!({"labels": ["a", "b", "c", "d", "e"]}), StatusCode::UNPROCESSABLE_ENTITY),
        ("label", json!({"labels": [""]}), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let refused = oem.call("PUT", &path, body.to_string()).await;
        assert_eq!(refused.status, status, "{what}");
    }
    let nobody = oem.call("PUT", "units/unit-2/assignments/hello/", "{}").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    let nothing = oem.call("PUT", "units/unit-1/assignments/other/", "{}").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);

    let revision = |status: &Value| status["revision"].as_i64().unwrap();
    let before = oem.get("units/unit-1/status/").await.ok().json();
    let assigned = oem.call("PUT", &path, json!({"labels": ["main"]}).to_string()).await.ok().json();
    assert_eq!(assigned["version"], "latest");
    assert_eq!(assigned["resolved_version"], "1.0.0");
    let after = oem.get("units/unit-1/status/").await.ok().json();
    assert!(revision(&after) > revision(&before));
    oem.call("PUT", &path, json!({"labels": ["main"]}).to_string()).await.ok();
    let same = oem.get("units/unit-1/status/").await.ok().json();
    assert_eq!(revision(&same), revision(&after), "the same assignment again is no change");
    assert_eq!(oem.get("units/unit-1/assignments/").await.ok().json()["total"], 1);
    oem.call("DELETE", "units/unit-1/assignments/hello/", "").await.ok();
    let gone = oem.call("DELETE", "units/unit-1/assignments/hello/", "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn odd_requests_get_errors_in_the_usual_form() {
    let (_cloud, _admin, oem) = scene().await;
    for (method, path, body, status) in [
        ("GET", "nothing/", String::new(), StatusCode::NOT_FOUND),
        ("DELETE", "users/me/", String::new(), StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "update-items/", "{".to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        ("POST", "update-items/", "x".repeat(2 * 1024 * 1024), StatusCode::PAYLOAD_TOO_LARGE),
        ("GET", "units/?limit=many", String::new(), StatusCode::UNPROCESSABLE_ENTITY),
        ("GET", "units/no-such-unit/status/", String::new(), StatusCode::NOT_FOUND),
    ] {
        let answer = oem.call(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.json()["message"].is_string(), "{method} {path}");
    }
    // Without the final slash, and under the older version.
    assert!(oem.get("users/me").await.status.is_success());
}

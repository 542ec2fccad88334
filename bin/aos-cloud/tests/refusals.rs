//! Who is turned away, and how.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod common;

use common::client::{Credentials, key_and_csr, request, tls};
use common::operator::{Operator, anonymous, enrolment};
use common::unit::TestUnit;
use common::{LIMIT, TestCloud};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};

struct Scene {
    cloud: TestCloud,
    admin: Operator,
    oem: Operator,
    unit: TestUnit,
}

async fn scene() -> Scene {
    let cloud = TestCloud::start().await;
    let admin = Operator::admin(&cloud.endpoints().api, &cloud.data()).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    let unit = TestUnit::provision(&oem, &cloud.data(), &cloud.endpoints().units, "unit-1").await;
    Scene { cloud, admin, oem, unit }
}

/// A certificate with the Unit's subject from the given authority.
fn forged(issuer_pem: &str, issuer_key: &str, edit: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let issuer_key = KeyPair::from_pem(issuer_key).unwrap();
    let issuer = Issuer::from_ca_cert_pem(issuer_pem, issuer_key).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "unit-1");
    edit(&mut params);
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Credentials::from_pem(&format!("{}{issuer_pem}", leaf.pem()), &key.serialize_pem())
}

// PRO-05, CLO-06, CLO-08, REL-04
#[tokio::test]
async fn strangers_are_refused_in_the_handshake() {
    let Scene { cloud, oem, unit, .. } = scene().await;
    assert!(unit.discover(Some(&unit.online), "unit-1").await.is_ok());
    let pki = |name: &str| std::fs::read_to_string(cloud.data().join("pki").join(name)).unwrap();

    let other_key = KeyPair::generate().unwrap();
    let mut other = CertificateParams::default();
    other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let other = other.self_signed(&other_key).unwrap().pem();
    let server = pki("server.pem");
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    };
    for (who, credentials) in [
        ("no certificate", None),
        ("an expired certificate", Some(forged(&pki("units.pem"), &pki("units.key"), expired))),
        ("another authority", Some(forged(&other, &other_key.serialize_pem(), |_| {}))),
        ("a user certificate", Some(oem.credentials.clone())),
        ("a server certificate", Some(Credentials::from_pem(&server, &server))),
        ("the root's own hand", Some(forged(&pki("root.pem"), &pki("root.key"), |_| {}))),
    ] {
        let answer = tokio::time::timeout(LIMIT, unit.discover(credentials.as_ref(), "unit-1")).await;
        let answer = answer.unwrap_or_else(|_| panic!("{who} hangs"));
        assert!(answer.is_err(), "{who}: {answer:?}");
    }
    // And the other way round: a Unit is no user.
    let call = Request::get("/api/v11/users/me/").body(Full::default()).unwrap();
    let answer = request(&cloud.endpoints().api, &tls(&cloud.data(), Some(&unit.online)), call).await;
    assert!(answer.is_err(), "{answer:?}");
}

// CLO-06, CLO-07
#[tokio::test]
async fn only_recorded_online_certificates_open_a_session() {
    let Scene { cloud, unit, .. } = scene().await;
    let pki = |name: &str| std::fs::read_to_string(cloud.data().join("pki").join(name)).unwrap();
    // Signed by the right key, but never issued: the record decides, not the signature.
    let unknown = forged(&pki("units.pem"), &pki("units.key"), |_| {});
    for credentials in [&unit.offline, &unit.iam, &unknown] {
        let answer = unit.discover(Some(credentials), "unit-1").await.unwrap();
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(unit.try_connect(credentials).await.is_err());
    }
}

// PRO-04, PRO-08, PRO-10, CLO-01, CLO-03
#[tokio::test]
async fn discovery_answers_the_unit_itself_and_nobody_else() {
    let Scene { cloud, unit, .. } = scene().await;
    let answer = unit.discover(Some(&unit.online), "unit-1").await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let answer = answer.json();
    assert_eq!(answer["errorCode"], 0);
    let expected = cloud.endpoints().discovery_url.replace("https", "wss").replace("/sd/", "/ws/");
    assert_eq!(answer["connectionInfo"], serde_json::json!([expected]));
    let other = unit.discover(Some(&unit.online), "unit-2").await.unwrap();
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    let call = Request::post("/sd/v7/").body(Full::from("no json")).unwrap();
    let answer = request(&cloud.endpoints().units, &tls(&cloud.data(), Some(&unit.online)), call).await;
    assert_eq!(answer.unwrap().status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_deprovisioned_unit_is_out() {
    let Scene { cloud: _cloud, oem, unit, .. } = scene().await;
    let mut link = unit.connect().await;
    oem.status_until("unit-1", |status| status["online_status"] != "Offline").await;
    let refused = oem.call("DELETE", "units/unit-1/deprovision/", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "online");
    oem.call("DELETE", "units/unit-1/deprovision/?force=true", "").await.ok();
    assert_eq!(link.closed().await, 1008);
    let answer = unit.discover(Some(&unit.online), "unit-1").await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    // With the same keys it can be registered again, with new certificates.
    oem.post("units/provisioning/", &unit.registration).await.ok();
    assert_eq!(unit.discover(Some(&unit.online), "unit-1").await.unwrap().status, StatusCode::FORBIDDEN);
    oem.call("DELETE", "units/unit-1/deprovision/", "").await.ok();
    oem.call("DELETE", "units/unit-1/", "").await.ok();
    assert_eq!(oem.get("units/unit-1/").await.status, StatusCode::NOT_FOUND);
}

// CLO-26
#[tokio::test]
async fn provisioning_again_repeats_the_answer() {
    let Scene { cloud: _cloud, admin, oem, unit, .. } = scene().await;
    let first = oem.post("units/provisioning/", &unit.registration).await.ok().json();
    let again = oem.post("units/provisioning/", &unit.registration).await.ok().json();
    assert_eq!(first, again);
    assert_eq!(oem.get("units/?system_uid=unit-1").await.ok().json()["total"], 1);
    assert_eq!(oem.get("units/unit-1/certificates/").await.ok().json()["total"], 3);
    let nodes = oem.get("units/unit-1/nodes/").await.ok().json();
    assert_eq!(nodes["items"][0]["is_main"], true);
    assert_eq!(nodes["items"][0]["info"]["cpus"][0]["arch"], "amd64");

    let stranger = admin.invited("oem", "Other", "bob").await;
    assert_eq!(stranger.post("units/provisioning/", &unit.registration).await.status, StatusCode::CONFLICT);
    assert_eq!(stranger.get("units/unit-1/").await.status, StatusCode::NOT_FOUND);
    let provider = admin.invited("sp", "Provider", "eve").await;
    let refused = provider.post("units/provisioning/", &unit.registration).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.json()["message"].is_string());

    let mut bad = unit.registration.clone();
    bad["online_public_csr"] = "nonsense".into();
    assert_eq!(oem.post("units/provisioning/", &bad).await.status, StatusCode::BAD_REQUEST);
    bad["online_public_csr"] = 5.into();
    assert_eq!(oem.post("units/provisioning/", &bad).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_token_enrols_once() {
    let cloud = TestCloud::start().await;
    let (api, data) = (cloud.endpoints().api.clone(), cloud.data());
    let admin = Operator::admin(&api, &data).await;
    assert_eq!(admin.get("users/me/").await.ok().json()["role"], "admin");
    let invitation = serde_json::json!({"role": "oem", "company": "Axle Works", "username": "ann"});
    let token = admin.post("users/", &invitation).await.ok().json();
    let token = token["token"].as_str().unwrap();
    let (_, csr) = key_and_csr(|_| {});
    let first = anonymous(&api, &data, enrolment(token, &csr)).await.ok().json();
    let repeated = anonymous(&api, &data, enrolment(token, &csr)).await.ok().json();
    assert_eq!(first, repeated, "the tools repeat the call");
    let (_, other) = key_and_csr(|_| {});
    for (token, csr) in [(token, &other), ("wrong", &csr), ("", &csr)] {
        assert_eq!(anonymous(&api, &data, enrolment(token, csr)).await.status, StatusCode::FORBIDDEN);
    }
    let call = Request::get("/api/v11/users/me/").body(Full::default()).unwrap();
    assert_eq!(anonymous(&api, &data, call).await.status, StatusCode::UNAUTHORIZED);
}

use std::collections::BTreeSet;

use aos_status::AosCode;
use proptest::prelude::*;

use super::chain::parse_chain;
use super::core::*;
use super::request;
use crate::config::{Algorithm, CertModule, KeyUsage, TokenParams};

fn record(serial: u8, not_after: i64) -> CertRecord {
    CertRecord {
        cert_type: "online".into(),
        issuer: b"issuer".to_vec(),
        serial: vec![serial],
        cert_url: format!("pkcs11:object=online;id=%{serial:02X}?"),
        key_url: String::new(),
        not_after,
    }
}

#[test]
fn the_latest_ends_last_and_exact_lookup_ignores_leading_zeros() {
    let records = [record(1, 30), record(2, 10), record(3, 20)];
    let certificates = Certificates::new(["online", "offline"], &records);
    assert_eq!(certificates.latest("online").unwrap().serial, [1]);
    assert!(certificates.latest("offline").is_none());
    assert!(certificates.knows("offline") && !certificates.knows("sm"));
    assert_eq!(certificates.find(b"issuer", &[0, 3]).unwrap().not_after, 20);
    assert!(certificates.find(b"other", &[3]).is_none());
}

#[test]
fn the_first_to_end_is_given_up_and_never_the_new_one() {
    let stored = [record(1, 30), record(2, 10), record(3, 5)];
    let new = record(3, 5);
    let gone = surplus(&stored, &new, 2, 0);
    assert_eq!(gone, [&record(2, 10)], "the new one stays although it ends first");
    assert!(surplus(&stored, &new, 3, 0).is_empty());
    assert_eq!(surplus(&stored, &new, 1, 0).len(), 2);
}

#[test]
fn what_has_ended_takes_no_place_from_what_has_not() {
    let stored = [record(1, 30), record(2, 20), record(3, 5)];
    let ended = record(3, 5);
    assert!(surplus(&stored, &ended, 2, 10).is_empty(), "both good ones stay, with one too many");
    assert_eq!(surplus(&stored, &record(4, 40), 2, 10), [&record(3, 5), &record(2, 20)], "until the next");
    // Where all have ended, or a clock ahead of the truth says so, the order is the usual one.
    assert_eq!(surplus(&stored, &ended, 2, 35), [&record(2, 20)]);
}

#[test]
fn oldest_waiting_keys_are_evicted() {
    let keys: Vec<KeyId> = (0..5).map(|n| vec![n]).collect();
    assert_eq!(evicted(&keys, 5), [vec![0]]);
    assert!(evicted(&keys[..4], 5).is_empty());
    assert!(evicted(&[], 5).is_empty());
}

#[test]
fn token_wins_over_rows_and_waiting_keys_are_kept() {
    let id = |n: u8| vec![n];
    let ids = |numbers: &[u8]| numbers.iter().map(|n| vec![*n]).collect::<BTreeSet<_>>();
    let scan = Scan {
        private_keys: ids(&[1, 2, 3, 4, 6]),
        public_keys: ids(&[1, 2, 3, 4]),
        // 1 is complete, 5 lacks its keys, 3 has one that cannot be read.
        certificates: vec![(id(1), Some(record(1, 1))), (id(5), Some(record(5, 5))), (id(3), None)],
    };
    let rows = [record(9, 9)];
    let plan = reconcile(&scan, &rows, &[id(2), id(1), id(7)]);
    assert_eq!(plan.add, [record(1, 1)]);
    assert_eq!(plan.remove, [record(9, 9)]);
    assert_eq!(plan.orphans, ids(&[3, 4, 5, 6]), "half key pairs go too");
    assert_eq!(plan.settled, [id(1), id(7)]);
    let after = reconcile(&scan, &plan.add, &[id(2)]);
    assert_eq!((after.add, after.remove, after.settled), (vec![], vec![], vec![]));
}

fn scans() -> impl Strategy<Value = Scan> {
    let ids = || prop::collection::btree_set((0..8_u8).prop_map(|n| vec![n]), 0..8);
    (ids(), ids(), prop::collection::vec((0..8_u8, any::<bool>()), 0..8)).prop_map(
        |(private, public, certs)| Scan {
            private_keys: private,
            public_keys: public,
            certificates: certs
                .into_iter()
                .map(|(n, readable)| (vec![n], readable.then(|| record(n, n.into()))))
                .collect(),
        },
    )
}

proptest! {
    /// A second comparison finds nothing to do, nothing in use is an orphan, and all else is.
    #[test]
    fn reconciling_settles(
        scan in scans(),
        rows in prop::collection::vec((0..8_u8, 0..2_i64), 0..6),
        pending in prop::collection::btree_set(0..8_u8, 0..5),
    ) {
        let mut rows: Vec<CertRecord> = rows.into_iter().map(|(n, extra)| record(n, i64::from(n) + extra)).collect();
        rows.dedup_by(|a, b| a.serial == b.serial);
        let pending: Vec<KeyId> = pending.into_iter().map(|n| vec![n]).collect();
        let plan = reconcile(&scan, &rows, &pending);
        let mut after: Vec<CertRecord> = rows.iter().filter(|row| !plan.remove.contains(row)).cloned().collect();
        after.extend(plan.add.iter().cloned());
        let waiting: Vec<KeyId> = pending.iter().filter(|id| !plan.settled.contains(id)).cloned().collect();
        let again = reconcile(&scan, &after, &waiting);
        prop_assert!(again.add.is_empty() && again.remove.is_empty() && again.settled.is_empty());
        prop_assert_eq!(&again.orphans, &plan.orphans);
        for id in scan.private_keys.union(&scan.public_keys) {
            let used = waiting.contains(id)
                || after.iter().any(|row| row.serial == *id) && !plan.orphans.contains(id);
            prop_assert!(used != plan.orphans.contains(id));
        }
    }
}

fn authority(name: &str) -> (rcgen::CertificateParams, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (params, rcgen::KeyPair::generate().unwrap())
}

#[test]
fn chains_must_lead_to_a_root_that_is_part_of_them() {
    let (root_params, root_key) = authority("root");
    let root = root_params.self_signed(&root_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(root_params, root_key);
    let (middle_params, middle_key) = authority("middle");
    let middle = middle_params.signed_by(&middle_key, &issuer).unwrap().pem();
    let issuer = rcgen::Issuer::new(middle_params, middle_key);
    let (leaf_params, leaf_key) = authority("leaf");
    let leaf = leaf_params.signed_by(&leaf_key, &issuer).unwrap().pem();

    let chain = parse_chain(&format!("{leaf}{root}{middle}")).unwrap();
    assert_eq!(chain.len(), 3);
    assert_eq!(chain[0].issuer_text, "CN=middle");
    assert_eq!(parse_chain(&root).unwrap().len(), 1, "self-issued alone");
    let code = |text: &str| parse_chain(text).unwrap_err().code();
    assert_eq!(code(&format!("{leaf}{middle}")), AosCode::NotFound);
    assert_eq!(code(&format!("{leaf}{root}")), AosCode::NotFound);
    assert_eq!(code(""), AosCode::NotFound);
    assert_eq!(code("no PEM at all"), AosCode::NotFound);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(code(&format!("{root}{garbage}")), AosCode::InvalidArgument);
    assert_eq!(code("-----BEGIN CERTIFICATE-----\nAAAA\n"), AosCode::InvalidArgument);
    assert_eq!(code(&root.repeat(5)), AosCode::NoMemory);
}

#[test]
fn requests_name_only_what_is_configured() {
    let module = CertModule {
        id: "sm".into(),
        algorithm: Algorithm::Ecc,
        max_items: 2,
        extended_key_usage: vec![KeyUsage::ClientAuth],
        alternative_names: vec!["gateway".into()],
        skip_validation: false,
        self_signed: false,
        params: TokenParams::default(),
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = request::csr(&module, "system", &key).unwrap();
    let read = rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap().params;
    assert_eq!(read.distinguished_name.iter().count(), 1);
    assert_eq!(read.subject_alt_names.len(), 1);
    assert_eq!(read.extended_key_usages, [rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(request::csr(&module, "", &key).is_err());
    assert!(request::csr(&module, &"x".repeat(126), &key).is_err());
    request::csr(&module, &"x".repeat(64), &key).unwrap();
}

#[test]
fn self_signed_certificates_last_a_century() {
    let key = rcgen::KeyPair::generate().unwrap();
    let now: jiff::Timestamp = "2024-02-29T10:00:00Z".parse().unwrap();
    let der = request::self_signed(&key, now).unwrap();
    let parsed = super::chain::parse(&der).unwrap();
    assert_eq!(parsed.issuer_text, "CN=Aos Core");
    assert_eq!(parsed.issuer, parsed.subject);
    let end = jiff::Timestamp::from_nanosecond(parsed.not_after.into()).unwrap();
    assert_eq!(end.to_string(), "2124-02-28T00:00:00Z");
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap().to_le_bytes();
    assert_eq!(parsed.serial, significant(&nanoseconds));
}

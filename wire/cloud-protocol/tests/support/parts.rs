//! Random parts that many messages have.

use aos_cloud_protocol::*;
use aos_ids::Digest;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,20}"
}

pub fn text() -> impl Strategy<Value = String> {
    "\\PC{0,30}"
}

pub fn uuid() -> impl Strategy<Value = String> {
    "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
}

pub fn time() -> impl Strategy<Value = Timestamp> {
    (-1_000_000_000_000_000..4_000_000_000_000_000_i64)
        .prop_map(|micros| Timestamp::from_microsecond(micros).unwrap())
}

pub fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_sha256)
}

pub fn checksum() -> impl Strategy<Value = StateChecksum> {
    any::<[u8; 28]>().prop_map(|bytes| StateChecksum::from_bytes(&bytes))
}

pub fn secret() -> impl Strategy<Value = Secret> {
    text().prop_map(Secret::new)
}

pub fn bytes() -> impl Strategy<Value = Base64Bytes> {
    vec(any::<u8>(), 0..50).prop_map(Base64Bytes)
}

pub fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_u64, 0..=i64::MAX as u64]
}

pub fn quarter() -> impl Strategy<Value = f64> {
    (0..=400_u16).prop_map(|quarters| f64::from(quarters) / 4.0)
}

pub fn error() -> impl Strategy<Value = Option<ErrorInfo>> {
    let info = (1..=14, any::<i32>(), text());
    option::of(info.prop_map(|(aos_code, exit_code, message)| ErrorInfo { aos_code, exit_code, message }))
}

pub fn certificate_type() -> impl Strategy<Value = CertificateType> {
    select(vec!["offline", "online", "sm", "cm", "iam", "um", "host-device", "remote-device", "azure-iot"])
        .prop_map(|word| CertificateType::from(word.to_owned()))
}

pub fn identity() -> impl Strategy<Value = AosIdentity> {
    let kind = select(vec![
        IdentityType::Component,
        IdentityType::Service,
        IdentityType::Layer,
        IdentityType::Subject,
        IdentityType::Oem,
        IdentityType::Sp,
        IdentityType::Node,
        IdentityType::Runtime,
    ]);
    let names = (option::of(uuid()), option::of(word()), option::of(text()), option::of(text()));
    (names, option::of(kind), option::of(text())).prop_map(
        |((id, codename, title, description), kind, urn)| AosIdentity {
            id,
            kind,
            codename,
            title,
            description,
            urn,
        },
    )
}

pub fn os_info() -> impl Strategy<Value = OsInfo> {
    (word(), option::of(text()), option::of(vec(word(), 0..3))).prop_map(|(os, version, features)| OsInfo {
        os,
        version,
        features,
    })
}

pub fn arch_info() -> impl Strategy<Value = ArchInfo> {
    (word(), option::of(word())).prop_map(|(architecture, variant)| ArchInfo { architecture, variant })
}

pub fn outcome() -> impl Strategy<Value = NodeOutcome> {
    (identity(), error()).prop_map(|(node, error_info)| NodeOutcome { node, error_info })
}

//! Random messages of all kinds, within what the published schema allows.

use aos_cloud_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::downward::*;
use super::parts::*;
use super::upward::*;

/// A message of any kind.
pub fn envelope() -> impl Strategy<Value = Envelope> {
    let txn = uuid().prop_map(|text| text.parse().unwrap());
    (word(), time(), txn, option::of("[ -~]{1,37}"), body()).prop_map(
        |(system_id, created_at, txn, correlation_id, body)| {
            let header = Header { system_id: system_id.parse().unwrap(), created_at: Some(created_at), txn };
            Envelope { header, correlation_id, body }
        },
    )
}

/// Content of any kind.
pub fn body() -> BoxedStrategy<Body> {
    let upward = prop_oneof![
        unit_status().prop_map(Body::UnitStatus),
        monitoring().prop_map(Body::MonitoringData),
        vec(alert(), 1..6).prop_map(|items| Body::Alerts(Alerts { items, refused: Vec::new() })),
        push_log().prop_map(Body::PushLog),
        vec(env_var_status(), 0..4)
            .prop_map(|statuses| { Body::OverrideEnvVarsStatus(OverrideEnvVarsStatus { statuses }) }),
        vec(digest(), 1..16).prop_map(|digests| Body::RequestBlobUrls(RequestBlobUrls { digests })),
        state_data().prop_map(Body::NewState),
        (identity(), identity(), any::<u32>(), any::<bool>()).prop_map(
            |(item, subject, instance, default)| {
                Body::StateRequest(StateRequest { item, subject, instance: instance.into(), default })
            }
        ),
        vec((certificate_type(), identity(), text()), 0..4).prop_map(|requests| {
            let requests = requests.into_iter();
            let requests = requests.map(|(kind, node, csr)| CertificateRequest { kind, node, csr }).collect();
            Body::IssueUnitCertificates(IssueUnitCertificates { requests })
        }),
        vec((certificate_type(), identity(), text(), error()), 0..4).prop_map(|certificates| {
            let certificates = certificates.into_iter();
            let certificates = certificates.map(|(kind, node, serial, error_info)| InstalledCertificate {
                kind,
                node,
                serial,
                error_info,
            });
            let certificates = certificates.collect();
            Body::InstallUnitCertificatesConfirmation(InstallUnitCertificatesConfirmation { certificates })
        }),
        (identity(), error(), vec((certificate_type(), text()), 0..3)).prop_map(
            |(node, error_info, csrs)| {
                let csrs = csrs.into_iter().map(|(kind, csr)| NodeCsr { kind, csr }).collect();
                Body::StartProvisioningResponse(StartProvisioningResponse { node, error_info, csrs })
            }
        ),
        outcome().prop_map(Body::FinishProvisioningResponse),
        outcome().prop_map(Body::DeprovisioningResponse),
        Just(Body::Ack(Ack {})),
    ];
    let downward = prop_oneof![
        any::<u32>().prop_map(|millis| {
            Body::Nack(Nack { retry_after: std::time::Duration::from_millis(millis.into()) })
        }),
        desired_status().prop_map(Body::DesiredStatus),
        request_log().prop_map(Body::RequestLog),
        vec(env_vars_filter(), 0..3).prop_map(|items| Body::OverrideEnvVars(OverrideEnvVars { items })),
        vec(blob(), 0..4).prop_map(|items| Body::BlobUrls(BlobUrls { items })),
        state_data().prop_map(Body::UpdateState),
        (identity(), identity(), any::<u32>(), checksum(), any::<bool>(), text()).prop_map(
            |(item, subject, instance, checksum, ok, reason)| {
                let result = if ok { StateResult::Accepted } else { StateResult::Rejected };
                let instance = instance.into();
                Body::StateAcceptance(StateAcceptance { item, subject, instance, checksum, result, reason })
            }
        ),
        renewal().prop_map(Body::RenewCertificatesNotification),
        vec((certificate_type(), identity(), text()), 0..4).prop_map(|certificates| {
            let certificates = certificates.into_iter();
            let certificates = certificates
                .map(|(kind, node, certificate_chain)| IssuedCertificate { kind, node, certificate_chain })
                .collect();
            Body::IssuedUnitCertificates(IssuedUnitCertificates { certificates })
        }),
        (identity(), secret()).prop_map(|(node, password)| {
            Body::StartProvisioningRequest(StartProvisioningRequest { node, password })
        }),
        (identity(), vec((certificate_type(), text()), 0..3), secret()).prop_map(
            |(node, chains, password)| {
                let certificates =
                    chains.into_iter().map(|(kind, chain)| NodeCertificate { kind, chain }).collect();
                Body::FinishProvisioningRequest(FinishProvisioningRequest { node, certificates, password })
            }
        ),
        (identity(), secret()).prop_map(|(node, password)| {
            Body::DeprovisioningRequest(DeprovisioningRequest { node, password })
        }),
    ];
    prop_oneof![14 => upward, 12 => downward].boxed()
}

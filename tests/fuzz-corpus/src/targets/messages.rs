//! Messages of the cloud protocol: whole frames, and the content of each family.

use aos_cloud_protocol::{
    Body, Direction, Envelope, MessageType, ReadError, limits, read, read_small, write,
};

use super::check_complaint;

/// A frame as it comes.
pub fn target_envelope(data: &[u8]) {
    check(data, |_| true);
}

/// Whatever is read can be written; what was written is read again, unless a limit is in the way, and says the
/// same from then on.
fn check(frame: &[u8], wanted: impl Fn(MessageType) -> bool) {
    for direction in [Direction::UnitToCloud, Direction::CloudToUnit] {
        let message = read(frame, direction);
        assert_eq!(message, read_small(frame, direction), "the quick reader and the small one differ");
        match message {
            Ok(envelope) if wanted(envelope.body.message_type()) => check_message(&envelope, direction),
            Ok(_) => {}
            Err(error) => check_complaint(&error),
        }
    }
}

fn check_message(envelope: &Envelope, direction: Direction) {
    assert!(envelope.body.message_type().is_taken_by(direction));
    let _ = format!("{envelope:?}").len();
    for finding in limits::findings_for_unit(envelope.correlation_id.as_deref(), &envelope.body) {
        check_complaint(&finding);
    }
    let Ok(frame) = write(envelope) else { return };
    match read(&frame, direction) {
        Ok(again) => {
            let second = write(&again).unwrap();
            let third = read(&second, direction).unwrap();
            assert_eq!(write(&third).unwrap(), second, "writing changes what was written");
        }
        Err(ReadError::Invalid(error)) => check_complaint(&error),
        Err(ReadError::Unreadable(error)) => {
            panic!("{error}: {}", String::from_utf8_lossy(&frame));
        }
    }
}

/// `data` is the content of a message; the header around it is good.
fn content(data: &[u8], family: &[MessageType]) {
    let mut frame = br#"{"header":{"version":7,"systemId":"unit-1","txn":"t"},"data":"#.to_vec();
    frame.extend_from_slice(data);
    frame.push(b'}');
    check(&frame, |kind| family.contains(&kind));
}

macro_rules! families {
    ($($(#[$doc:meta])* $name:ident: $($kind:ident)+;)+) => {
        $($(#[$doc])* pub fn $name(data: &[u8]) { content(data, &[$(MessageType::$kind),+]); })+
    };
}

families! {
    /// Content of a `unitStatus`.
    target_status: UnitStatus;
    /// Content of a `desiredStatus`.
    target_desired: DesiredStatus;
    /// Content of messages about blobs.
    target_blobs: RequestBlobUrls BlobUrls;
    /// Content of messages about logs.
    target_logs: RequestLog PushLog;
    /// Content of messages about certificates.
    target_certificates:
        RenewCertificatesNotification IssueUnitCertificates IssuedUnitCertificates
        InstallUnitCertificatesConfirmation;
    /// Content of messages about provisioning.
    target_provisioning:
        StartProvisioningRequest StartProvisioningResponse FinishProvisioningRequest
        FinishProvisioningResponse DeprovisioningRequest DeprovisioningResponse;
    /// Content of messages about states.
    target_state: NewState UpdateState StateRequest StateAcceptance;
    /// Content of messages about variables.
    target_env_vars: OverrideEnvVars OverrideEnvVarsStatus;
    /// Content of a `monitoringData`.
    target_monitoring: MonitoringData;
    /// Content of an `alerts`.
    target_alerts: Alerts;
    /// Content of `ack` and `nack`.
    target_acks: Ack Nack;
}

/// The corpus folder that content of this kind belongs to.
pub fn family(body: &Body) -> &'static str {
    match body {
        Body::UnitStatus(_) => "status",
        Body::DesiredStatus(_) => "desired",
        Body::RequestBlobUrls(_) | Body::BlobUrls(_) => "blobs",
        Body::RequestLog(_) | Body::PushLog(_) => "logs",
        Body::RenewCertificatesNotification(_)
        | Body::IssueUnitCertificates(_)
        | Body::IssuedUnitCertificates(_)
        | Body::InstallUnitCertificatesConfirmation(_) => "certificates",
        Body::StartProvisioningRequest(_)
        | Body::StartProvisioningResponse(_)
        | Body::FinishProvisioningRequest(_)
        | Body::FinishProvisioningResponse(_)
        | Body::DeprovisioningRequest(_)
        | Body::DeprovisioningResponse(_) => "provisioning",
        Body::NewState(_) | Body::UpdateState(_) | Body::StateRequest(_) | Body::StateAcceptance(_) => {
            "state"
        }
        Body::OverrideEnvVars(_) | Body::OverrideEnvVarsStatus(_) => "env_vars",
        Body::MonitoringData(_) => "monitoring",
        Body::Alerts(_) => "alerts",
        Body::Ack(_) | Body::Nack(_) => "acks",
    }
}

//! Which Unit a connection belongs to.

use aos_cloud_listener::ConnectionPeer;
use aos_cloud_metrics::Refused;
use aos_cloud_pki::serial_text;
use aos_cloud_store::{Unit, now_micros};
use aos_ids::SystemId;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::Gateway;

/// Why a client is turned away. The text goes to the client and to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) const fn forbidden(reason: &'static str) -> Self {
        Self { status: StatusCode::FORBIDDEN, reason }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.reason).into_response()
    }
}

/// The Unit behind the client certificate: the record of issued certificates decides, not the subject.
pub(crate) struct Admitted {
    pub(crate) unit: Unit,
    pub(crate) system_id: SystemId,
    /// End of the certificate's validity, seconds since 1970 UTC.
    pub(crate) not_after: i64,
    /// The certificate's serial number.
    pub(crate) serial: Box<str>,
}

impl FromRequestParts<Gateway> for Admitted {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<ConnectionPeer>();
        let admitted = admit(gateway, peer).await;
        if let Err(refusal) = &admitted {
            gateway.inner.metrics.refused(Refused::Admission);
            let address = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
            let identity = peer.and_then(|peer| peer.identity.as_deref());
            let serial = identity.map(|identity| serial_text(&identity.serial)).unwrap_or_default();
            tracing::warn!("client {address} with certificate {serial} refused: {refusal}");
        }
        admitted
    }
}

async fn admit(gateway: &Gateway, peer: Option<&ConnectionPeer>) -> Result<Admitted, Refusal> {
    let failed = |error: aos_cloud_store::StoreError| {
        tracing::error!("cannot admit a Unit: {}", aos_logging::with_causes(&error));
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: "the cloud cannot check certificates now" }
    };
    let store = &gateway.inner.store;
    let peer = peer
        .and_then(|peer| peer.identity.as_deref())
        .ok_or(Refusal::forbidden("a Unit certificate is needed"))?;
    let certificate = store
        .certificate(&peer.issuer_der, &serial_text(&peer.serial))
        .await
        .map_err(failed)?
        .ok_or(Refusal::forbidden("this cloud has no record of the certificate"))?;
    if certificate.cert_type != "online" {
        return Err(Refusal::forbidden("only an online certificate opens a session"));
    }
    if !certificate.is_good(now_micros() / 1_000_000) {
        return Err(Refusal::forbidden("the certificate is revoked or expired"));
    }
    let unit_id = certificate.unit_id().ok_or(Refusal::forbidden("the certificate belongs to no Unit"))?;
    let unit = store.unit(unit_id).await.map_err(failed)?;
    let unit = unit
        .filter(|unit| unit.id == unit_id && unit.provisioned)
        .ok_or(Refusal::forbidden("the Unit is not provisioned"))?;
    let system_id = SystemId::new(unit.system_uid.as_str())
        .map_err(|_| Refusal::forbidden("the Unit has no usable system id"))?;
    let serial = certificate.serial.into();
    Ok(Admitted { unit, system_id, not_after: certificate.not_after, serial })
}

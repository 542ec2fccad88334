//! Who calls.

use aos_cloud_listener::ConnectionPeer;
use aos_cloud_pki::serial_text;
use aos_cloud_store::{Account, Role, Unit, now_micros};
use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::Api;
use crate::error::ApiError;

/// The account behind the client certificate of a request.
pub(crate) struct Caller(pub(crate) Account);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<ConnectionPeer>().and_then(|peer| peer.identity.as_deref());
        let peer = peer.ok_or_else(|| ApiError::unauthorized("this call needs a user certificate"))?;
        let refused = || ApiError::unauthorized("the user certificate is unknown, revoked or expired");
        let certificate = api
            .store
            .certificate(&peer.issuer_der, &serial_text(&peer.serial))
            .await?
            .filter(|certificate| certificate.is_good(now_micros() / 1_000_000))
            .ok_or_else(refused)?;
        api.store.account_of(&certificate).await?.map(Self).ok_or_else(refused)
    }
}

impl Caller {
    /// Refuses all but the given roles.
    pub(crate) fn require(&self, roles: &[Role]) -> Result<(), ApiError> {
        if roles.contains(&self.0.role) {
            return Ok(());
        }
        let words: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        Err(ApiError::forbidden(format!("this call needs the role {}", words.join(" or "))))
    }

    /// Company whose Units the caller sees; `None` = all.
    pub(crate) fn unit_company(&self) -> Result<Option<String>, ApiError> {
        match self.0.role {
            Role::Admin => Ok(None),
            Role::Oem | Role::FleetOwner => Ok(Some(self.0.company_id.clone())),
            Role::ServiceProvider => Err(ApiError::forbidden("service providers do not see Units")),
        }
    }

    /// The Unit with this cloud id or system id, when the caller may see it.
    pub(crate) async fn unit(&self, api: &Api, key: &str) -> Result<Unit, ApiError> {
        let company = self.unit_company()?;
        let unit = api.store.unit(key).await?;
        unit.filter(|unit| company.is_none_or(|company| company == unit.company_id))
            .ok_or_else(|| ApiError::not_found("no such Unit"))
    }

    /// The same, for changing it.
    pub(crate) async fn own_unit(&self, api: &Api, key: &str) -> Result<Unit, ApiError> {
        self.require(&[Role::Oem, Role::Admin])?;
        self.unit(api, key).await
    }

    /// Name for the audit trail.
    pub(crate) fn name(&self) -> String {
        format!("{}/{} ({})", self.0.company, self.0.username, self.0.role)
    }
}

//! Which component may call which protected service.
//!
//! The handshake has proved that the caller holds a certificate of the Unit's authority. All components of a
//! Unit, and all Units of a fleet, share that authority, so where this is switched on the certificate is looked
//! at: one that is stored here has its certificate type as its name; one that was issued to the same subject as
//! ours (the system ID) belongs to another node of this Unit. In provisioning mode nobody has a certificate
//! and nothing is checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use aos_tls::{ConnectionPeer, IdentitySlot, PeerIdentity};
use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::certhandler::Snapshot;

/// Stands in rules for every certificate of this Unit, on whatever node.
pub const UNIT: &str = "unit";
/// Stands in rules for every certificate of the authority.
pub const ANYBODY: &str = "*";

/// Allowed callers by service.
pub type Rules = BTreeMap<String, Vec<String>>;

/// The rules where the configuration says nothing else: CM orders, SM registers its instances, nodes of the
/// Unit register themselves.
pub const DEFAULT_RULES: [(&str, &[&str]); 5] = [
    ("IAMProvisioningService", &["cm"]),
    ("IAMCertificateService", &["cm"]),
    ("IAMNodesService", &["cm"]),
    ("IAMPermissionsService", &["sm"]),
    ("RegisterNode", &[UNIT]),
];

/// Decides about callers.
#[derive(Debug, Clone)]
pub struct Access {
    rules: Arc<Rules>,
    certificates: watch::Receiver<Snapshot>,
    own: IdentitySlot,
}

impl Access {
    /// Rules over the certificates stored here; `own` is what our servers show.
    pub fn new(rules: Rules, certificates: watch::Receiver<Snapshot>, own: IdentitySlot) -> Self {
        Self { rules: Arc::new(rules), certificates, own }
    }

    /// Whether the peer may use `service`; fails with PERMISSION_DENIED and the reason.
    pub fn check(&self, service: &str, peer: Option<&ConnectionPeer>) -> Result<(), Status> {
        let Some(allowed) = self.rules.get(service) else { return Ok(()) };
        let identity = peer.and_then(|peer| peer.identity.as_deref());
        let caller = identity.map_or(Caller::Unknown, |identity| self.caller(identity));
        if allowed.iter().any(|name| caller.is(name)) {
            return Ok(());
        }
        let who = identity.map_or_else(
            || "no certificate".to_owned(),
            |identity| {
                format!(
                    "certificate {} of '{}'",
                    hex::encode(&identity.serial),
                    identity.common_name.as_deref().unwrap_or("nobody")
                )
            },
        );
        let message = format!(
            "{service} is for certificates of type {}, and the caller shows {who}, {caller}",
            allowed.join(", ")
        );
        tracing::warn!("call refused: {message}");
        Err(Status::permission_denied(message))
    }

    fn caller(&self, identity: &PeerIdentity) -> Caller {
        if let Some(record) = self.certificates.borrow().find(&identity.issuer_der, &identity.serial) {
            return Caller::Stored(record.cert_type.clone());
        }
        let own = self.own.get().and_then(|own| PeerIdentity::from_certificate(own.cert.first()?).ok());
        match (own.and_then(|own| own.common_name), &identity.common_name) {
            (Some(own), Some(name)) if own == *name => Caller::OtherNode,
            _ => Caller::Unknown,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Caller {
    /// Its certificate is stored here, with this type.
    Stored(String),
    /// Its certificate is for this Unit.
    OtherNode,
    /// Neither.
    Unknown,
}

impl Caller {
    fn is(&self, name: &str) -> bool {
        match (self, name) {
            (_, ANYBODY) | (Self::Stored(_) | Self::OtherNode, UNIT) => true,
            (Self::Stored(cert_type), name) => cert_type == name,
            _ => false,
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stored(cert_type) => write!(f, "which is of type {cert_type}"),
            Self::OtherNode => f.write_str("which belongs to another node of this Unit"),
            Self::Unknown => f.write_str("which does not belong to this Unit"),
        }
    }
}

/// Stands before a service.
#[derive(Debug, Clone)]
pub struct Guard {
    service: &'static str,
    access: Option<Access>,
}

impl Guard {
    /// A guard of `service`; without rules it lets everybody in.
    pub fn new(service: &'static str, access: Option<Access>) -> Self {
        Self { service, access }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(access) = &self.access {
            access.check(self.service, request.extensions().get::<ConnectionPeer>())?;
        }
        Ok(request)
    }
}

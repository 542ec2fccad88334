//! What the Service Manager needs of IAM: the description of this node, our certificate, and the registration
//! of instances.
//!
//! The node's description is remembered, so that a start without IAM (a cold boot, say) uses the last one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aos_backoff::Backoff;
use aos_iam_link::{IamLink, LinkError};
use aos_ids::InstanceIdent;
use aos_status::{AosCode, ErrorInfo};
use aos_token::Identity;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::NodeInfo;
use aos_unit_api::iamanager::v6::iam_permissions_service_client::IamPermissionsServiceClient;
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::Error;
use crate::database::Database;
use crate::smclient::CertifiedKey;

const FACT: &str = "node";
/// Time of one call.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Pauses between questions to an IAM that is away, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Our certificate, always the newest.
#[derive(Clone)]
pub struct CertificateSource {
    newest: watch::Receiver<Option<Arc<Identity>>>,
    /// Its tasks, which keep the certificate up to date, end with the last clone of the link.
    _link: IamLink,
    /// The one last given out.
    used: Option<CertificateDer<'static>>,
}

impl CertificateSource {
    /// The certificate of a type at IAM.
    pub fn of(link: &IamLink, cert_type: &str) -> Self {
        Self { newest: link.identity(cert_type), _link: link.clone(), used: None }
    }

    /// The certificate, when it has been loaded.
    fn present(&mut self) -> Option<CertifiedKey> {
        let identity = self.newest.borrow_and_update().clone()?;
        self.used = identity.leaf().cloned();
        Some(identity.certified_key())
    }

    /// The certificate, as soon as it has been loaded.
    pub async fn wait(&mut self) -> CertifiedKey {
        loop {
            match self.present() {
                Some(key) => return key,
                None => self.changed().await,
            }
        }
    }

    /// Waits for another certificate than the one last given out; the same one told again is no change.
    pub async fn changed(&mut self) {
        loop {
            let leaf = self.newest.borrow_and_update().as_ref().and_then(|identity| identity.leaf().cloned());
            if leaf.is_some() && leaf != self.used {
                return;
            }
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The description of this node: from IAM, or the remembered one when IAM does not answer. Without either it
/// waits for IAM.
pub async fn node_info(link: &IamLink, database: &Database) -> Result<NodeInfo, Error> {
    let mut noted = false;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, 0.0);
    loop {
        match link.current_node_info().await {
            Ok(info) => {
                database.set_fact(FACT, info.encode_to_vec()).await?;
                return Ok(info);
            }
            Err(error) => {
                let remembered = database.fact(FACT).await?;
                if let Some(info) = remembered.and_then(|bytes| NodeInfo::decode(bytes.as_slice()).ok()) {
                    tracing::warn!(
                        "IAM does not describe this node, the remembered description is used: {error}"
                    );
                    return Ok(info);
                }
                if !noted {
                    noted = true;
                    tracing::warn!("waiting for IAM to describe this node: {error}");
                }
            }
        }
        tokio::time::sleep(backoff.next(0.0)).await;
    }
}

/// Registers an instance; answers its secret. A repeated registration has the same answer, whatever the
/// permissions.
pub async fn register_instance(
    link: &IamLink,
    cert_type: &str,
    ident: &InstanceIdent,
    permissions: &BTreeMap<String, BTreeMap<String, String>>,
) -> Result<String, Error> {
    let call = "RegisterInstance";
    let of_server = |functions: &BTreeMap<String, String>| v6::Permissions {
        permissions: functions.clone().into_iter().collect(),
    };
    let request = v6::RegisterInstanceRequest {
        instance: Some(ident.into()),
        permissions: permissions.iter().map(|(server, of)| (server.clone(), of_server(of))).collect(),
    };
    let mut client = IamPermissionsServiceClient::new(protected(link, cert_type)?);
    let answer =
        within(call, client.register_instance(request)).await.map_err(|status| failed(call, status))?;
    Ok(answer.secret)
}

/// Ends the registration of an instance; one IAM does not know is no error.
pub async fn unregister_instance(
    link: &IamLink,
    cert_type: &str,
    ident: &InstanceIdent,
) -> Result<(), Error> {
    let call = "UnregisterInstance";
    let request = v6::UnregisterInstanceRequest { instance: Some(ident.into()) };
    let mut client = IamPermissionsServiceClient::new(protected(link, cert_type)?);
    match within(call, client.unregister_instance(request)).await {
        Ok(()) => Ok(()),
        // IAM has one code for everything it refuses; it knows no such instance, mostly.
        Err(status) if matches!(status.code(), Code::Internal | Code::NotFound) => {
            tracing::debug!("{ident} was not registered: {}", status.message());
            Ok(())
        }
        Err(status) => Err(failed(call, status)),
    }
}

fn protected(link: &IamLink, cert_type: &str) -> Result<Channel, Error> {
    link.protected(cert_type).map_err(|error| match error {
        LinkError::Prepare(source) => Error::Tls { peer: "IAM".to_owned(), source },
        other => Error::invalid("link to IAM", other.to_string()),
    })
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIME, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("{call} was not answered in time"))),
    }
}

fn failed(call: &'static str, status: Status) -> Error {
    match status.code() {
        Code::Internal | Code::InvalidArgument | Code::ResourceExhausted | Code::PermissionDenied => {
            Error::Answer { call, info: ErrorInfo::new(AosCode::Failed, status.message().to_owned()) }
        }
        _ => Error::Call { call, source: Box::new(status) },
    }
}

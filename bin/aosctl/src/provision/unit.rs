//! A Unit in provisioning mode, as its main node's Identity and Access Manager serves it.
//!
//! Plaintext iamanager v6. Every call has a time limit, so that a peer that accepts connections and then says
//! nothing is told apart from one that works.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aos_unit_api::common::v2::ErrorInfo;
use aos_unit_api::iamanager::v6::{
    self, iam_certificate_service_client::IamCertificateServiceClient,
    iam_provisioning_service_client::IamProvisioningServiceClient,
    iam_public_identity_service_client::IamPublicIdentityServiceClient,
    iam_public_nodes_service_client::IamPublicNodesServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::output::Output;

const DEFAULT_PORT: u16 = 8089;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Start and finish run external commands on the Unit (disk encryption), which take minutes.
const STEP_TIMEOUT: Duration = Duration::from_mins(10);
const PAUSE: Duration = Duration::from_millis(500);

/// The Identity and Access Manager of a Unit's main node in provisioning mode.
pub struct Unit {
    channel: Channel,
}

impl Unit {
    pub async fn connect(address: &str, wait: Duration, out: &Output) -> Result<Self> {
        let address =
            if address.contains(':') { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("'{address}' is no address of a Unit; expected HOST[:PORT]"))?
            .connect_timeout(CONNECT_TIMEOUT);
        let deadline = Instant::now() + wait;
        let mut told = false;
        loop {
            match endpoint.connect().await {
                Ok(channel) => {
                    let unit = Self { channel };
                    match unit.system().await {
                        Ok(_) => return Ok(unit),
                        Err(error) if Instant::now() >= deadline => return Err(error),
                        Err(_) => {}
                    }
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| {
                        format!(
                            "no Unit answers at {address}; is its `aos iam --provisioning` running and the port reachable?"
                        )
                    });
                }
                Err(_) => {}
            }
            if !told {
                out.progress(&format!("waiting for the Unit at {address}"));
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub async fn system(&self) -> Result<v6::SystemInfo> {
        let answer =
            IamPublicIdentityServiceClient::new(self.channel.clone()).get_system_info(soon(())).await;
        Ok(answer
            .map_err(status)
            .context(
                "the Unit does not tell its identity; one that is provisioned already speaks TLS only here",
            )?
            .into_inner())
    }

    pub async fn nodes(&self, wanted: usize, wait: Duration, out: &Output) -> Result<Vec<v6::NodeInfo>> {
        let mut client = IamPublicNodesServiceClient::new(self.channel.clone());
        let deadline = Instant::now() + wait;
        let mut seen = usize::MAX;
        let ids = loop {
            let ids = client.get_all_node_i_ds(soon(())).await.map_err(status)?.into_inner().ids;
            if ids.len() >= wanted.max(1) {
                break ids;
            }
            if Instant::now() >= deadline {
                bail!("the Unit shows {} of {wanted} nodes; start the others or lower --nodes", ids.len());
            }
            if seen != ids.len() {
                seen = ids.len();
                out.progress(&format!("waiting for nodes: {seen} of {wanted}"));
            }
            tokio::time::sleep(PAUSE).await;
        };
        let mut nodes = Vec::new();
        for node_id in ids {
            let info =
                client.get_node_info(soon(v6::GetNodeInfoRequest { node_id })).await.map_err(status)?;
            nodes.push(info.into_inner());
        }
        Ok(nodes)
    }

    fn provisioning(&self) -> IamProvisioningServiceClient<Channel> {
        IamProvisioningServiceClient::new(self.channel.clone())
    }

    fn certificates(&self) -> IamCertificateServiceClient<Channel> {
        IamCertificateServiceClient::new(self.channel.clone())
    }

    pub async fn start(&self, node: &str, password: &str) -> Result<()> {
        let request = v6::StartProvisioningRequest { node_id: node.into(), password: password.into() };
        let answer = self.provisioning().start_provisioning(timed(request)).await.map_err(status)?;
        refused(answer.into_inner().error).with_context(|| {
            format!("node {node} does not start provisioning; if it was provisioned before, its old tokens have to be removed first")
        })
    }

    pub async fn cert_types(&self, node: &str) -> Result<Vec<String>> {
        let request = v6::GetCertTypesRequest { node_id: node.into() };
        let answer = self.provisioning().get_cert_types(soon(request)).await.map_err(status)?;
        Ok(answer.into_inner().types)
    }

    pub async fn create_key(&self, node: &str, cert_type: &str, password: &str) -> Result<String> {
        let request = v6::CreateKeyRequest {
            node_id: node.into(),
            subject: String::new(),
            r#type: cert_type.into(),
            password: password.into(),
        };
        let answer = self.certificates().create_key(timed(request)).await.map_err(status)?.into_inner();
        refused(answer.error).with_context(|| format!("node {node} makes no key of type {cert_type}"))?;
        Ok(answer.csr)
    }

    pub async fn apply_cert(&self, node: &str, cert_type: &str, chain: &str) -> Result<()> {
        let request =
            v6::ApplyCertRequest { node_id: node.into(), r#type: cert_type.into(), cert: chain.into() };
        let answer = self.certificates().apply_cert(timed(request)).await.map_err(status)?.into_inner();
        refused(answer.error).with_context(|| {
            format!("node {node} refuses its {cert_type} certificate; begin anew with --restart if its keys are gone")
        })
    }

    pub async fn finish(&self, node: &str) -> Result<()> {
        let request = v6::FinishProvisioningRequest { node_id: node.into(), password: String::new() };
        match self.provisioning().finish_provisioning(timed(request)).await {
            Ok(answer) => refused(answer.into_inner().error)
                .with_context(|| format!("node {node} does not finish provisioning")),
            // The finish command restarts the Unit's software, which may cut this very connection.
            Err(error) if error.code() == tonic::Code::Unavailable => Ok(()),
            Err(error) => Err(status(error)),
        }
    }
}

/// A question that a Unit answers from memory.
fn soon<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}

/// A step that may take long on the Unit.
fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(STEP_TIMEOUT);
    request
}

#[allow(clippy::needless_pass_by_value, reason = "an adapter for map_err")]
fn status(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the Unit answered {:?}: {}", status.code(), status.message())
}

fn refused(error: Option<ErrorInfo>) -> Result<()> {
    match error {
        Some(error) => bail!("{} (code {})", error.message, error.aos_code),
        None => Ok(()),
    }
}

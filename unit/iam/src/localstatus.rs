//! What `aos status` shows of this program. Never a PIN: URLs are shown without their PIN parts.

use std::path::PathBuf;
use std::time::Duration;

use aos_supervise::Shutdown;
use aos_token::{CertUrl, Pin};
use serde_json::{Value, json};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Name};

use crate::Error;
use crate::certhandler::{CertHandler, CertRecord};
use crate::currentnode::NodeInfo;
use crate::identhandler::IdentHandler;
use crate::nodemanager::{NodeManager, Shown};

const COMPONENT: &str = "iam";
/// Where the health of the tokens is asked for: a socket of its own, because looking takes the tokens' time.
const TOKENS: &str = "iam-token";
/// Longest wait for a token that is at work, below the time that a client is given.
const TOKEN_WAIT: Duration = Duration::from_millis(800);

/// What the document is made from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// This node.
    pub node: watch::Receiver<NodeInfo>,
    /// Certificates.
    pub certs: CertHandler,
    /// The Unit's identity, on the main node.
    pub identity: Option<IdentHandler>,
    /// All nodes, on the main node.
    pub nodes: Option<NodeManager>,
    /// Whether the program runs in provisioning mode.
    pub provisioning: bool,
}

impl Sources {
    /// The document.
    pub fn document(&self) -> Value {
        let node = self.node.borrow();
        json!({
            "component": COMPONENT,
            "version": env!("CARGO_PKG_VERSION"),
            "nodeId": node.node_id,
            "nodeType": node.node_type,
            "state": node.state,
            "error": node.error.as_ref().map(ToString::to_string),
            "systemId": self.identity.as_ref().and_then(IdentHandler::known_system_id),
            "provisioning": self.provisioning,
            "nodes": self.nodes(&node),
            "certificates": self.certs.certificates().all().map(certificate).collect::<Vec<_>>(),
        })
    }
}

impl Sources {
    /// The nodes of the Unit on the main node, elsewhere this one, whose link is the main node's to tell.
    fn nodes(&self, own: &NodeInfo) -> Value {
        let node = |info: &NodeInfo, connected: Option<bool>, shown: Option<&Shown>| {
            json!({
                "id": info.node_id,
                "type": info.node_type,
                "title": info.title,
                "state": info.state,
                "connected": connected,
                "certificate": shown.map(|shown| json!({
                    "serial": hex::encode(&shown.serial),
                    "notAfter": jiff::Timestamp::from_second(shown.not_after).map(|at| at.to_string()).ok(),
                })),
                "error": info.error.as_ref().map(ToString::to_string),
            })
        };
        let Some(manager) = &self.nodes else { return json!([node(own, None, None)]) };
        let nodes = manager.nodes();
        let entries = nodes.ids().into_iter().filter_map(|id| nodes.get(&id).ok());
        entries.map(|entry| node(&entry.info, Some(entry.connected), entry.shown.as_ref())).collect()
    }

    /// The health of the tokens.
    async fn tokens(&self) -> Value {
        match tokio::time::timeout(TOKEN_WAIT, self.certs.health()).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => json!({ "error": aos_logging::with_causes(&error) }),
            Err(_) => json!({ "busy": true }),
        }
    }
}

fn certificate(record: &CertRecord) -> Value {
    json!({
        "type": record.cert_type,
        "serial": hex::encode(&record.serial),
        "notAfter": jiff::Timestamp::from_nanosecond(record.not_after.into()).map(|at| at.to_string()).ok(),
        "issuer": X509Name::from_der(&record.issuer).map(|(_, name)| name.to_string()).ok(),
        "keyUrl": without_pin(&record.key_url),
    })
}

fn without_pin(url: &str) -> Option<String> {
    let url = match CertUrl::parse(url).ok()? {
        CertUrl::Pkcs11(mut url) => {
            url.pin = Pin::None;
            CertUrl::Pkcs11(url)
        }
        file @ CertUrl::File(_) => file,
    };
    Some(url.to_string().trim_end_matches('?').to_owned())
}

/// Serves the document in `dir` until `stop`. The program works without, so a failure is only noted.
pub async fn serve(dir: PathBuf, sources: Sources, stop: Shutdown) -> Result<(), Error> {
    let status = aos_local_status::serve(&dir, COMPONENT, || std::future::ready(sources.document()));
    let tokens = aos_local_status::serve(&dir, TOKENS, || sources.tokens());
    tokio::select! {
        result = async { tokio::try_join!(status, tokens) } => {
            if let Err(error) = result {
                tracing::warn!("going on without local status: {}", aos_logging::with_causes(&error));
            }
            stop.wait().await;
        }
        () = stop.wait() => {}
    }
    Ok(())
}

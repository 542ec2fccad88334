//! Identities by certificate type, kept as new as IAM has them.
//!
//! One task per type follows the certificate; loading from the token runs off the runtime's thread. An
//! identity that was loaded once stays in use until a newer one is loaded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aos_tls::{HostCheck, IdentitySlot};
use aos_token::{Identity, load_identity};
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use aos_unit_api::iamanager::v6::{CertInfo, SubscribeCertChangedRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::calls::newest_cert;
use crate::subscription::{Event, FIRST_PAUSE, RESUBSCRIBE, Subscription};
use crate::watches::note_end;
use crate::{IamLink, LinkError};

/// Longest time until a certificate that could not be loaded is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(30);

type Present = Option<Arc<Identity>>;

#[derive(Default)]
pub(crate) struct Identities {
    by_type: HashMap<String, Entry>,
    tasks: JoinSet<()>,
}

struct Entry {
    present: watch::Receiver<Present>,
    slot: IdentitySlot,
    /// Channel to the protected server and the identity it was made for.
    channel: Option<(Present, Channel)>,
}

impl IamLink {
    /// The identity of a type: `None` until it has been loaded once, then always the newest. All receivers of
    /// a type share one subscription.
    pub fn identity(&self, cert_type: &str) -> watch::Receiver<Option<Arc<Identity>>> {
        self.with_entry(cert_type, |entry| entry.present.clone())
    }

    /// The same identity as a slot for TLS servers and clients: new handshakes use the newest.
    pub fn slot(&self, cert_type: &str) -> IdentitySlot {
        self.with_entry(cert_type, |entry| entry.slot.clone())
    }

    /// A channel to the protected server that presents the identity of a type. Ask for it anew with every
    /// operation: after a change of the identity it is another channel, while streams on the former one go on.
    /// Without an identity yet, calls fail as unavailable.
    pub fn protected(&self, cert_type: &str) -> Result<Channel, LinkError> {
        let Some(roots) = &self.0.roots else {
            return Ok(aos_tls::plain_grpc_channel(&self.0.protected_url)?);
        };
        self.with_entry(cert_type, |entry| {
            let present = entry.present.borrow().clone();
            if let Some((made_for, channel)) = &entry.channel
                && same(made_for.as_ref(), present.as_ref())
            {
                return Ok(channel.clone());
            }
            let config = aos_tls::client_config_hot(roots.clone(), entry.slot.clone(), HostCheck::ChainOnly)?;
            let channel = aos_tls::grpc_channel(&self.0.protected_url, &config)?;
            entry.channel = Some((present, channel.clone()));
            Ok(channel)
        })
    }

    fn with_entry<T>(&self, cert_type: &str, use_it: impl FnOnce(&mut Entry) -> T) -> T {
        let mut identities = self.identities();
        let Identities { by_type, tasks } = &mut *identities;
        let entry = by_type.entry(cert_type.to_owned()).or_insert_with(|| {
            let (sender, present) = watch::channel(None);
            let slot = IdentitySlot::new();
            let follower = Follower {
                certs: self.certs(),
                cert_type: cert_type.to_owned(),
                slot: slot.clone(),
                sender,
                loaded: None,
                pause: FIRST_PAUSE,
            };
            tasks.spawn(follower.run());
            Entry { present, slot, channel: None }
        });
        use_it(entry)
    }
}

fn same(one: Option<&Arc<Identity>>, other: Option<&Arc<Identity>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The task behind one type. It holds no link, so that it ends with the link.
struct Follower {
    certs: IamPublicCertServiceClient<Channel>,
    cert_type: String,
    slot: IdentitySlot,
    sender: watch::Sender<Present>,
    /// URLs of what is loaded.
    loaded: Option<(String, String)>,
    /// Time until the next try.
    pause: Duration,
}

impl Follower {
    async fn run(mut self) {
        loop {
            self.follow().await;
            tokio::time::sleep(self.pause).await;
            if self.pause < RESUBSCRIBE {
                self.pause = RESUBSCRIBE.min(self.pause * 2);
            }
        }
    }

    /// Until the stream breaks or something could not be loaded.
    async fn follow(&mut self) {
        let mut client = self.certs.clone();
        let request = SubscribeCertChangedRequest { r#type: self.cert_type.clone() };
        let mut changes = Subscription::new(async move { client.subscribe_cert_changed(request).await });
        loop {
            let newest = match changes.next().await {
                Event::Message(info) => info,
                Event::Resync => match newest_cert(&mut self.certs, &self.cert_type).await {
                    Ok(info) => info,
                    Err(error) => {
                        tracing::debug!("no certificate of type {} yet: {error}", self.cert_type);
                        return;
                    }
                },
                Event::Ended(status) => return note_end("certificates", status.as_ref()),
            };
            if !self.load(newest).await {
                return;
            }
        }
    }

    /// Whether the certificate is in use now.
    async fn load(&mut self, info: CertInfo) -> bool {
        let urls = (info.cert_url, info.key_url);
        if self.loaded.as_ref() == Some(&urls) {
            return true;
        }
        let (cert_url, key_url) = urls.clone();
        let identity = match tokio::task::spawn_blocking(move || load_identity(&cert_url, &key_url)).await {
            Ok(Ok(identity)) => identity,
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                tracing::error!(
                    "cannot load the certificate of type {}: {error}{}",
                    self.cert_type,
                    cause.unwrap_or_default()
                );
                // Gently: tokens count wrong PINs. Anything else passes, as when IAM just writes to the token.
                if error.is_pin_refused() {
                    self.pause = MAX_PAUSE.min(self.pause.max(RESUBSCRIBE) * 2);
                }
                return false;
            }
            Err(_) => return false,
        };
        self.pause = RESUBSCRIBE;
        self.slot.set(identity.certified_key());
        self.sender.send_replace(Some(Arc::new(identity)));
        self.loaded = Some(urls);
        tracing::info!("certificate of type {} loaded", self.cert_type);
        true
    }
}

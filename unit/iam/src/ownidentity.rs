//! The certificate that our servers show: the newest one of the type named `certStorage`.
//!
//! It is loaded from the token off the runtime thread. A newer one is shown to connections that come
//! after it; standing connections, and with them the streams of the other components, stay.

use std::time::Duration;

use aos_supervise::Shutdown;
use aos_tls::IdentitySlot;

use crate::Error;
use crate::certhandler::{CertHandler, CertRecord};

const RETRY: Duration = Duration::from_secs(10);

/// Loads the newest certificate into a slot; there must be one. While its token does not open the slot is empty: the
/// servers listen, and finish no handshake before [`follow`] has filled it.
pub async fn load(certs: &CertHandler, cert_type: &str) -> Result<(IdentitySlot, Option<CertRecord>), Error> {
    let record = certs.certificates().latest(cert_type).cloned().ok_or_else(|| {
        Error::NotFound(format!(
            "there is no certificate of type '{cert_type}' (certStorage) for the servers; \
             the node must be provisioned first"
        ))
    })?;
    let slot = IdentitySlot::new();
    if certs.shut().borrow().contains(cert_type) {
        tracing::error!("nobody can connect before the token of '{cert_type}' opens; see 'aos iam token'");
        return Ok((slot, None));
    }
    show(&slot, &record).await?;
    Ok((slot, Some(record)))
}

async fn show(slot: &IdentitySlot, record: &CertRecord) -> Result<(), Error> {
    let loaded = record.clone();
    let identity = tokio::task::spawn_blocking(move || {
        aos_token::load_identity(&loaded.cert_url, &loaded.key_url).map_err(|source| Error::Token {
            doing: "load the servers' certificate and key",
            cert_type: loaded.cert_type,
            source: Box::new(source),
        })
    })
    .await
    .map_err(|error| Error::Failed(format!("loading of a certificate was lost: {error}")))??;
    slot.set(identity.certified_key());
    Ok(())
}

/// Keeps `slot` at the newest certificate of a type until `stop`; `shown` is what it holds.
pub async fn follow(
    certs: CertHandler,
    cert_type: String,
    slot: IdentitySlot,
    mut shown: Option<CertRecord>,
    stop: Shutdown,
) -> Result<(), Error> {
    let (mut watch, mut shut) = (certs.watch(), certs.shut());
    loop {
        let newest = watch.borrow_and_update().latest(&cert_type).cloned();
        // A token that does not open is left alone until it does: it counts.
        let open = !shut.borrow_and_update().contains(&cert_type);
        let mut retry = None;
        if let Some(newest) = newest.filter(|newest| open && shown.as_ref() != Some(newest)) {
            match show(&slot, &newest).await {
                Ok(()) => {
                    tracing::info!("servers show certificate {} from now on", hex::encode(&newest.serial));
                    shown = Some(newest);
                }
                Err(error) => {
                    tracing::error!(
                        "servers keep their old certificate: {}",
                        aos_logging::with_causes(&error)
                    );
                    retry = Some(RETRY);
                }
            }
        }
        tokio::select! {
            changed = watch.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            changed = shut.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = after(retry) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

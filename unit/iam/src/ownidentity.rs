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

/// Loads the newest certificate into a slot; there must be one.
pub async fn load(certs: &CertHandler, cert_type: &str) -> Result<(IdentitySlot, CertRecord), Error> {
    let record = certs.certificates().latest(cert_type).cloned().ok_or_else(|| {
        Error::NotFound(format!(
            "there is no certificate of type '{cert_type}' (certStorage) for the servers; \
             the node must be provisioned first"
        ))
    })?;
    let slot = IdentitySlot::new();
    show(&slot, &record).await?;
    Ok((slot, record))
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

/// Keeps `slot` at the newest certificate until `stop`; `shown` is what it holds.
pub async fn follow(
    certs: CertHandler,
    slot: IdentitySlot,
    mut shown: CertRecord,
    stop: Shutdown,
) -> Result<(), Error> {
    let mut watch = certs.watch();
    loop {
        let newest = watch.borrow_and_update().latest(&shown.cert_type).cloned();
        let mut retry = None;
        if let Some(newest) = newest.filter(|newest| *newest != shown) {
            match show(&slot, &newest).await {
                Ok(()) => {
                    tracing::info!("servers show certificate {} from now on", hex::encode(&newest.serial));
                    shown = newest;
                }
                Err(error) => {
                    tracing::error!("servers keep their old certificate: {}", crate::error::chain(&error));
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

//! Messages as envelopes for a Unit's offline key: an opt-in of the Unit, beyond what TLS protects.
//!
//! Acknowledgements tell nothing and stay plain. The offline certificate that the Unit has when its session
//! opens, or when it is switched to envelopes, is used.

use aos_cloud_store::{Store, now_micros};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::error::GatewayError;

/// Seals for one Unit.
pub(crate) struct Sealer {
    certificate: CertificateDer<'static>,
}

/// As much of a message as tells its kind.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    data: PeekData<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeekData<'a> {
    #[serde(borrow)]
    message_type: &'a str,
}

impl Sealer {
    /// For the Unit's newest good offline certificate.
    pub(crate) async fn open(store: &Store, unit_id: &str) -> Result<Self, GatewayError> {
        let now = now_micros() / 1_000_000;
        let certificates = store.unit_certificates(unit_id).await?;
        let offline = certificates
            .iter()
            .rfind(|certificate| certificate.cert_type == "offline" && certificate.is_good(now))
            .ok_or(GatewayError::Value("offline certificate"))?;
        let certificate = CertificateDer::from_pem_slice(offline.chain.as_bytes())
            .map_err(|_| GatewayError::Value("offline certificate"))?;
        Ok(Self { certificate })
    }

    /// What goes out in place of `message`; nothing when it goes out as it is.
    pub(crate) fn seal(&self, message: &[u8]) -> Result<Option<Vec<u8>>, GatewayError> {
        let plain = serde_json::from_slice::<Peek<'_>>(message)
            .is_ok_and(|peek| matches!(peek.data.message_type, "ack" | "nack"));
        if plain {
            return Ok(None);
        }
        aos_blob_crypto::cms::seal(message, &[&self.certificate]).map(Some).map_err(GatewayError::Seal)
    }
}

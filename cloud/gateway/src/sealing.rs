//! Messages as envelopes for a Unit's offline key: an opt-in of the Unit, beyond what TLS protects.
//!
//! Acknowledgements tell nothing and stay plain. An envelope is for every offline certificate that CM may hold
//! the key of at the moment: while one is being renewed that is the old and the new one. Only those of the
//! main node count, for that is where CM opens envelopes.

use aos_cloud_store::{Store, now_micros};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::error::GatewayError;

/// Certificates that an envelope is for at most, the newest ones.
const MAX_RECIPIENTS: usize = 4;

/// Seals for one Unit.
pub(crate) struct Sealer {
    certificates: Vec<CertificateDer<'static>>,
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
    /// For the offline certificates that the Unit's main node holds now.
    pub(crate) async fn open(store: &Store, unit_id: &str) -> Result<Self, GatewayError> {
        let now = now_micros() / 1_000_000;
        let nodes = store.nodes(unit_id).await?;
        let of_main = |node_id: &str| nodes.iter().any(|node| node.is_main && node.node_id == node_id);
        let held = store.unit_certificates(unit_id).await?;
        let offline = held
            .iter()
            .rev()
            .filter(|one| one.cert_type == "offline" && one.is_good(now) && of_main(&one.node_id));
        let certificates: Vec<_> = offline
            .filter_map(|one| CertificateDer::from_pem_slice(one.chain.as_bytes()).ok())
            // Not every key can open envelopes.
            .filter(|certificate| aos_blob_crypto::cms::seal(b"", &[certificate]).is_ok())
            .take(MAX_RECIPIENTS)
            .collect();
        if certificates.is_empty() {
            return Err(GatewayError::NoSealing);
        }
        Ok(Self { certificates })
    }

    /// What goes out in place of `message`; nothing when it goes out as it is.
    pub(crate) fn seal(&self, message: &[u8]) -> Result<Option<Vec<u8>>, GatewayError> {
        let plain = serde_json::from_slice::<Peek<'_>>(message)
            .is_ok_and(|peek| matches!(peek.data.message_type, "ack" | "nack"));
        if plain {
            return Ok(None);
        }
        aos_blob_crypto::cms::seal(message, &self.certificates).map(Some).map_err(GatewayError::Seal)
    }
}

#[cfg(test)]
mod tests {
    use aos_cloud_store::{Holder, NewAccount, NewCertificate, NewNode, NewUnit, Role};
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

    use super::*;

    const END: i64 = 4_000_000_000;

    struct Held {
        der: Vec<u8>,
        record: NewCertificate,
    }

    fn held(number: u8, node: &str, kind: &str, key: &KeyPair) -> Held {
        let mut params = CertificateParams::new([]).unwrap();
        params.serial_number = Some(u64::from(number).into());
        let certificate = params.self_signed(key).unwrap();
        let record = NewCertificate {
            holder: Holder::Nobody,
            cert_type: kind.to_owned(),
            node_id: node.to_owned(),
            issuer: b"issuer".to_vec(),
            serial: format!("{number:02x}"),
            key_hash: [number; 32],
            chain: certificate.pem(),
            not_before: 0,
            not_after: END,
        };
        Held { der: certificate.der().to_vec(), record }
    }

    fn node(id: &str, is_main: bool) -> NewNode {
        NewNode {
            node_id: id.to_owned(),
            node_type: String::new(),
            name: String::new(),
            is_main,
            status: "provisioned".to_owned(),
            info: "{}".to_owned(),
        }
    }

    /// Which of them a message is sealed for.
    async fn sealed_for(store: &Store, unit: &str, all: &[&Held]) -> Vec<u8> {
        let sealer = Sealer::open(store, unit).await.unwrap();
        let envelope = sealer.seal(b"{}").unwrap().unwrap();
        let mut named = vec![];
        let opened = aos_blob_crypto::cms::open(&envelope, |recipient| {
            named.extend(all.iter().filter(|one| recipient.is(&one.der)).map(|one| one.record.key_hash[0]));
            None::<fn(aos_blob_crypto::cms::KeyTransport, &[u8]) -> Option<Vec<u8>>>
        });
        assert!(opened.is_err());
        named.sort_unstable();
        named
    }

    // CLO-34
    #[tokio::test]
    async fn envelopes_are_for_what_the_main_node_may_hold_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cloud.db")).unwrap();
        let account = NewAccount {
            role: Role::Oem,
            company: "Axle Works".to_owned(),
            username: "ann".to_owned(),
            email: "ann@axle.example".to_owned(),
        };
        let (account, _) = store.invite(account, [1; 32], i64::MAX).await.unwrap();
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let elliptic = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let first = held(1, "main", "offline", &rsa);
        // After "main" in every order.
        let rear = held(2, "rear", "offline", &rsa);
        let online = held(3, "main", "online", &rsa);
        let new = held(4, "main", "offline", &rsa);
        let unusable = held(5, "main", "offline", &elliptic);
        let unit = NewUnit {
            system_uid: "unit-1".to_owned(),
            company_id: account.company_id,
            model_name: "model".to_owned(),
            model_version: "1.0".to_owned(),
            provisioning_software: "test:1".to_owned(),
            sealed_secrets: None,
            nodes: vec![node("main", true), node("rear", false)],
        };
        let fresh = [&first, &rear, &online].map(|one| one.record.clone());
        let unit = store.provision(unit, fresh.into(), 0).await.unwrap().0.id;
        let all = [&first, &rear, &online, &new, &unusable];
        assert_eq!(sealed_for(&store, &unit, &all).await, [1]);
        let id = unit.clone();
        let more = [&new, &unusable]
            .map(|one| NewCertificate { holder: Holder::Unit(id.clone()), ..one.record.clone() });
        store.transact(move |work| more.iter().try_for_each(|one| work.add_certificate(one))).await.unwrap();
        assert_eq!(sealed_for(&store, &unit, &all).await, [1, 4], "until the Unit has told which it uses");
        let id = unit.clone();
        store
            .transact(move |work| {
                work.revoke_serial(&id, "01")?;
                work.revoke_serial(&id, "04")
            })
            .await
            .unwrap();
        let error = Sealer::open(&store, &unit).await.err().unwrap();
        assert!(error.to_string().contains("aosctl unit seal UNIT off"), "{error}");
    }
}

//! Units registered in bulk.

use std::path::Path;
use std::sync::Arc;

use aos_cloud_pki::{CertType, Issued, Pki, Request};
use aos_cloud_store::{Holder, NewAccount, NewCertificate, NewUnit, Role, Store, now_micros};
use aos_ids::SystemId;
use aos_tls::HostCheck;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::error::SimError;

const FILE: &str = "swarm.json";
/// Registrations under way at the same time; they share commits.
const PARALLEL: usize = 256;
const MAX_FILE: u64 = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    intermediate: String,
    units: Vec<StoredUnit>,
}

#[derive(Serialize, Deserialize)]
struct StoredUnit {
    system_id: String,
    certificate: String,
}

/// Many Units of one cloud.
pub struct Fleet {
    key: Arc<dyn SigningKey>,
    roots: Arc<RootCertStore>,
    intermediate: CertificateDer<'static>,
    units: Vec<(SystemId, CertificateDer<'static>)>,
}

/// Who a virtual Unit is.
#[derive(Clone)]
pub struct Identity {
    /// Its system id.
    pub system_id: SystemId,
    /// How it connects.
    pub config: Arc<ClientConfig>,
}

impl Fleet {
    /// Registers `count` Units in the cloud whose data is in `data` and which does not run, and keeps what
    /// they need there. Makes the cloud's authority and database when there are none.
    pub async fn prepare(data: &Path, count: usize) -> Result<(), SimError> {
        let now = now_micros() / 1_000_000;
        aos_durable::create_dir(data, 0o700)?;
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let pki = Pki::open(&data.join("pki"), &hosts, now)?;
        let store = Store::open(&data.join("cloud.db"))?;
        let owner = NewAccount {
            role: Role::Oem,
            company: "Swarm".to_owned(),
            username: "swarm".to_owned(),
            email: "swarm@localhost".to_owned(),
        };
        // The token is never given out, so nobody can enrol with it.
        let nobody = digest(&SHA256, data.as_os_str().as_encoded_bytes());
        let token = nobody.as_ref().try_into().map_err(|_| SimError::Fleet("token"))?;
        let (owner, _) = store.invite(owner, token, now_micros()).await?;

        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = Request::from_pem(&params.serialize_request(&key)?.pem()?)?;
        let units = (0..count).map(|number| format!("swarm-{number}")).map(|system_id| {
            let issued = pki.issue_unit(&request, &system_id, CertType::Online, "https://localhost:1/", now);
            let (store, company_id) = (&store, owner.company_id.clone());
            async move {
                let issued = issued?;
                let certificate = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes())
                    .map_err(|_| SimError::Fleet("certificate"))?;
                register(store, company_id, &system_id, issued, now).await?;
                Ok::<_, SimError>(StoredUnit { system_id, certificate: STANDARD.encode(&certificate) })
            }
        });
        let units: Vec<StoredUnit> =
            futures_util::stream::iter(units).buffered(PARALLEL).try_collect().await?;
        let intermediate = pki.client_anchor(aos_cloud_pki::Domain::Units);
        let stored = Stored { key: key.serialize_pem(), intermediate: STANDARD.encode(intermediate), units };
        let text = serde_json::to_vec(&stored).map_err(|_| SimError::Fleet("not written"))?;
        aos_durable::write_atomic(&data.join(FILE), &text, 0o600)?;
        Ok(())
    }

    /// The Units that were prepared in `data`.
    pub fn open(data: &Path) -> Result<Self, SimError> {
        let path = data.join(FILE);
        let text = aos_durable::read_bounded(&path, MAX_FILE)?.ok_or(SimError::Fleet("missing"))?;
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| SimError::Fleet("no JSON"))?;
        let key = PrivateKeyDer::from_pem_slice(stored.key.as_bytes()).map_err(|_| SimError::Fleet("key"))?;
        let key =
            aos_tls::provider().key_provider.load_private_key(key).map_err(|_| SimError::Fleet("key"))?;
        let der = |text: &str| STANDARD.decode(text).map(CertificateDer::from);
        let unit = |unit: &StoredUnit| {
            let system_id =
                SystemId::new(unit.system_id.as_str()).map_err(|_| SimError::Fleet("system id"))?;
            Ok((system_id, der(&unit.certificate).map_err(|_| SimError::Fleet("certificate"))?))
        };
        Ok(Self {
            key,
            roots: aos_tls::roots_from_pem_file(&data.join("pki/root.pem"))?,
            intermediate: der(&stored.intermediate).map_err(|_| SimError::Fleet("intermediate"))?,
            units: stored.units.iter().map(unit).collect::<Result<_, SimError>>()?,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Unit number `number`, from 0.
    pub fn identity(&self, number: usize) -> Result<Identity, SimError> {
        let (system_id, leaf) = self.units.get(number).ok_or(SimError::Fleet("too small"))?;
        let chain = vec![leaf.clone(), self.intermediate.clone()];
        let key = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key)));
        let config = aos_tls::client_config(Arc::clone(&self.roots), Some(key), HostCheck::Verify)?;
        Ok(Identity { system_id: system_id.clone(), config })
    }
}

async fn register(
    store: &Store,
    company_id: String,
    system_id: &str,
    issued: Issued,
    now: i64,
) -> Result<(), SimError> {
    let certificate = NewCertificate {
        holder: Holder::Nobody,
        cert_type: CertType::Online.as_str().to_owned(),
        node_id: "main".to_owned(),
        issuer: issued.issuer_der,
        serial: issued.serial,
        key_hash: issued.key_hash,
        chain: issued.chain_pem,
        not_before: issued.not_before,
        not_after: issued.not_after,
    };
    let unit = NewUnit {
        system_uid: system_id.to_owned(),
        company_id,
        model_name: "virtual".to_owned(),
        model_version: "1.0".to_owned(),
        provisioning_software: "aos-swarm".to_owned(),
        sealed_secrets: None,
        nodes: vec![],
    };
    store.provision(unit, vec![certificate], now).await?;
    Ok(())
}

//! Making, loading and holding the root, the intermediates and the keys of one cloud.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::PkiError;
use crate::issue::{ServerCertificate, UnitLives, fresh_serial, set_validity};
use crate::pem::{certificate_to_pem, pem_certificates};
use crate::signer::CodeSigner;
use crate::vault::{UrlKey, Vault};

const YEAR: i64 = 365 * 24 * 3600;
const ROOT_LIFETIME: i64 = 20 * YEAR;
const BACKDATE: i64 = 3600;
/// A server certificate with less than this left is replaced at start, seconds.
const SERVER_RENEWAL: i64 = 90 * 24 * 3600;
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const MAX_FILE: u64 = 64 * 1024;

/// Trust domains: each has an intermediate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Listeners of the cloud.
    Servers,
    /// People and their tools.
    Users,
    /// Units.
    Units,
    /// Signatures of items.
    Items,
}

impl Domain {
    const ALL: [Self; 4] = [Self::Servers, Self::Users, Self::Units, Self::Items];

    const fn file(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Users => "users",
            Self::Units => "units",
            Self::Items => "items",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Servers => "Servers",
            Self::Users => "Users",
            Self::Units => "Units",
            Self::Items => "Items",
        }
    }
}

/// One intermediate, ready to sign.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) subject_der: Vec<u8>,
    pub(crate) not_after: i64,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// The certificate authority of one cloud.
pub struct Pki {
    dir: PathBuf,
    hosts: Vec<String>,
    root_der: CertificateDer<'static>,
    root_pem: String,
    servers: Authority,
    users: Authority,
    units: Authority,
    signer: CodeSigner,
    vault: Vault,
    url_key: UrlKey,
    unit_lives: UnitLives,
}

impl Pki {
    /// Opens the authority in `dir`, making it first when there is none.
    ///
    /// `hosts` are the names and addresses under which clients reach this cloud; the first one is its
    /// domain. `now` is seconds since 1970 UTC.
    pub fn open(dir: &Path, hosts: &[String], now: i64) -> Result<Self, PkiError> {
        if !dir.join("root.pem").exists() {
            create(dir, hosts, now)?;
        }
        let root_pem = read_text(&dir.join("root.pem"))?;
        let root_der = pem_certificates(&root_pem)
            .into_iter()
            .next()
            .ok_or_else(|| unusable(&dir.join("root.pem"), "certificate"))?;
        let items = load_certificate(&dir.join("items.pem"))?;
        let signing = load_certificate(&dir.join("items-signing.pem"))?;
        let signing_key = load_key(&dir.join("items-signing.key"))?;
        let signer = CodeSigner::new(signing_key.secret_der(), vec![signing, items])?;
        Ok(Self {
            dir: dir.to_owned(),
            hosts: hosts.to_vec(),
            root_der,
            root_pem,
            servers: load_authority(dir, Domain::Servers)?,
            users: load_authority(dir, Domain::Users)?,
            units: load_authority(dir, Domain::Units)?,
            signer,
            vault: Vault::new(&load_secret(&dir.join("storage.key"))?)?,
            url_key: UrlKey::new(&load_secret(&dir.join("url.key"))?),
            unit_lives: UnitLives::default(),
        })
    }

    /// The same authority, whose certificates for Units live as long as `lives` says.
    #[must_use]
    pub fn with_unit_lives(mut self, lives: UnitLives) -> Self {
        self.unit_lives = lives;
        self
    }

    /// How long certificates of Units are good.
    pub fn unit_lives(&self) -> UnitLives {
        self.unit_lives
    }

    /// The cloud's domain: the first of its host names.
    pub fn domain(&self) -> &str {
        self.hosts.first().map_or("localhost", String::as_str)
    }

    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root as DER.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        &self.root_der
    }

    /// The only trust anchor for clients of a listener that serves `domain`.
    pub fn client_anchor(&self, domain: Domain) -> &CertificateDer<'static> {
        &self.ca(domain).der
    }

    /// Signs blobs.
    pub fn signer(&self) -> &CodeSigner {
        &self.signer
    }

    /// Seals secrets at rest.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Signs download URLs.
    pub fn url_key(&self) -> UrlKey {
        self.url_key.clone()
    }

    /// The certificate for this cloud's listeners, made anew when the stored one ends soon or lacks one of
    /// the hosts.
    pub fn server_certificate(&self, now: i64) -> Result<ServerCertificate, PkiError> {
        let path = self.dir.join("server.pem");
        if let Some(stored) = self.stored_server(&path, now)? {
            return Ok(stored);
        }
        let (certificate, key) = self.issue_server(now)?;
        // Key and chain share a file, so that no crash can leave a certificate without its key.
        let text = format!(
            "{}{}{}",
            certificate_to_pem(&certificate),
            certificate_to_pem(&self.servers.der),
            key.serialize_pem()
        );
        store(&path, text.as_bytes(), KEY_MODE)?;
        self.stored_server(&path, now)?.ok_or_else(|| unusable(&path, "server certificate"))
    }

    fn stored_server(&self, path: &Path, now: i64) -> Result<Option<ServerCertificate>, PkiError> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path)?;
        let chain = pem_certificates(&text);
        let Ok(key) = PrivateKeyDer::from_pem_slice(text.as_bytes()) else { return Ok(None) };
        let Some(leaf) = chain.first() else { return Ok(None) };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return Ok(None) };
        let not_after = parsed.validity().not_after.timestamp();
        let names = certificate_names(&parsed);
        let complete = self.hosts.iter().all(|host| names.contains(host));
        if !complete || not_after - now < SERVER_RENEWAL {
            return Ok(None);
        }
        Ok(Some(ServerCertificate { chain, key, not_after }))
    }

    pub(crate) fn ca(&self, domain: Domain) -> &Authority {
        match domain {
            // Items are signed by the code signer; nothing else is ever issued there.
            Domain::Servers | Domain::Items => &self.servers,
            Domain::Users => &self.users,
            Domain::Units => &self.units,
        }
    }
}

/// DNS names and addresses of a certificate as text.
fn certificate_names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
        GeneralName::IPAddress(bytes) => {
            <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// Makes everything in `<dir>.new` and renames it, so that `dir` is never half an authority.
fn create(dir: &Path, hosts: &[String], now: i64) -> Result<(), PkiError> {
    let fresh = dir.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(|source| PkiError::Write { path: fresh.clone(), source })?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&fresh)
        .map_err(|source| PkiError::Write { path: fresh.clone(), source })?;

    let mut tag = [0; 4];
    aws_lc_rs::rand::fill(&mut tag).map_err(|_| PkiError::Crypto("draw a name"))?;
    let tag = hex::encode(tag);
    let organisation = hosts.first().map_or("localhost", String::as_str);

    let (root_params, root_key) = ca_params("root", &format!("Aos root {tag}"), organisation, 1, now)?;
    let make = |what| move |source| PkiError::Make { what, source };
    let root = root_params.self_signed(&root_key).map_err(make("root"))?;
    write_pair(&fresh, "root", root.der(), &root_key)?;
    let root_issuer = Issuer::new(root_params, root_key);

    for domain in Domain::ALL {
        let name = format!("Aos {} {tag}", domain.title());
        let (params, key) = ca_params(domain.file(), &name, organisation, 0, now)?;
        let certificate = params.signed_by(&key, &root_issuer).map_err(make(domain.file()))?;
        write_pair(&fresh, domain.file(), certificate.der(), &key)?;
        if domain == Domain::Items {
            let issuer = Issuer::new(params, key);
            let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
                .map_err(make("item signing"))?;
            let mut params = CertificateParams::default();
            set_validity(&mut params, now - BACKDATE, now + ROOT_LIFETIME);
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("Aos item signing {tag}"));
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            params.use_authority_key_identifier_extension = true;
            params.serial_number = Some(fresh_serial()?.0);
            let certificate = params.signed_by(&key, &issuer).map_err(make("item signing"))?;
            write_pair(&fresh, "items-signing", certificate.der(), &key)?;
        }
    }
    for name in ["storage.key", "url.key"] {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| PkiError::Crypto("draw a storage key"))?;
        store(&fresh.join(name), hex::encode(secret).as_bytes(), KEY_MODE)?;
    }
    let renamed = |source| PkiError::Write { path: dir.to_owned(), source };
    fs::rename(&fresh, dir).map_err(renamed)?;
    if let Some(parent) = dir.parent() {
        aos_durable::fsync_dir(parent)?;
    }
    tracing::info!(dir = %dir.display(), "made a certificate authority");
    Ok(())
}

fn ca_params(
    what: &'static str,
    name: &str,
    organisation: &str,
    path_length: u8,
    now: i64,
) -> Result<(CertificateParams, KeyPair), PkiError> {
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(|source| PkiError::Make { what, source })?;
    let mut params = CertificateParams::default();
    set_validity(&mut params, now - BACKDATE, now - BACKDATE + ROOT_LIFETIME);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(fresh_serial()?.0);
    Ok((params, key))
}

fn load_authority(dir: &Path, domain: Domain) -> Result<Authority, PkiError> {
    let path = dir.join(format!("{}.pem", domain.file()));
    let der = load_certificate(&path)?;
    let key_path = dir.join(format!("{}.key", domain.file()));
    let key = KeyPair::try_from(&load_key(&key_path)?).map_err(|_| unusable(&key_path, "key"))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&der).map_err(|_| unusable(&path, "certificate"))?;
    let subject_der = parsed.subject().as_raw().to_vec();
    let not_after = parsed.validity().not_after.timestamp();
    let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| unusable(&path, "certificate"))?;
    Ok(Authority { der, subject_der, not_after, issuer })
}

fn load_certificate(path: &Path) -> Result<CertificateDer<'static>, PkiError> {
    pem_certificates(&read_text(path)?).into_iter().next().ok_or_else(|| unusable(path, "certificate"))
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, PkiError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(read_text(path)?.as_bytes());
    key.map(PrivateKeyDer::Pkcs8).map_err(|_| unusable(path, "PKCS#8 key"))
}

fn load_secret(path: &Path) -> Result<[u8; 32], PkiError> {
    let mut secret = [0; 32];
    hex::decode_to_slice(read_text(path)?.trim(), &mut secret).map_err(|_| unusable(path, "32-byte key"))?;
    Ok(secret)
}

fn write_pair(dir: &Path, name: &str, der: &[u8], key: &KeyPair) -> Result<(), PkiError> {
    store(&dir.join(format!("{name}.key")), key.serialize_pem().as_bytes(), KEY_MODE)?;
    store(&dir.join(format!("{name}.pem")), certificate_to_pem(der).as_bytes(), CERTIFICATE_MODE)
}

fn store(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    aos_durable::write_atomic(path, bytes, mode)?;
    Ok(())
}

fn read_text(path: &Path) -> Result<String, PkiError> {
    let read = |source| PkiError::Read { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(read)?.len();
    if length > MAX_FILE {
        return Err(unusable(path, "file of at most 64 KiB"));
    }
    fs::read_to_string(path).map_err(read)
}

fn unusable(path: &Path, what: &'static str) -> PkiError {
    PkiError::Unusable { path: path.to_owned(), what }
}

//! The file with the root certificates for checking peers (`caCert`), as the cloud hands it out.
//!
//! Before a node belongs to a Unit, the list given replaces the file. Afterwards it is added to what is there,
//! so that no peer is locked out while the Units of a fleet move from one root to the next; only what has
//! expired is dropped.

use std::path::{Path, PathBuf};

use aos_status::NodeState;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, killpoint};

const MODE: u32 = 0o644;
/// Root certificates in the file.
const MAX_ROOTS: usize = 16;
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct RootFile {
    path: PathBuf,
}

impl RootFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Takes `given` (PEM texts) into the file.
    pub(super) async fn update(&self, given: Vec<String>, state: NodeState) -> Result<(), Error> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || write(&path, &given, state))
            .await
            .map_err(|error| Error::Failed(format!("writing of root certificates was lost: {error}")))?
    }
}

fn write(path: &Path, given: &[String], state: NodeState) -> Result<(), Error> {
    use std::io::Read;

    if path.as_os_str().is_empty() {
        return Err(Error::NotSupported("no 'caCert' in the configuration names a file for roots".into()));
    }
    let mut present = Vec::new();
    if state != NodeState::Unprovisioned
        && let Ok(file) = std::fs::File::open(path)
    {
        // What cannot be read cannot be kept either.
        let _ = file.take(MAX_FILE).read_to_end(&mut present);
    }
    let text = merged(&present, given, jiff::Timestamp::now().as_second())?;
    let failed = |source| Error::Durable {
        doing: "write the root certificates to",
        path: path.to_owned(),
        source: Box::new(source),
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        aos_durable::create_dir(dir, 0o755).map_err(failed)?;
    }
    killpoint::step("write the root certificates");
    aos_durable::write_atomic(path, text.as_bytes(), MODE).map_err(failed)?;
    killpoint::step("write the root certificates");
    Ok(())
}

/// The new content of the file: `given`, then what of `present` is neither given nor expired at `now` (Unix
/// seconds).
fn merged(present: &[u8], given: &[String], now: i64) -> Result<String, Error> {
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    for text in given {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let der = certificate.map_err(|error| {
                Error::InvalidArgument(format!("root certificate is no PEM text: {error}"))
            })?;
            check_root(&der)?;
            if !roots.contains(&der) {
                roots.push(der);
            }
        }
        if roots.len() == before && CertificateDer::from_pem_slice(text.as_bytes()).is_err() {
            return Err(Error::InvalidArgument("a given root holds no certificate".into()));
        }
    }
    if roots.is_empty() {
        return Err(Error::InvalidArgument("no root certificate is given".into()));
    }
    for der in CertificateDer::pem_slice_iter(present).filter_map(Result::ok) {
        let valid = X509Certificate::from_der(&der)
            .is_ok_and(|(_, parsed)| parsed.validity().not_after.timestamp() > now);
        if valid && !roots.contains(&der) {
            roots.push(der);
        }
    }
    if roots.len() > MAX_ROOTS {
        return Err(Error::TooMany(format!("more than {MAX_ROOTS} root certificates")));
    }
    Ok(roots.iter().map(|der| crate::certhandler::chain::pem(der)).collect())
}

fn check_root(der: &[u8]) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(der)
        .map_err(|error| Error::InvalidArgument(format!("root certificate cannot be read: {error}")))?;
    if parsed.issuer().as_raw() != parsed.subject().as_raw() {
        return Err(Error::InvalidArgument(format!("'{}' is no root certificate", parsed.subject())));
    }
    if !parsed.is_ca() {
        return Err(Error::InvalidArgument(format!("'{}' is no authority", parsed.subject())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str, until: i32) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn roots_are_added_and_only_expired_ones_go() {
        let (old, expired, new) = (root("old", 2200), root("expired", 2001), root("new", 2200));
        let now = 1_700_000_000;
        let present = format!("{old}{expired}");
        let text = merged(present.as_bytes(), &[new.clone(), new.clone()], now).unwrap();
        let count = |text: &str| aos_tls::roots_from_pem(text.as_bytes()).unwrap().len();
        assert_eq!(count(&text), 2, "new and old");
        assert_eq!(
            merged(text.as_bytes(), std::slice::from_ref(&new), now).unwrap(),
            text,
            "again changes nothing"
        );
        assert_eq!(count(&merged(b"", &[format!("{old}{new}")], now).unwrap()), 2);
        assert!(merged(present.as_bytes(), &[], now).is_err());
        assert!(merged(b"", &["no certificate".into()], now).is_err());
        let broken = new.replacen("MII", "MIA", 1);
        assert!(merged(b"", &[broken], now).is_err());
        let leaf = rcgen::CertificateParams::default()
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .pem();
        assert!(merged(b"", &[leaf], now).is_err(), "no authority");
        let many: Vec<String> = (0..=MAX_ROOTS).map(|n| root(&format!("root {n}"), 2200)).collect();
        assert!(merged(b"", &many, now).is_err());
    }
}

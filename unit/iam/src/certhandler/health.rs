//! The health of the tokens, for `aos iam token`: what each says of itself, whether its session opens with the
//! stored PIN, what is in it, and what in it belongs to nothing.
//!
//! Nothing is changed, and no PIN is shown. A PIN that the token refused before is not tried again: tokens
//! count refusals and lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aos_token::{CertUrl, Library, ObjectKind, Pin, PinState, Pkcs11Url, Token, TokenError, TokenSession};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::core::KeyId;
use super::files::KeyFiles;
use super::module::{slot_choice, token_label};
use super::pin::PinSource;
use crate::config::CertModule;
use crate::{Error, config};
use aos_logging::with_causes;

const LOCKED: &str = "the token is locked; its owner has to unlock it or to set a new user PIN";

/// Keys that wait for their certificate, with their type.
pub(super) type Waiting = BTreeSet<(String, KeyId)>;

/// Looks at the tokens that the configuration file names, for when no Identity and Access Manager runs. Which keys
/// wait for a certificate is not known then.
pub fn look(path: &Path) -> Result<Value, Error> {
    let config = config::load(path)?;
    Ok(report(&config.modules.iter().collect::<Vec<_>>(), None))
}

/// The health of all tokens of `modules`; without `waiting` keys of no certificate are not told apart.
pub(super) fn report(modules: &[&CertModule], waiting: Option<&Waiting>) -> Value {
    let mut certificates = Vec::new();
    let mut tokens = Vec::new();
    let mut done = vec![false; modules.len()];
    for first in 0..modules.len() {
        if done[first] {
            continue;
        }
        let mut sharing = Vec::new();
        for other in first..modules.len() {
            if !done[other] && same_place(modules[first], modules[other]) {
                done[other] = true;
                sharing.push(modules[other]);
            }
        }
        let report = if modules[first].params.key_dir.as_os_str().is_empty() {
            token(&sharing, waiting, &mut certificates)
        } else {
            folder(&sharing, waiting, &mut certificates)
        };
        tokens.push(report);
    }
    json!({ "tokens": tokens, "certificates": certificates })
}

fn same_place(one: &CertModule, other: &CertModule) -> bool {
    one.params.library == other.params.library
        && one.params.key_dir == other.params.key_dir
        && slot_choice(one) == slot_choice(other)
}

fn types(modules: &[&CertModule]) -> Vec<String> {
    modules.iter().map(|module| module.id.clone()).collect()
}

/// One token and the certificates in it.
fn token(modules: &[&CertModule], waiting: Option<&Waiting>, certificates: &mut Vec<Value>) -> Value {
    let Some(first) = modules.first() else { return Value::Null };
    let mut report = json!({
        "types": types(modules),
        "library": first.params.library,
        "label": token_label(first),
        "pinFile": first.params.user_pin_path,
        "initialised": false,
        "session": "not opened",
    });
    if let Err((error, hint)) = fill(&mut report, modules, waiting, certificates) {
        report["error"] = json!(with_causes(&error));
        report["hint"] = json!(hint);
    }
    report
}

type Failure = (Error, &'static str);

fn fill(
    report: &mut Value,
    modules: &[&CertModule],
    waiting: Option<&Waiting>,
    certificates: &mut Vec<Value>,
) -> Result<(), Failure> {
    let Some(first) = modules.first() else { return Ok(()) };
    let failed = |doing: &'static str, hint: &'static str| {
        let cert_type = first.id.clone();
        move |source: TokenError| (Error::Token { doing, cert_type, source: Box::new(source) }, hint)
    };
    let library = Library::open(&first.params.library).map_err(failed(
        "load the PKCS#11 library",
        "check 'library' in the configuration and that its package is installed",
    ))?;
    let gone = "check that the token is plugged in, its service runs and 'tokenLabel' or the slot is right";
    let token = library.find_token(&slot_choice(first)).map_err(failed("look for the token", gone))?;
    let Some(token) = token else {
        let label = token_label(first).to_owned();
        return Err(failed("find the token", gone)(TokenError::NoToken { label }));
    };
    let told = token.describe().map_err(failed("read the token", gone))?;
    report["slot"] = json!(told.slot);
    report["serial"] = json!(told.serial);
    report["manufacturer"] = json!(told.manufacturer);
    report["model"] = json!(told.model);
    report["initialised"] = json!(told.initialised);
    report["pin"] = json!(told.pin.word());
    report["memory"] = json!({
        "publicTotal": told.public_memory.0, "publicFree": told.public_memory.1,
        "privateTotal": told.private_memory.0, "privateFree": told.private_memory.1,
    });
    if !told.initialised {
        report["hint"] = json!("nobody owns the token yet: provision the Unit");
        return Ok(());
    }
    report["label"] = json!(told.label);
    let source = PinSource::new(&first.params)
        .map_err(|error| (error, "set 'userPinPath' or CKTEEC_LOGIN_TYPE in the service's environment"))?;
    let session = open(&token, told.pin, &source).map_err(|error| {
        // Some tokens tell that they are locked only when they are asked.
        let hint = match told.pin {
            _ if error.is_locked() => LOCKED,
            PinState::Good => "restore the PIN file, or deprovision and provision the Unit again",
            PinState::Refused | PinState::FinalTry => {
                "the PIN was refused before and is not tried again; restore the PIN file"
            }
            PinState::Locked => LOCKED,
        };
        failed("open the token", hint)(error)
    })?;
    report["session"] = json!("open");
    let content = failed("look through the token", "see the log of IAM and of the token's service");
    count(report, &session, modules, waiting, certificates).map_err(content)
}

fn open(token: &Token, pin: PinState, source: &PinSource) -> Result<TokenSession, TokenError> {
    let stored = source.login_pin()?;
    if pin == PinState::Good { token.open(&stored) } else { token.opened(&stored) }
}

/// Counts the objects and reads the certificates.
fn count(
    report: &mut Value,
    session: &TokenSession,
    modules: &[&CertModule],
    waiting: Option<&Waiting>,
    certificates: &mut Vec<Value>,
) -> Result<(), TokenError> {
    let objects = session.list_objects(None)?;
    let of = |kind: ObjectKind| objects.iter().filter(|object| object.kind == kind).count();
    report["objects"] = json!({
        "total": objects.len(),
        "privateKeys": of(ObjectKind::PrivateKey),
        "publicKeys": of(ObjectKind::PublicKey),
        "certificates": of(ObjectKind::Certificate),
        "other": of(ObjectKind::Other),
    });
    let ours = |label: &str| modules.iter().any(|module| module.id == label);
    let mut keys: BTreeMap<(&str, &[u8]), BTreeSet<u8>> = BTreeMap::new();
    let mut foreign = 0_usize;
    for object in &objects {
        let part = match object.kind {
            ObjectKind::PrivateKey => 0,
            ObjectKind::PublicKey => 1,
            ObjectKind::Certificate => 2,
            ObjectKind::Other => 3,
        };
        if ours(&object.label) && part < 3 {
            keys.entry((&object.label, &object.id)).or_default().insert(part);
        } else if part != 2 || !object.label.is_empty() {
            // Certificates of authorities have no label.
            foreign += 1;
        }
    }
    let (mut certified, mut waits, mut orphans) = (0_usize, 0_usize, 0_usize);
    for ((cert_type, id), parts) in keys {
        let is_waiting = || waiting.is_none_or(|known| known.contains(&(cert_type.to_owned(), id.to_vec())));
        if parts.len() == 3 {
            certified += 1;
            let der = session.find_certificate(id, cert_type)?;
            if let Some(module) = modules.iter().find(|module| module.id == cert_type) {
                certificates.extend(certificate(cert_type, &der, &url(module, id)));
            }
        } else if !parts.contains(&2) && parts.len() == 2 && is_waiting() {
            waits += 1;
        } else {
            orphans += 1;
        }
    }
    report["certified"] = json!(certified);
    // Without the database a key pair of no certificate may be either.
    report[if waiting.is_some() { "waiting" } else { "waitingOrOrphans" }] = json!(waits);
    report["orphans"] = json!(orphans);
    report["foreign"] = json!(foreign);
    Ok(())
}

/// Keys in files.
fn folder(modules: &[&CertModule], waiting: Option<&Waiting>, certificates: &mut Vec<Value>) -> Value {
    let (mut certified, mut waits, mut orphans) = (0_usize, 0_usize, 0_usize);
    let (mut owned, mut error) = (false, None);
    for module in modules {
        let files = KeyFiles::new(&module.params.key_dir, &module.id);
        if !files.is_owned() {
            continue;
        }
        owned = true;
        let (keys, found) = match files.list() {
            Ok(listed) => listed,
            Err(failure) => {
                error = Some(with_causes(&failure));
                continue;
            }
        };
        let mut with_certificate = BTreeSet::new();
        for (id, leaf) in found {
            if let (true, Some(leaf)) = (keys.contains(&id), leaf) {
                certified += 1;
                certificates.extend(certificate(&module.id, &leaf.der, &files.urls(&id).1));
            } else {
                orphans += 1;
            }
            with_certificate.insert(id);
        }
        for id in keys.difference(&with_certificate) {
            if waiting.is_none_or(|known| known.contains(&(module.id.clone(), id.clone()))) {
                waits += 1;
            } else {
                orphans += 1;
            }
        }
    }
    let folder = modules.first().map(|module| module.params.key_dir.clone());
    json!({
        "types": types(modules), "folder": folder, "initialised": owned, "error": error,
        "certified": certified, "waiting": waits, "orphans": orphans,
    })
}

fn url(module: &CertModule, id: &[u8]) -> String {
    let url = CertUrl::Pkcs11(Pkcs11Url {
        token: Some(token_label(module).to_owned()),
        object: module.id.clone(),
        id: id.to_vec(),
        module_path: module.params.module_path_in_url.then(|| module.params.library.clone()),
        pin: Pin::None,
    });
    url.to_string().trim_end_matches('?').to_owned()
}

fn certificate(cert_type: &str, der: &[u8], key_url: &str) -> Option<Value> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).map(|at| at.to_string()).ok();
    Some(json!({
        "type": cert_type,
        "serial": hex::encode(super::core::significant(parsed.raw_serial())),
        "issuer": parsed.issuer().to_string(),
        "notBefore": time(parsed.validity().not_before.timestamp()),
        "notAfter": time(parsed.validity().not_after.timestamp()),
        "keyUrl": key_url,
    }))
}

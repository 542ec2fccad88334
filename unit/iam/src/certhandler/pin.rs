//! User PINs of tokens: read from and kept in a file, or derived for a TEE.

use std::path::{Path, PathBuf};

use aos_token::AuthPin;
use uuid::Uuid;

use crate::config::TokenParams;
use crate::{Error, killpoint};

const MODE: u32 = 0o600;
/// Random bytes of a generated PIN; shown as twice as many hexadecimal characters.
const RANDOM_BYTES: usize = 15;
const LOGIN_TYPE: &str = "CKTEEC_LOGIN_TYPE";
/// Name space of a TEE's client identities.
const TEE_NAMESPACE: Uuid = Uuid::from_u128(0x58ac_9ca0_2086_4683_a1b8_ec4b_c08e_01b6);

/// How a module's token is logged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PinSource {
    /// A file holds the PIN.
    File(PathBuf),
    /// The TEE knows who we are; the PIN given to it once says which identity counts.
    Tee(String),
}

impl PinSource {
    /// From the configuration and the environment.
    pub(super) fn new(params: &TokenParams) -> Result<Self, Error> {
        match std::env::var(LOGIN_TYPE) {
            Ok(login_type) => Ok(Self::Tee(tee_pin(&login_type, params.uid, params.gid)?)),
            Err(_) if params.user_pin_path.as_os_str().is_empty() => Err(Error::InvalidArgument(format!(
                "a token needs 'userPinPath' in its configuration, or {LOGIN_TYPE} in the environment"
            ))),
            Err(_) => Ok(Self::File(params.user_pin_path.clone())),
        }
    }

    /// The PIN for logging in.
    pub(super) fn login_pin(&self) -> Result<AuthPin, aos_token::TokenError> {
        match self {
            Self::File(path) => aos_token::read_pin_file(path),
            Self::Tee(_) => Ok(AuthPin::from(String::new())),
        }
    }
}

/// The PIN to initialise a token with whose modules use `sources`: the one that a file holds already,
/// else a new one. Afterwards all files hold it.
pub(super) fn settle(sources: &[&PinSource]) -> Result<AuthPin, Error> {
    let mut files: Vec<&Path> = Vec::new();
    for source in sources {
        match source {
            PinSource::Tee(pin) => return Ok(AuthPin::from(pin.clone())),
            PinSource::File(path) if !files.contains(&path.as_path()) => files.push(path),
            PinSource::File(_) => {}
        }
    }
    let known = files.iter().find_map(|path| Some((*path, readable(path)?)));
    let (source, pin) = match known {
        Some((path, pin)) => (Some(path), pin),
        None => (None, generate()?),
    };
    for path in files.into_iter().filter(|path| Some(*path) != source) {
        let failed = |source| Error::Durable {
            doing: "write a PIN to",
            path: path.to_owned(),
            source: Box::new(source),
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            aos_durable::create_dir(dir, 0o700).map_err(failed)?;
        }
        killpoint::step("write a PIN");
        aos_durable::write_atomic(path, pin.as_bytes(), MODE).map_err(failed)?;
        killpoint::step("write a PIN");
    }
    Ok(AuthPin::from(pin))
}

fn readable(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let pin = text.strip_suffix('\n').unwrap_or(&text);
    (!pin.is_empty()).then(|| pin.to_owned())
}

/// 30 hexadecimal characters from the system's random numbers.
fn generate() -> Result<String, Error> {
    let mut bytes = [0; RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::Failed("the system gives no random numbers for a PIN".into()))?;
    Ok(hex::encode(bytes))
}

/// The PIN that tells a TEE whose login counts.
fn tee_pin(login_type: &str, uid: u32, gid: u32) -> Result<String, Error> {
    let identity = |name: String| Uuid::new_v5(&TEE_NAMESPACE, name.as_bytes());
    match login_type {
        "public" => Ok("public".into()),
        "user" => Ok(format!("user:{}", identity(format!("uid={uid}")))),
        "group" => Ok(format!("group:{}", identity(format!("gid={gid}")))),
        other => Err(Error::InvalidArgument(format!(
            "{LOGIN_TYPE} is '{other}', known are public, user and group"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // IAM 26.5
    #[test]
    fn tee_identities_match_the_vectors() {
        assert_eq!(tee_pin("public", 1, 2).unwrap(), "public");
        assert_eq!(tee_pin("user", 0, 9).unwrap(), "user:ef0180a3-13f3-5d1c-b7f5-888c0e21059a");
        assert_eq!(tee_pin("user", 42, 9).unwrap(), "user:31d10f2b-ae42-531d-a158-d9359245d171");
        assert_eq!(tee_pin("group", 9, 37).unwrap(), "group:caee72e2-6683-52fd-b135-f63af536063e");
        assert!(tee_pin("kernel", 0, 0).is_err());
    }

    // IAM 26.5
    #[test]
    fn a_new_pin_is_private_and_an_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let one = PinSource::File(dir.path().join("deep/one"));
        let two = PinSource::File(dir.path().join("two"));
        settle(&[&one, &one, &two]).unwrap();
        let path = dir.path().join("deep/one");
        let pin = std::fs::read_to_string(&path).unwrap();
        assert_eq!(pin.len(), 30);
        assert!(pin.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(dir.path().join("two")).unwrap(), pin);
        std::fs::remove_file(dir.path().join("two")).unwrap();
        settle(&[&one, &two]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), pin, "other users of the file keep their PIN");
        assert_eq!(std::fs::read_to_string(dir.path().join("two")).unwrap(), pin);
    }
}

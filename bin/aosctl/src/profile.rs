//! Saved credentials: one folder per profile with the cloud's address and root, the user's key and chain.
//!
//! Keys are files with mode 0600 in a folder with mode 0700.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where profiles live: `$AOSCTL_HOME`, else `$XDG_CONFIG_HOME/aosctl`, else `~/.config/aosctl`.
pub struct Home(PathBuf);

/// One set of credentials.
#[derive(Debug, Clone)]
pub struct Profile {
    pub cloud: String,
    pub ca_pem: Vec<u8>,
    pub chain_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Settings {
    cloud: String,
}

const LARGEST_FILE: u64 = 256 * 1024;

impl Home {
    pub fn locate() -> Result<Self> {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        folder("AOSCTL_HOME")
            .or_else(|| folder("XDG_CONFIG_HOME").map(|dir| dir.join("aosctl")))
            .or_else(|| folder("HOME").map(|dir| dir.join(".config/aosctl")))
            .map(Self)
            .context("no folder for credentials: neither AOSCTL_HOME nor HOME is set")
    }

    #[cfg(test)]
    pub const fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    fn dir(&self, name: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            bail!("'{name}' is no profile name; letters, digits, '-', '_' and '.' are allowed");
        }
        Ok(self.0.join(name))
    }

    pub fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.dir(name)?.join("profile.json").exists())
    }

    pub fn load(&self, name: &str) -> Result<Profile> {
        let dir = self.dir(name)?;
        if !dir.join("profile.json").exists() {
            bail!(
                "no credentials saved as profile '{name}' (looked in {}); run `aosctl login` first or choose another with --profile",
                dir.display()
            );
        }
        let settings: Settings = serde_json::from_slice(&read(&dir.join("profile.json"))?)
            .with_context(|| format!("{} is damaged; run `aosctl login` again", dir.display()))?;
        Ok(Profile {
            cloud: settings.cloud,
            ca_pem: read(&dir.join("ca.pem"))?,
            chain_pem: read(&dir.join("cert.pem"))?,
            key_pem: read(&dir.join("key.pem"))?,
        })
    }

    /// Keeps `value` until [`Home::forget`], so that work that is cut off can be taken up.
    pub fn remember<T: Serialize>(&self, file: &str, value: &T) -> Result<()> {
        aos_durable::create_dir(&self.0, 0o700).context("cannot make the folder for unfinished work")?;
        aos_durable::write_atomic(&self.0.join(file), &serde_json::to_vec(value)?, 0o600)
            .context("cannot save unfinished work")
    }

    /// What was kept, if it is there and readable.
    pub fn recall<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>> {
        let kept = aos_durable::read_bounded(&self.0.join(file), LARGEST_FILE)
            .context("cannot read unfinished work")?;
        Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub fn forget(&self, file: &str) -> Result<()> {
        aos_durable::remove_durably(&self.0.join(file)).context("cannot remove finished work")
    }

    /// Saves `profile`; `profile.json` comes last, so that a half-written profile is not taken for one.
    pub fn save(&self, name: &str, profile: &Profile) -> Result<PathBuf> {
        let dir = self.dir(name)?;
        aos_durable::create_dir(&dir, 0o700).context("cannot make the folder for credentials")?;
        let settings = serde_json::to_vec_pretty(&Settings { cloud: profile.cloud.clone() })?;
        let files: [(&str, &[u8]); 4] = [
            ("ca.pem", &profile.ca_pem),
            ("cert.pem", &profile.chain_pem),
            ("key.pem", &profile.key_pem),
            ("profile.json", &settings),
        ];
        for (file, content) in files {
            aos_durable::write_atomic(&dir.join(file), content, 0o600)
                .context("cannot save the credentials")?;
        }
        Ok(dir)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    aos_durable::read_bounded(path, LARGEST_FILE)
        .context("cannot read the saved credentials")?
        .with_context(|| format!("{} is missing; run `aosctl login` again", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn credentials_are_private_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home(folder.path().join("home"));
        assert!(home.load("x").unwrap_err().to_string().contains("aosctl login"));
        let profile = Profile {
            cloud: "https://localhost:1".into(),
            ca_pem: b"ca".to_vec(),
            chain_pem: b"chain".to_vec(),
            key_pem: b"key".to_vec(),
        };
        let dir = home.save("x", &profile).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("key.pem"))), (0o700, 0o600));
        assert_eq!(home.load("x").unwrap().key_pem, b"key");
    }

    #[test]
    fn profile_names_cannot_leave_the_folder() {
        let home = Home("/nowhere".into());
        for name in ["", "..", "../x", "a/b", ".hidden"] {
            assert!(home.dir(name).is_err(), "{name}");
        }
    }
}

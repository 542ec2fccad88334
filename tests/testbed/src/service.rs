//! The small HTTP service that demo and tests deploy: one static program and one page.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result, Tried};
use crate::operator::Operator;
use crate::unit_config::architecture;

/// Port the service listens on.
pub const PORT: u16 = 8080;
const PROGRAM: &str = "/bin/busybox";

/// A version of the service, ready to be published.
#[derive(Debug)]
pub struct HttpService {
    codename: String,
    root: PathBuf,
    config: PathBuf,
}

impl HttpService {
    /// Makes the root file system in `dir`; its page says `page`.
    pub fn new(dir: &Path, codename: &str, page: &str) -> Result<Self> {
        if !Path::new(PROGRAM).exists() {
            return Err(Error::Unexpected(format!("{PROGRAM} is missing; run `make setup`")));
        }
        let (root, config) = (dir.join("rootfs"), dir.join("item.json"));
        for folder in ["bin", "www", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        }
        let program = root.join("bin/busybox");
        fs::copy(PROGRAM, &program).tried(|| format!("cannot copy {PROGRAM}"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .tried(|| "cannot make the program executable".to_owned())?;
        let document = json!({
            "author": "AosEdge demo",
            "hostname": codename,
            "baseLayerIsNodeRootfs": false,
            "runtimes": [{"codename": "crun"}, {"codename": "runc"}],
            "quotas": {"ramLimit": 64 << 20, "pidsLimit": 32, "noFileLimit": 256},
        });
        let write = |path: &Path, text: &str| {
            fs::write(path, text).tried(|| format!("cannot write {}", path.display()))
        };
        write(&config, &document.to_string())?;
        write(&root.join("www/index.html"), &format!("{page}\n"))?;
        Ok(Self { codename: codename.to_owned(), root, config })
    }

    /// Its codename.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// Replaces an item configuration value, for tests of limits and policies.
    pub fn set_config(&self, document: &serde_json::Value) -> Result<()> {
        fs::write(&self.config, document.to_string())
            .tried(|| "cannot write the item configuration".to_owned())
    }

    /// The arguments of `aosctl` that publish it as `version`.
    pub fn publish_args(&self, version: &str) -> Vec<String> {
        let command = format!("/bin/busybox httpd -f -p {PORT} -h /www");
        let words = [
            "item",
            "publish",
            "--rootfs",
            &self.root.display().to_string(),
            "--cmd",
            &command,
            "--arch",
            architecture(),
            "--codename",
            &self.codename,
            "--version",
            version,
            "--expose",
            &format!("{PORT}/tcp"),
            "--config",
            &self.config.display().to_string(),
            "--title",
            "HTTP service",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Publishes it.
    pub fn publish(&self, operator: &Operator, version: &str) -> Result<()> {
        operator.run(&self.publish_args(version)).map(drop)
    }
}

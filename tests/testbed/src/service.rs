//! The small HTTP service that demo and tests deploy: one static program and one page.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result, Tried};
use crate::operator::Operator;
use crate::unit_config::architecture;

/// Port the service listens on.
pub const PORT: u16 = 8080;
const PROGRAM: &str = "/bin/busybox";

/// What the service with handles does at its start: a line for the log, then it serves everything it sees. It
/// ends well when it is told to, and badly by a signal of its own.
const START: &str = "trap 'exit 0' TERM\ntrap \"echo 'something is wrong'; exit 4\" USR1\n\
    echo \"service starts with LEVEL=${LEVEL:-none}\"\n\
    /bin/busybox httpd -f -p 8080 -h / &\nwait $!\n";
/// Shows a page of another service. The static program's `wget` needs libraries, its `nc` does not.
const FETCH: &str = "host=${QUERY_STRING%%:*} rest=${QUERY_STRING#*:}\n\
    printf 'GET /%s HTTP/1.0\\r\\n\\r\\n' \"${rest#*/}\" | /bin/busybox nc -w 5 $host ${rest%%/*} 2>&1";
/// Handles, each a script of the web server: name and what it does with the text of the question.
const HANDLES: [(&str, &str); 7] = [
    ("say", "echo \"$QUERY_STRING\" >&2"),
    ("env", "/bin/busybox env"),
    ("crash", "(/bin/busybox sleep 0.2; kill -s USR1 1) >/dev/null 2>&1 &"),
    ("state", "printf '%s' \"$QUERY_STRING\" >/state.dat"),
    ("storage", "printf '%s' \"$QUERY_STRING\" >/storage/note"),
    ("fetch", FETCH),
    (
        "fill",
        "/bin/busybox dd if=/dev/zero of=\"${QUERY_STRING%:*}\" bs=1k count=\"${QUERY_STRING#*:}\" 2>&1 && echo written",
    ),
];

/// A version of the service, ready to be published.
#[derive(Debug)]
pub struct HttpService {
    codename: String,
    root: PathBuf,
    config: PathBuf,
    command: String,
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
        let command = format!("{PROGRAM} httpd -f -p {PORT} -h /www");
        Ok(Self { codename: codename.to_owned(), root, config, command })
    }

    /// Makes the root file system of a service with state and storage that can be worked from outside:
    /// `/cgi-bin/say?TEXT` logs a line, `/cgi-bin/env` shows its environment, `/cgi-bin/crash` ends it with code 4, `/cgi-bin/state?TEXT` and
    /// `/cgi-bin/storage?TEXT` write; `/state.dat` and `/storage/note` are what it sees of them;
    /// `/cgi-bin/fetch?HOST:PORT/PATH` shows a page of another one, `/cgi-bin/fill?FILE:KIB` writes so many zeros.
    pub fn with_handles(dir: &Path, codename: &str) -> Result<Self> {
        let mut service = Self::new(dir, codename, "handles")?;
        let folder = service.root.join("cgi-bin");
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        let script = |path: &Path, text: &str| -> Result<()> {
            fs::write(path, text).tried(|| format!("cannot write {}", path.display()))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .tried(|| format!("cannot make {} executable", path.display()))
        };
        for (name, action) in HANDLES {
            let text = format!("#!{PROGRAM} sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n{action}\n");
            script(&folder.join(name), &text)?;
        }
        script(&service.root.join("bin/start"), START)?;
        service.command = format!("{PROGRAM} sh /bin/start");
        service.set_config(&json!({
            "author": "AosEdge demo",
            "hostname": codename,
            "baseLayerIsNodeRootfs": false,
            "runtimes": [{"codename": "crun"}, {"codename": "runc"}],
            "quotas": {
                "ramLimit": 64 << 20, "pidsLimit": 32, "noFileLimit": 256,
                "stateLimit": 64 << 10, "storageLimit": 1 << 20,
            },
        }))?;
        Ok(service)
    }

    /// Its codename.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// The item configuration.
    pub fn item_config(&self) -> Result<serde_json::Value> {
        let what = || format!("cannot read {}", self.config.display());
        let text = fs::read_to_string(&self.config).tried(what)?;
        serde_json::from_str(&text).map_err(|source| Error::Json { what: what(), source })
    }

    /// Replaces the script that a service with handles starts with, and starts it as its image lies, wherever
    /// that is.
    pub fn set_start(&mut self, script: &str) -> Result<()> {
        self.command = format!("{PROGRAM} sh bin/start");
        let path = self.root.join("bin/start");
        fs::write(&path, script).tried(|| format!("cannot write {}", path.display()))
    }

    /// Replaces an item configuration value, for tests of limits and policies.
    pub fn set_config(&self, document: &serde_json::Value) -> Result<()> {
        fs::write(&self.config, document.to_string())
            .tried(|| "cannot write the item configuration".to_owned())
    }

    /// Puts so many bytes that cannot be compressed beside the page.
    pub fn fill(&self, bytes: usize) -> Result<()> {
        let file = self.root.join("www/filling");
        let mut random = fs::File::open("/dev/urandom")
            .map(|source| source.take(bytes as u64))
            .tried(|| "cannot open /dev/urandom".to_owned())?;
        let mut target = fs::File::create(&file).tried(|| format!("cannot make {}", file.display()))?;
        std::io::copy(&mut random, &mut target).tried(|| format!("cannot write {}", file.display())).map(drop)
    }

    /// The arguments of `aosctl` that publish it as `version`.
    pub fn publish_args(&self, version: &str) -> Vec<String> {
        let words = [
            "item",
            "publish",
            "--rootfs",
            &self.root.display().to_string(),
            "--cmd",
            &self.command,
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

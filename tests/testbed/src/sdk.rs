//! The official command-line tools, unmodified, inside a Unit's box.
//!
//! They come from `tests/sdk-tools.sh`. The tools trust the root certificates in a file of their own package; a
//! self-hosted cloud appends its root there. In a box this is a mount that nobody else sees, so the installed
//! packages stay as they are. The port 10000 that the tools insist on leads to the cloud's REST address.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::cloud::Cloud;
use crate::error::{Error, Result, Tried};
use crate::link::Link;
use crate::unit::Unit;

/// Port of the cloud that the tools have built in.
const CLOUD_PORT: u16 = 10_000;

/// The tools, ready for one Unit and its cloud.
#[derive(Debug)]
pub struct Sdk {
    bin: PathBuf,
    home: PathBuf,
    _to_cloud: Link,
}

impl Sdk {
    /// Makes the tools usable in the box of `unit`, with `cloud` as the only cloud they can reach.
    pub fn new(unit: &Unit, cloud: &Cloud) -> Result<Self> {
        let dir = folder()?;
        let home = unit.dir().join("sdk");
        fs::create_dir_all(&home).tried(|| format!("cannot make {}", home.display()))?;
        let sdk = Self { bin: dir.join("bin"), home, _to_cloud: link(unit, cloud)? };
        for package in ["aos_keys", "aos_prov"] {
            sdk.trust(unit, cloud, &bundled_roots(&dir, package)?, package)?;
        }
        Ok(sdk)
    }

    /// Lays a copy of `bundle` with the cloud's root over it, in the box only.
    fn trust(&self, unit: &Unit, cloud: &Cloud, bundle: &Path, package: &str) -> Result<()> {
        let root = cloud.root_certificate();
        let read = |path: &Path| fs::read_to_string(path).tried(|| format!("cannot read {}", path.display()));
        let copy = self.home.join(format!("{package}-roots.pem"));
        let text = format!("{}\n{}", read(bundle)?.trim_end(), read(&root)?);
        fs::write(&copy, text).tried(|| format!("cannot write {}", copy.display()))?;
        let output = unit
            .command("mount")?
            .arg("--bind")
            .args([&copy, bundle])
            .output()
            .tried(|| "cannot run mount".to_owned())?;
        success("mount", &output).map(drop)
    }

    /// Where `aos-keys` leaves credentials and `aos-prov` looks for them.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs a tool to its end; whatever it returns.
    pub fn output(&self, unit: &Unit, tool: &str, args: &[&str]) -> Result<Output> {
        unit.command(self.bin.join(tool))?
            .args(args)
            .env("HOME", &self.home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_COLOR", "1")
            // Shows the services that are called.
            .env("GRPC_VERBOSITY", "debug")
            .env("GRPC_TRACE", "http")
            .output()
            .tried(|| format!("cannot run {tool}"))
    }

    /// Runs a tool that has to succeed; returns what it prints.
    pub fn run(&self, unit: &Unit, tool: &str, args: &[&str]) -> Result<String> {
        success(tool, &self.output(unit, tool, args)?)
    }
}

/// Everything a tool printed, or an error when it failed.
pub fn success(tool: &str, output: &Output) -> Result<String> {
    let text = printed(output);
    if output.status.success() {
        return Ok(text);
    }
    Err(Error::Program { program: tool.to_owned(), status: output.status.to_string(), output: text })
}

/// Everything a tool printed, both streams.
pub fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The environment that `tests/sdk-tools.sh` made.
fn folder() -> Result<PathBuf> {
    let target = crate::binaries::folder()?;
    let dir = target.parent().unwrap_or(&target).join("sdk");
    if dir.join("installed").is_file() {
        return Ok(dir);
    }
    Err(Error::Unexpected(format!(
        "{} is missing; run tests/sdk-tools.sh (as `make test` does)",
        dir.display()
    )))
}

fn link(unit: &Unit, cloud: &Cloud) -> Result<Link> {
    let address = &cloud.endpoints().api;
    let target: SocketAddr =
        address.parse().map_err(|_| Error::Unexpected(format!("the cloud's REST address is '{address}'")))?;
    Link::outward_to(unit.node(), CLOUD_PORT, target)
}

fn bundled_roots(dir: &Path, package: &str) -> Result<PathBuf> {
    let lib = dir.join("lib");
    let entries = fs::read_dir(&lib).tried(|| format!("cannot read {}", lib.display()))?;
    for entry in entries.flatten() {
        let file = entry.path().join("site-packages").join(package).join("files/1rootCA.crt");
        if file.is_file() {
            return Ok(file);
        }
    }
    Err(Error::Unexpected(format!("{} holds no root certificates of {package}", lib.display())))
}

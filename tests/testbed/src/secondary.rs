//! A secondary node of a Unit: a box of its own with an Identity and Access Manager that knows the main node's,
//! and on demand a Service Manager.
//!
//! It runs the build for secondary nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binaries;
use crate::boxes::NodeBox;
use crate::error::{Error, Result, Tried};
use crate::link::Link;
use crate::process::Process;
use crate::site::Site;
use crate::unit::Unit;
use crate::unit_config::{self, CM, FILES, IAM_PROTECTED, IAM_PUBLIC, Places};

const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A secondary node.
#[derive(Debug)]
pub struct Secondary {
    node_id: String,
    places: Places,
    process: Option<Process>,
    sm: Option<Process>,
    /// To the main node: a box's loopback leads to the host's, that into the main node's box.
    _links: Vec<Link>,
    /// The last part of the way to the main node's blobs.
    files: Link,
    node: NodeBox,
}

impl Secondary {
    /// Makes the node `node_id` beside `unit`. Nothing runs in it yet.
    pub fn new(site: &Site, unit: &Unit, node_id: &str) -> Result<Self> {
        let node = NodeBox::new(site)?;
        let places = Places { dir: site.dir().join(node_id) };
        let mut links = Vec::new();
        let mut way = |port: u16| -> Result<String> {
            let inward = Link::inward(unit.node(), SocketAddr::from(([127, 0, 0, 1], port)))?;
            let address = inward.address();
            links.push(Link::outward(&node, address.port())?);
            links.push(inward);
            Ok(format!("localhost:{}", address.port()))
        };
        let (public, protected, cm) = (way(IAM_PUBLIC)?, way(IAM_PROTECTED)?, way(CM)?);
        // The main node tells this port in the addresses of blobs.
        let inward = Link::inward(unit.node(), SocketAddr::from(([127, 0, 0, 1], FILES)))?;
        let files = Link::outward_to(&node, FILES, inward.address())?;
        links.push(inward);
        write_files(&places, unit, node_id, &public, &protected, &cm)?;
        // What lies on the main node's disk is not there on this one.
        let hidden = unit.dir().join("cm");
        let output = node.command("mount")?.args(["-t", "tmpfs", "tmpfs"]).arg(&hidden).output();
        let output = output.tried(|| "cannot run mount".to_owned())?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Unexpected(format!("cannot hide {}: {reason}", hidden.display())));
        }
        let node_id = node_id.to_owned();
        Ok(Self { node_id, places, process: None, sm: None, _links: links, files, node })
    }

    /// Its box.
    pub fn node(&self) -> &NodeBox {
        &self.node
    }

    /// The way to the main node's blobs.
    pub fn files(&self) -> &Link {
        &self.files
    }

    /// Log file of its Service Manager.
    pub fn sm_log(&self) -> PathBuf {
        self.places.path("log/sm.log")
    }

    /// Starts its Service Manager, whose one runtime has the type `edge`.
    pub fn start_sm(&mut self) -> Result<()> {
        let mut command = self.node.command(binaries::find("aos-secondary")?)?;
        command
            .env("SOFTHSM2_CONF", self.places.path("softhsm2.conf"))
            .env("AOS_RUN_DIR", self.places.path("run"))
            .env_remove("NOTIFY_SOCKET")
            .args(["sm", "-c"])
            .arg(self.places.path("sm.cfg"));
        self.sm = Some(Process::start("sm of a secondary node", command, &self.sm_log())?);
        Ok(())
    }

    /// The instances that its Service Manager knows.
    pub fn instances(&self) -> Result<Vec<Value>> {
        let output = Command::new(binaries::find("aos")?)
            .args(["status", "--json", "--run-dir"])
            .arg(self.places.path("run"))
            .output()
            .tried(|| "cannot run aos status".to_owned())?;
        let document: Value = serde_json::from_slice(&output.stdout)
            .map_err(|source| Error::Json { what: "aos status".to_owned(), source })?;
        Ok(document.pointer("/sm/instances").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Its id.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.places.path("log/iam.log")
    }

    /// Starts its IAM, in provisioning mode or as a provisioned node.
    pub fn start(&mut self, provisioning: bool) -> Result<()> {
        let mut command = self.node.command(binaries::find("aos-secondary")?)?;
        command
            .env("SOFTHSM2_CONF", self.places.path("softhsm2.conf"))
            .env("AOS_RUN_DIR", self.places.path("run"))
            .env_remove("NOTIFY_SOCKET")
            .args(["iam", "-c"])
            .arg(self.places.path("iam.cfg"));
        if provisioning {
            command.arg("--provisioning");
        }
        self.process = Some(Process::start("iam of a secondary node", command, &self.log())?);
        Ok(())
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut sm) = self.sm.take() {
            sm.stop(STOP_LIMIT)?;
        }
        self.process.take().map_or(Ok(()), |mut process| process.stop(STOP_LIMIT).map(drop))
    }

    /// Fails when it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        [&mut self.process, &mut self.sm].into_iter().flatten().try_for_each(Process::check_running)
    }
}

fn write_files(
    places: &Places,
    unit: &Unit,
    node_id: &str,
    public: &str,
    protected: &str,
    cm: &str,
) -> Result<()> {
    for dir in ["tokens", "iam", "sm", "storages", "states", "migration", "run", "log"] {
        let dir = places.path(dir);
        fs::create_dir_all(&dir).tried(|| format!("cannot make {}", dir.display()))?;
    }
    let root = unit.dir().join("root.pem");
    fs::copy(&root, places.path("root.pem")).tried(|| format!("cannot copy {}", root.display()))?;
    let write =
        |path: &Path, text: &str| fs::write(path, text).tried(|| format!("cannot write {}", path.display()));
    write(&places.path("node_id"), node_id)?;
    write(&places.path("softhsm2.conf"), &unit_config::softhsm_conf(places))?;
    let mut config = unit_config::iam(places, "testbed-secondary")?;
    config["identifier"] = Value::Null;
    config["nodeInfo"]["nodeName"] = json!(node_id);
    config["nodeInfo"]["attrs"] = json!({"AosComponents": "iam,sm"});
    config["nodeReconnectInterval"] = json!("200ms");
    config["mainIAMPublicServerURL"] = json!(public);
    config["mainIAMProtectedServerURL"] = json!(protected);
    if let Some(modules) = config["certModules"].as_array_mut() {
        modules.retain(|module| module["id"] == "iam" || module["id"] == "sm");
    }
    write(&places.path("iam.cfg"), &format!("{config:#}\n"))?;
    let mut config = unit_config::sm(places);
    config["cmServerURL"] = json!(cm);
    config["runtimes"][0]["type"] = json!("edge");
    write(&places.path("resources.cfg"), "[]")?;
    write(&places.path("sm.cfg"), &format!("{config:#}\n"))
}

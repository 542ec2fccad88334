//! A secondary node of a Unit: a box of its own with an Identity and Access Manager that knows the main node's.
//!
//! It runs the build for secondary nodes. Its Service Manager is not started: what a node needs to join a Unit
//! and to be provisioned is in its IAM.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::binaries;
use crate::boxes::NodeBox;
use crate::error::{Result, Tried};
use crate::link::Link;
use crate::process::Process;
use crate::site::Site;
use crate::unit::Unit;
use crate::unit_config::{self, IAM_PROTECTED, IAM_PUBLIC, Places};

const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A secondary node.
#[derive(Debug)]
pub struct Secondary {
    node_id: String,
    places: Places,
    process: Option<Process>,
    /// To the main node's IAM: a box's loopback leads to the host's, that into the main node's box.
    _links: Vec<Link>,
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
        let (public, protected) = (way(IAM_PUBLIC)?, way(IAM_PROTECTED)?);
        write_files(&places, unit, node_id, &public, &protected)?;
        Ok(Self { node_id: node_id.to_owned(), places, process: None, _links: links, node })
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
        self.process.take().map_or(Ok(()), |mut process| process.stop(STOP_LIMIT).map(drop))
    }

    /// Fails when it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
    }
}

fn write_files(places: &Places, unit: &Unit, node_id: &str, public: &str, protected: &str) -> Result<()> {
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
    write(&places.path("iam.cfg"), &format!("{config:#}\n"))
}

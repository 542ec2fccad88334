//! A Unit with one node in a box: IAM, CM and SM as processes, keys in a SoftHSM of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::binaries;
use crate::boxes::NodeBox;
use crate::cloud::Cloud;
use crate::error::{Error, Result, Tried};
use crate::link::Link;
use crate::process::{self, Memory, Process};
use crate::site::Site;
use crate::unit_config::{self, IAM_PROTECTED, Places};
use crate::wait::{wait_for, wait_for_or_last};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A daemon of a Unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// Identity and Access Manager.
    Iam,
    /// Communication Manager.
    Cm,
    /// Service Manager.
    Sm,
}

impl Daemon {
    /// All, in the order in which they are started.
    pub const ALL: [Self; 3] = [Self::Iam, Self::Cm, Self::Sm];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Iam => "iam",
            Self::Cm => "cm",
            Self::Sm => "sm",
        }
    }
}

/// A Unit.
#[derive(Debug)]
pub struct Unit {
    system_id: String,
    places: Places,
    daemons: BTreeMap<Daemon, Process>,
    environment: BTreeMap<String, OsString>,
    to_cloud: Vec<Link>,
    to_iam: Link,
    node: NodeBox,
}

impl Unit {
    /// Makes a Unit in `site` that can reach `cloud`. Nothing runs in it yet.
    pub fn new(site: &Site, cloud: &Cloud, system_id: &str) -> Result<Self> {
        let node = NodeBox::new(site)?;
        let places = Places { dir: site.dir().join(system_id) };
        write_files(&places, cloud, system_id)?;
        let mut to_cloud = Vec::new();
        for port in cloud.endpoints().ports()? {
            to_cloud.push(Link::outward(&node, port)?);
        }
        let to_iam = Link::inward(&node, SocketAddr::from(([127, 0, 0, 1], IAM_PROTECTED)))?;
        let (daemons, environment) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { system_id: system_id.to_owned(), places, daemons, environment, to_cloud, to_iam, node })
    }

    /// Its identity.
    pub fn system_id(&self) -> &str {
        &self.system_id
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.places.dir
    }

    /// Its box.
    pub fn node(&self) -> &NodeBox {
        &self.node
    }

    /// Log file of a daemon.
    pub fn log(&self, daemon: Daemon) -> PathBuf {
        self.places.path(&format!("log/{}.log", daemon.word()))
    }

    /// Folder of the local status sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.places.path("run")
    }

    /// Where the operator's tool reaches the IAM for provisioning.
    pub fn provisioning_address(&self) -> SocketAddr {
        self.to_iam.address()
    }

    /// Has the Communication Manager write all messages of the cloud link to a file, from its next start on.
    pub fn log_messages(&self) -> Result<PathBuf> {
        let log = self.places.path("log/messages");
        self.configure(Daemon::Cm, |document| {
            if let Some(map) = document.as_object_mut() {
                map.insert("cloudMessageLog".to_owned(), log.display().to_string().into());
            }
        })?;
        Ok(log)
    }

    /// Changes a daemon's configuration file, for its next start.
    pub fn configure(&self, daemon: Daemon, change: impl FnOnce(&mut Value)) -> Result<()> {
        let config = self.places.path(&format!("{}.cfg", daemon.word()));
        let text = fs::read_to_string(&config).tried(|| format!("cannot read {}", config.display()))?;
        let mut document: Value = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: config.display().to_string(), source })?;
        change(&mut document);
        fs::write(&config, document.to_string()).tried(|| format!("cannot write {}", config.display()))
    }

    /// Starts the IAM in provisioning mode.
    pub fn start_provisioning(&mut self) -> Result<()> {
        self.launch(Daemon::Iam, &["--provisioning"])
    }

    /// Starts a daemon. It may be one that was killed.
    pub fn start(&mut self, daemon: Daemon) -> Result<()> {
        self.launch(daemon, &[])
    }

    /// Starts what does not run, each when the one before is ready, as systemd does it with our units.
    pub fn start_all(&mut self) -> Result<()> {
        for daemon in Daemon::ALL {
            if !self.daemons.contains_key(&daemon) {
                self.start(daemon)?;
            }
            self.wait_up(daemon, START_LIMIT)?;
        }
        Ok(())
    }

    /// Gives all daemons a variable of the environment, from their next start on.
    pub fn set_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.insert(name.to_owned(), value.into());
    }

    fn launch(&mut self, daemon: Daemon, more: &[&str]) -> Result<()> {
        let mut command = self.command(binaries::find("aos")?)?;
        command
            .envs(&self.environment)
            .args([daemon.word(), "-c"])
            .arg(self.places.path(&format!("{}.cfg", daemon.word())))
            .args(more);
        if let Ok(level) = std::env::var("AOS_TEST_LOG") {
            command.args(["-v", &level]);
        }
        let process = Process::start(daemon.word(), command, &self.log(daemon))?;
        self.daemons.insert(daemon, process);
        Ok(())
    }

    /// A command inside the box with the Unit's environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = self.node.command(program)?;
        command
            .env("SOFTHSM2_CONF", self.places.path("softhsm2.conf"))
            .env("AOS_RUN_DIR", self.run_dir())
            .env_remove("NOTIFY_SOCKET");
        Ok(command)
    }

    /// Kills a daemon without warning.
    pub fn kill_9(&mut self, daemon: Daemon) -> Result<()> {
        self.daemons.remove(&daemon).map_or(Ok(()), |mut process| process.kill_9())
    }

    /// Asks a daemon to end and waits.
    pub fn stop(&mut self, daemon: Daemon) -> Result<()> {
        let Some(mut process) = self.daemons.remove(&daemon) else { return Ok(()) };
        let status = process.stop(STOP_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Program {
            program: daemon.word().to_owned(),
            status: status.to_string(),
            output: process::tail(process.log(), 10),
        })
    }

    /// Fails when a started daemon has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.daemons.values_mut().try_for_each(Process::check_running)
    }

    /// Process number of a running daemon.
    pub fn pid(&self, daemon: Daemon) -> Option<i32> {
        self.daemons.get(&daemon).map(Process::pid)
    }

    /// What the daemons say of themselves, as `aos status --json` prints it.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(binaries::find("aos")?)
            .args(["status", "--json", "--run-dir"])
            .arg(self.run_dir())
            .output()
            .tried(|| "cannot run aos status".to_owned())?;
        if !output.status.success() {
            return Err(Error::Program {
                program: "aos status".to_owned(),
                status: output.status.to_string(),
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|source| Error::Json { what: "aos status".to_owned(), source })
    }

    /// The instances that the Service Manager knows.
    pub fn instances(&self) -> Vec<Value> {
        let status = self.status().unwrap_or_default();
        status.pointer("/sm/instances").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// Waits until a daemon serves its status.
    pub fn wait_up(&mut self, daemon: Daemon, limit: Duration) -> Result<()> {
        let what = format!("{} to be up", daemon.word());
        wait_for(&what, limit, || {
            if let Err(error) = self.check_running() {
                return Some(Err(error));
            }
            self.status().ok().filter(|status| status.get(daemon.word()).is_some()).map(|_| Ok(()))
        })?
    }

    /// A link from the host to `port` of the only running instance.
    pub fn link_to_service(&self, port: u16, limit: Duration) -> Result<Link> {
        let address = wait_for_or_last("the service's address", limit, || {
            let instances = self.instances();
            let word =
                |key: &str| instances.first().and_then(|one| one.get(key)?.as_str().map(str::to_owned));
            let ip = word("ip").filter(|ip| !ip.is_empty());
            // A service without a network of its own listens on the node's.
            let ip = ip.or_else(|| instances.first().map(|_| "127.0.0.1".to_owned()));
            let ip = ip.ok_or_else(|| format!("instances {instances:?}"))?;
            let ip = ip.split('/').next().unwrap_or_default();
            ip.parse::<IpAddr>().map_err(|_| format!("address '{ip}'"))
        })?;
        Link::inward(&self.node, SocketAddr::new(address, port))
    }

    /// Cuts or heals the way to the cloud.
    pub fn set_cloud_link(&self, up: bool) {
        for link in &self.to_cloud {
            if up { link.heal() } else { link.cut() }
        }
    }

    /// Memory of our own processes: the daemons and what they keep running, services not counted.
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        let own = binaries::find("aos").unwrap_or_default();
        let mut found = BTreeMap::new();
        for pid in self.node.processes() {
            // Asked of the kernel, because a process can call itself what it likes.
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if program != own {
                continue;
            }
            let word = process::arguments(pid).into_iter().nth(1).unwrap_or_else(|| "other".to_owned());
            if let Some(memory) = process::memory(pid) {
                let sum: &mut Memory = found.entry(word).or_default();
                sum.pss += memory.pss;
                sum.private_dirty += memory.private_dirty;
            }
        }
        found
    }

    /// Ends of all logs, for a failed test.
    pub fn log_tails(&self, lines: usize) -> String {
        let tails = Daemon::ALL.map(|daemon| {
            format!("--- {}\n{}\n", self.log(daemon).display(), process::tail(&self.log(daemon), lines))
        });
        tails.concat()
    }
}

fn write_files(places: &Places, cloud: &Cloud, system_id: &str) -> Result<()> {
    for dir in ["", "tokens", "iam", "cm", "sm", "storages", "states", "dns", "migration", "run", "log"] {
        let dir = places.path(dir);
        fs::create_dir_all(&dir).tried(|| format!("cannot make {}", dir.display()))?;
    }
    let root = cloud.root_certificate();
    fs::copy(&root, places.path("root.pem")).tried(|| format!("cannot copy {}", root.display()))?;
    let write = |name: &str, text: &str| {
        let path = places.path(name);
        fs::write(&path, text).tried(|| format!("cannot write {}", path.display()))
    };
    let document = |value: &Value| format!("{value:#}\n");
    write("system_id", system_id)?;
    write("node_id", "main")?;
    write("unit_model", "testbed;1.0")?;
    write("subjects", "")?;
    write("resources.cfg", "[]")?;
    write("softhsm2.conf", &unit_config::softhsm_conf(places))?;
    write("iam.cfg", &document(&unit_config::iam(places, "testbed-main")?))?;
    let [units, ..] = cloud.endpoints().ports()?;
    let discovery = format!("https://localhost:{units}/sd/v7/");
    write("cm.cfg", &document(&unit_config::cm(places, &discovery)))?;
    write("sm.cfg", &document(&unit_config::sm(places)))
}

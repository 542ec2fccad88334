//! A box: private mount, network and cgroup namespaces for one node, empty but for the loopback interface.
//!
//! The node sees the host's files, its own `/run`, its own cgroup tree with all controllers and its own
//! network. Nothing of the host's network is touched: [`crate::link`] carries bytes in and out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::binaries;
use crate::cgroups;
use crate::error::{Error, Result, Tried};
use crate::helper::LEAF;
use crate::site::Site;

/// A running box. It ends with its site.
#[derive(Debug)]
pub struct NodeBox {
    anchor: Child,
    cgroups: Vec<PathBuf>,
    leaves: Vec<PathBuf>,
}

impl NodeBox {
    /// Makes a box in `site`.
    pub fn new(site: &Site) -> Result<Self> {
        let name = site.unique_name();
        let hierarchies = cgroups::hierarchies()?;
        if hierarchies.is_empty() {
            return Err(Error::Unexpected("no cgroup file system is mounted on this host".to_owned()));
        }
        let pure_v2 = cgroups::is_pure_v2(&hierarchies);
        if pure_v2 && Path::new("/run/systemd/system").is_dir() {
            return Self::in_scope(site, &name);
        }
        // Registered before it exists, so that no moment is left in which it could stay behind.
        let planned: Vec<PathBuf> = hierarchies
            .iter()
            .map(|one| if pure_v2 { one.mount.join(&name) } else { one.own.join(&name) })
            .collect();
        site.register_cgroups(&planned)?;
        let dirs = cgroups::create(&hierarchies, &name)?;
        let mut command = Command::new(binaries::find("aos-box")?);
        command.arg("anchor");
        for dir in &dirs {
            command.arg("--join").arg(dir);
        }
        let anchor = start_anchor(command)?;
        let leaves = if pure_v2 { dirs.iter().map(|dir| dir.join(LEAF)).collect() } else { dirs.clone() };
        Ok(Self { anchor, cgroups: dirs, leaves })
    }

    /// Under systemd cgroups belong to it; it gives us one of our own, delegated, as a scope.
    fn in_scope(site: &Site, name: &str) -> Result<Self> {
        let mut command = Command::new("systemd-run");
        command
            .args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"])
            .arg(format!("--unit={name}.scope"))
            .arg("--")
            .arg(binaries::find("aos-box")?)
            .arg("anchor");
        let anchor = start_anchor(command)?;
        let pid = anchor.id();
        let path = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&path).tried(|| format!("cannot read {path}"))?;
        let leaf = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let scope = leaf.and_then(|leaf| leaf.strip_suffix(&format!("/{LEAF}")));
        let Some(scope) = scope.filter(|scope| scope.contains(name)) else {
            return Err(Error::Unexpected(format!(
                "systemd did not give the box a cgroup of its own: {text}"
            )));
        };
        let dir = Path::new("/sys/fs/cgroup").join(scope);
        site.register_cgroups(std::slice::from_ref(&dir))?;
        Ok(Self { anchor, leaves: vec![dir.join(LEAF)], cgroups: vec![dir] })
    }

    /// A command that runs `program` inside the box, to be completed by the caller. The process that comes of
    /// it is the program itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(binaries::find("aos-box")?);
        command.arg("enter").arg(self.anchor.id().to_string());
        for dir in &self.leaves {
            command.arg("--join").arg(dir);
        }
        command.arg("--").arg(program).process_group(0);
        Ok(command)
    }

    /// All processes of the box but its anchor.
    pub fn processes(&self) -> Vec<i32> {
        let anchor = self.anchor.id().cast_signed();
        cgroups::processes(&self.cgroups).into_iter().filter(|pid| *pid != anchor).collect()
    }

    /// The box's network namespace.
    pub fn network(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.anchor.id());
        File::open(&path).tried(|| format!("cannot open {path}"))
    }

    /// The command a person uses to look around inside: a shell in the box's namespaces.
    pub fn shell_command(&self) -> String {
        format!("nsenter -t {} -m -n -C", self.anchor.id())
    }
}

impl Drop for NodeBox {
    fn drop(&mut self) {
        // The site ends what runs in it; here only the child is reaped.
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
    }
}

fn start_anchor(mut command: Command) -> Result<Child> {
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .tried(|| format!("cannot start {}", command.get_program().display()))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).tried(|| "cannot read from aos-box".to_owned())?;
    }
    if line.trim() == "ready" {
        return Ok(child);
    }
    let output = child.wait_with_output().tried(|| "cannot wait for aos-box".to_owned())?;
    Err(Error::Program {
        program: "aos-box anchor".to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

//! A machine with systemd and journald: this machine's own Debian on a throw-away overlay, in a box.
//!
//! Boots in about half a second. It has its own processes, network, files, cgroups and identity; nothing that is
//! installed here starts by itself. The programs under test are in `/opt/aosedge/programs`, the folder `packaging`
//! in `/opt/aosedge/packaging`. It ends with its site.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::binaries;
use crate::boxes::NodeBox;
use crate::error::{Error, Result, Tried};
use crate::process::{Process, arguments};
use crate::site::Site;
use crate::wait::wait_for_or_last;

const SYSTEMD: &str = "/lib/systemd/systemd";
const BOOT: &str = include_str!("systemd.sh");
const LIMIT: Duration = Duration::from_mins(1);

/// A running machine.
#[derive(Debug)]
pub struct SystemdBox {
    _process: Process,
    leader: i32,
    node: NodeBox,
}

impl SystemdBox {
    /// Boots a machine in `site`; `packaging` is the folder of that name.
    pub fn boot(site: &Site, packaging: &Path) -> Result<Self> {
        let node = NodeBox::new(site)?;
        let mut command = node.command("unshare")?;
        command.args([
            "--pid",
            "--uts",
            "--ipc",
            "--mount",
            "--propagation",
            "private",
            "--fork",
            "--kill-child",
        ]);
        command
            .args(["sh", "-c", BOOT, "sh"])
            .arg(site.dir().join("systemd"))
            .arg(binaries::folder()?)
            .arg(packaging);
        let mut process = Process::start("systemd", command, &site.dir().join("systemd.log"))?;
        let leader = wait_for_or_last("systemd", LIMIT, || {
            process.check_running().map_err(|error| crate::chain(&error))?;
            let found = node
                .processes()
                .into_iter()
                .find(|pid| arguments(*pid).first().is_some_and(|word| word == SYSTEMD));
            found.ok_or_else(|| "no first process".to_owned())
        })?;
        let machine = Self { _process: process, leader, node };
        wait_for_or_last("the machine to be up", LIMIT, || {
            let output = machine.command("systemctl").arg("is-system-running").output();
            let text = output.map_or_else(|error| error.to_string(), |out| text_of(&out.stdout));
            if matches!(text.trim(), "running" | "degraded") { Ok(()) } else { Err(text) }
        })?;
        Ok(machine)
    }

    /// The box it is in; its network is the machine's.
    pub fn node(&self) -> &NodeBox {
        &self.node
    }

    /// A program on the machine, to be completed by the caller.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader.to_string(), "--all", "--", "env", "-i", "HOME=/root"]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", program]);
        command
    }

    /// Runs a shell script on the machine and returns what it prints; fails when the script does.
    pub fn sh(&self, script: &str) -> Result<String> {
        let Output { status, stdout, stderr } =
            self.command("sh").args(["-ec", script]).output().tried(|| "cannot run nsenter".to_owned())?;
        if status.success() {
            return Ok(text_of(&stdout));
        }
        Err(Error::Program {
            program: script.to_owned(),
            status: status.to_string(),
            output: format!("{}{}", text_of(&stdout), text_of(&stderr)),
        })
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

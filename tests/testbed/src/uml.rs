//! Another kernel for one program: User-Mode Linux, where this machine's own kernel lacks what a test needs.
//!
//! The guest boots in about two seconds from this machine's own root, which it cannot change: the program sees
//! the same files, but `/tmp`, `/var/tmp`, `/run` and `/dev` are its own and empty. It has all controllers of
//! cgroup v2, overlayfs, loop devices, ext4 with user quota, btrfs, veth, bridges and VLANs, one processor, and
//! no network but the loopback interface. nftables are not there.
//!
//! A machine lives in a site's box, so that neither a time-out nor the death of its owner leaves anything behind.

mod guest;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::boxes::NodeBox;
use crate::error::{Error, Result, Tried};
use crate::process::{Process, tail};
use crate::site::Site;
use crate::wait::{patience, pause};

pub use guest::main as guest;

const KERNEL: &str = "linux.uml";
const PLAN: &str = "plan.json";
const OUTPUT: &str = "output";
const STATUS: &str = "status";

/// How a program is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory of the machine, MiB. What is written to `/tmp` and `/var/tmp` counts.
    pub memory: u32,
    /// Longest time from power-on to power-off; the machine is killed then.
    pub limit: Duration,
    /// Variables of the program, next to `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Kernel modules to load beforehand. Most load themselves: file systems, kinds of links, quota formats.
    pub modules: Vec<String>,
    /// Folders below `/tmp`, `/var/tmp` or `/run` that the program has to see. Read-only.
    pub shared: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 768,
            limit: Duration::from_mins(3),
            env: Vec::new(),
            modules: ["overlay", "loop", "veth", "bridge"].map(str::to_owned).to_vec(),
            shared: Vec::new(),
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status; 128 and the signal's number when it was killed by one.
    pub status: i32,
    /// What it printed.
    pub output: String,
}

/// What the guest is told.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    modules: Vec<String>,
    shared: Vec<PathBuf>,
    folder: PathBuf,
}

/// Runs a program (with absolute path) as root in a machine of its own.
///
/// # Errors
/// When the machine does not start, does not tell how the program ended, or takes too long. How the program ended
/// is no error.
pub fn run(argv: &[&str], options: &Options) -> Result<Outcome> {
    let site = Site::new("uml")?;
    let node = NodeBox::new(&site)?;
    let dir = site.dir().to_path_buf();
    let helper = binaries::find("aos-box")?;
    let mut shared = options.shared.clone();
    shared.push(binaries::folder()?);
    let plan = Plan {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: options.env.clone(),
        modules: options.modules.clone(),
        shared,
        folder: dir.clone(),
    };
    let text = serde_json::to_vec(&plan)
        .map_err(|source| Error::Json { what: "the plan of a machine".to_owned(), source })?;
    let path = dir.join(PLAN);
    std::fs::write(&path, text).tried(|| format!("cannot write {}", path.display()))?;

    let mut command = node.command(KERNEL)?;
    command
        .args(["rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null", "con0=null,fd:1", "ssl=null"])
        .arg(format!("mem={}M", options.memory))
        .arg(format!("uml_dir={}", dir.display()))
        .arg("umid=machine")
        .arg(format!("init={}", helper.display()))
        .args(["--", "uml-guest"])
        .arg(&dir);
    let console = dir.join("console");
    let mut machine = Process::start("User-Mode Linux", command, &console)?;
    let start = Instant::now();
    let limit = options.limit * patience();
    while machine.is_running()? {
        if start.elapsed() > limit {
            let _ = kill(Pid::from_raw(machine.pid()), Signal::SIGKILL);
            return Err(Error::Timeout {
                what: format!("{} in User-Mode Linux", argv.join(" ")),
                after: limit,
                last: format!("{}\n{}", tail(&dir.join(OUTPUT), 40), tail(&console, 20)),
            });
        }
        pause(Duration::from_millis(20));
    }
    let read =
        |name: &str| std::fs::read(dir.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let output = read(OUTPUT).unwrap_or_default();
    let status = read(STATUS).ok().and_then(|text| text.trim().parse().ok());
    site.end()?;
    match status {
        Some(status) => Ok(Outcome { status, output }),
        None => Err(Error::Program {
            program: KERNEL.to_owned(),
            status: "it did not tell how the program ended".to_owned(),
            output: format!("{output}\n{}", tail(&console, 20)),
        }),
    }
}

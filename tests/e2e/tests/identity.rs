//! The Identity and Access Manager as a process.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aos_testbed::{Cloud, Site, Unit, binaries, wait_for_or_last};

const LIMIT: Duration = Duration::from_secs(30);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// Under the name that units, scripts and documentation have for it.
// IAM-02
#[test]
fn the_manager_runs_under_its_documented_name() {
    let site = Arc::new(Site::new("e2e-name").unwrap());
    let cloud = Cloud::start(&site).unwrap();
    let unit = Unit::new(&site, &cloud, "name").unwrap();
    let name = unit.dir().join("aos_iamanager");
    std::os::unix::fs::symlink(binaries::find("aos").unwrap(), &name).unwrap();
    let mut command = unit.command(&name).unwrap();
    command.arg("-p").arg("-c").arg(unit.dir().join("iam.cfg")).stdout(Stdio::null());
    let running = Running(command.spawn().unwrap());
    wait_for_or_last("its answer", LIMIT, || {
        let mut ask = Command::new(binaries::find("aos").unwrap());
        let output = ask.args(["iam", "nodes", "--json", "--run-dir"]).arg(unit.run_dir()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains("\"main\"") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    let process = std::fs::read_to_string(format!("/proc/{}/comm", running.0.id())).unwrap();
    assert_eq!(process.trim(), "aos_iamanager");
}

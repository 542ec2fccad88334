//! Boxes are private, can be reached only through links, and leave nothing behind.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use aos_testbed::registry::ProcessId;
use aos_testbed::{Link, NodeBox, Process, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(10);

fn sleeper(node: &NodeBox, site: &Site) -> Process {
    let mut command = node.command("sleep").unwrap();
    command.arg("1000");
    Process::start("sleep", command, &site.dir().join("sleep.log")).unwrap()
}

fn output(node: &NodeBox, script: &str) -> String {
    let output = node.command("sh").unwrap().args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_box_has_its_own_network_run_folder_and_cgroups() {
    let site = Site::new("test-private").unwrap();
    let node = NodeBox::new(&site).unwrap();
    assert_eq!(output(&node, "ls /sys/class/net | grep -c . ; ip -o link | wc -l").lines().last(), Some("1"));
    assert_eq!(output(&node, "ls -A /run"), "");
    for line in output(&node, "cat /proc/self/cgroup").lines() {
        let path = line.rsplit(':').next().unwrap();
        assert!(path == "/" || path == "/unit", "{line}");
    }
    // A runtime must be able to make limits: memory and pids controllers are there, in version 1 or 2.
    output(
        &node,
        "cd /sys/fs/cgroup; if [ -e cgroup.controllers ]; then grep -q memory cgroup.subtree_control; \
         else mkdir memory/x && test -e memory/x/memory.limit_in_bytes && rmdir memory/x; fi",
    );
}

#[test]
fn links_carry_bytes_both_ways_and_can_be_cut() {
    let site = Site::new("test-link").unwrap();
    let node = NodeBox::new(&site).unwrap();

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let outward = Link::outward(&node, port).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    output(&node, &format!("echo hello | busybox nc 127.0.0.1 {port}"));
    assert_eq!(echo.join().unwrap(), "hello\n");
    drop(outward);

    let mut command = node.command("busybox").unwrap();
    command.args(["nc", "-ll", "-p", "9000", "-e", "cat"]);
    let _server = Process::start("nc", command, &site.dir().join("nc.log")).unwrap();
    let inward = Link::inward(&node, "127.0.0.1:9000".parse().unwrap()).unwrap();
    let ask = |text: &str| -> Option<String> {
        let mut stream = TcpStream::connect(inward.address()).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).ok()?;
        String::from_utf8(answer).ok()
    };
    wait_for("an echo", LIMIT, || ask("one")).unwrap();

    let mut open = TcpStream::connect(inward.address()).unwrap();
    open.set_read_timeout(Some(LIMIT)).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    inward.cut();
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0, "the open connection is broken");
    assert_eq!(ask("two"), None);
    inward.heal();
    assert_eq!(ask("three").as_deref(), Some("three"));
}

#[test]
fn nothing_is_left_when_a_site_ends() {
    let site = Site::new("test-end").unwrap();
    let node = NodeBox::new(&site).unwrap();
    let process = sleeper(&node, &site);
    output(&node, "mkdir -p /sys/fs/cgroup/*/deep/down 2>/dev/null; true");
    // A process that the box's own program left behind.
    output(&node, "busybox setsid sleep 1000 >/dev/null 2>&1 & true");
    let pids: Vec<ProcessId> = node.processes().into_iter().filter_map(ProcessId::of).collect();
    assert!(pids.len() >= 2, "{pids:?}");
    let cgroups = aos_testbed::registry::read(site.dir()).cgroups;
    assert!(!cgroups.is_empty());
    let dir = site.dir().to_path_buf();

    site.end().unwrap();
    drop(process);
    for pid in pids {
        wait_for("the processes to vanish", LIMIT, || (!pid.exists()).then_some(())).unwrap();
    }
    assert!(cgroups.iter().all(|dir| !dir.exists()), "{cgroups:?}");
    assert!(!dir.exists());
}

/// The owner is this test program run once more, as a child that never cleans up by itself.
#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "owner_that_waits_for_its_death", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let base = ["/var/tmp", "/tmp", "/dev/shm"].map(|base| PathBuf::from(base).join("aos-testbed"));
    let dir = wait_for("the child's site", LIMIT, || {
        base.iter().map(|base| base.join(format!("test-killed-{pid}"))).find(|dir| dir.join("up").exists())
    })
    .unwrap();
    let cgroups = aos_testbed::registry::read(&dir).cgroups;
    assert!(cgroups.iter().all(|dir| dir.exists()));

    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the helper to clear up", LIMIT, || (!dir.exists()).then_some(())).unwrap();
    assert!(cgroups.iter().all(|dir| !dir.exists()), "{cgroups:?}");
}

#[test]
#[ignore = "a part of nothing_is_left_when_the_owner_is_killed"]
fn owner_that_waits_for_its_death() {
    let site = Site::new("test-killed").unwrap();
    let node = NodeBox::new(&site).unwrap();
    let _sleeper = sleeper(&node, &site);
    fs::write(site.dir().join("up"), "").unwrap();
    wait_for("death", Duration::from_mins(1), || None::<()>).unwrap();
}

#[test]
fn the_next_site_clears_up_after_killed_helpers() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "owner_that_kills_its_helper", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.wait().unwrap();
    let site = Site::new("test-swept").unwrap();
    let base = site.dir().parent().unwrap();
    let others: Vec<PathBuf> = fs::read_dir(base)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("test-swept-"))
        .collect();
    assert_eq!(others, [site.dir()]);
}

#[test]
#[ignore = "a part of the_next_site_clears_up_after_killed_helpers"]
fn owner_that_kills_its_helper() {
    let site = Site::new("test-swept").unwrap();
    let node = NodeBox::new(&site).unwrap();
    std::mem::forget(sleeper(&node, &site));
    // Kill the helper first, then die without any clean-up.
    let holders = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = aos_testbed::process::arguments(pid);
        (arguments.get(1).map(String::as_str) == Some("hold")
            && arguments.get(2).map(PathBuf::from).as_deref() == Some(site.dir()))
        .then_some(pid)
    });
    for pid in holders.collect::<Vec<_>>() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    std::process::abort();
}

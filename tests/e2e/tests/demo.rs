//! The demo does what it says and leaves nothing behind, however it ends.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use aos_testbed::{binaries, wait_for_or_last};

/// Each test compares the whole host before and after, so they must not run at once.
static ONE: Mutex<()> = Mutex::new(());

/// Everything that a demo could leave on the host.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    links: String,
    rules: String,
    mounts: Vec<String>,
    folders: Vec<String>,
    cgroups: String,
    processes: Vec<String>,
}

fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default()
}

fn host() -> Host {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let own = binaries::folder().unwrap().display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?.display().to_string();
        let name = program.strip_prefix(&own)?.to_owned();
        matches!(name.as_str(), "/aos" | "/aos-cloud" | "/aos-box" | "/aos-demo").then_some(name)
    });
    Host {
        links: output("ip", &["-o", "link"]),
        rules: output("nft", &["list", "ruleset"]),
        mounts: mounts.lines().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect(),
        folders: output(
            "find",
            &["/var/tmp/aos-testbed", "/dev/shm/aos-testbed", "-maxdepth", "1", "-name", "demo-*"],
        )
        .lines()
        .map(str::to_owned)
        .collect(),
        cgroups: output("find", &["/sys/fs/cgroup", "-name", "aosbox-demo-*"]),
        processes: processes.collect(),
    }
}

fn expect(before: &Host, what: &str) {
    wait_for_or_last(what, Duration::from_secs(10), || {
        let now = host();
        if now == *before { Ok(()) } else { Err(format!("{now:#?}\nbefore: {before:#?}")) }
    })
    .unwrap();
}

// REL-01
#[test]
fn ends_by_itself_with_success_and_leaves_nothing() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = host();
    let output = Command::new(binaries::find("aos-demo").unwrap()).env("DEMO_EXIT", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the service answers") && text.contains("active"), "{text}");
    expect(&before, "the host to be as before");
}

// REL-01
#[test]
fn a_demo_that_fails_ends_with_failure_and_leaves_nothing() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = host();
    // All programs are there, but none of an operator's commands succeeds.
    let programs = std::env::temp_dir().join(format!("aos-e2e-demo-{}", std::process::id()));
    fs::create_dir_all(&programs).unwrap();
    for name in ["aos", "aos-box", "aos-cloud"] {
        std::os::unix::fs::symlink(binaries::find(name).unwrap(), programs.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/bin/false", programs.join("aosctl")).unwrap();
    let output = Command::new(binaries::find("aos-demo").unwrap())
        .env("DEMO_EXIT", "1")
        .env("AOS_BIN_DIR", &programs)
        .output()
        .unwrap();
    fs::remove_dir_all(&programs).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("The demo failed"), "{text}");
    expect(&before, "the host to be as before");
}

/// A demo that does not outlive its test, however that ends.
struct Demo(std::process::Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ctrl_c_and_kill_leave_nothing() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for signal in ["INT", "KILL"] {
        let before = host();
        let child = Command::new(binaries::find("aos-demo").unwrap())
            .env_remove("DEMO_EXIT")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut demo = Demo(child);
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Ctrl-C stops the demo")), "the demo ended early");
        assert!(
            Command::new("kill").args(["-s", signal, &demo.0.id().to_string()]).status().unwrap().success()
        );
        let status = demo.0.wait().unwrap();
        assert_eq!(status.success(), signal == "INT", "{signal}: {status}");
        expect(&before, "the host to be as before");
    }
}

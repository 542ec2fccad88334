//! Signals and the notify socket, seen from outside: this test program starts itself as the supervised one.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aos_supervise::{Shutdown, TaskTree, child_env_without_notify, notify_ready, notify_stopping};

/// Name of the test below that plays the supervised program, and the variable that tells how.
const PLAYER: &str = "supervised_program";
const ROLE: &str = "AOS_SUPERVISE_TEST_ROLE";

#[test]
fn supervised_program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().unwrap();
        let mut tree = TaskTree::new(shutdown);
        tree.spawn("worker", move |stop| async move {
            stop.wait().await;
            println!("stopping");
            notify_stopping();
            if role == "stuck" {
                std::future::pending::<()>().await;
            }
        });
        let leaks = child_env_without_notify().any(|(name, _)| name == "NOTIFY_SOCKET");
        assert!(!leaks);
        notify_ready();
        println!("ready");
        tree.run(Duration::from_mins(1)).await
    });
    std::process::exit(i32::from(ended.is_err()));
}

fn start(role: &str, notify: &std::path::Path) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", PLAYER, "--nocapture"])
        .env(ROLE, role)
        .env("NOTIFY_SOCKET", notify)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn a_signal_stops_in_order_and_the_manager_is_told() {
    for name in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut child, mut lines) = start("good", &dir.path().join("notify"));
        assert_eq!(receive(&socket), "READY=1\n");
        assert!(lines.any(|line| line.ends_with("ready")));
        signal(&child, name);
        assert_eq!(receive(&socket), "STOPPING=1\n");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_second_signal_leaves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut child, mut lines) = start("stuck", &dir.path().join("notify"));
    assert!(lines.any(|line| line.ends_with("ready")));
    signal(&child, "TERM");
    assert!(lines.any(|line| line.ends_with("stopping")));
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

//! The keeper as its clients see it: a real process on a real socket, with `sh` in the place of the OCI
//! runtime (it too leaves a detached process and a file with its ID behind).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod commands;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use aos_keep::index::{Event, Record, Records, index_of, seconds};
use aos_keep::protocol::{Exit, Log, Op, Outcome, Start};
use aos_keep::{Client, old_generation, process};

const LONG: Duration = Duration::from_secs(30);

struct Keeper {
    dir: tempfile::TempDir,
    child: Child,
}

impl Keeper {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = launch(dir.path(), options);
        Self { dir, child }
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(self.dir.path(), &[]);
    }

    fn client(&self) -> Client {
        wait_for(|| Client::connect(self.dir.path()).ok())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A start of `script` as the detached process.
    fn order(&self, id: &str, script: &str) -> Start {
        let pid_file = self.path(&format!("{id}.pid"));
        // The shell in the runtime's place must not collect the process itself, so that waits a moment.
        let command = format!(
            "sh -c 'while ! test -s {pid}; do :; done; {script}' & echo $! > {pid}",
            pid = pid_file.display()
        );
        Start {
            id: id.to_owned(),
            argv: vec!["/bin/sh".into(), "-c".into(), command],
            pid_file,
            log: Log { path: self.path(&format!("{id}.log")), max_bytes: 1000 },
            env: vec!["PATH=/usr/bin:/bin".into(), "COLOUR=blue".into()],
        }
    }

    fn run(&self, client: &mut Client, id: &str, script: &str) -> i32 {
        match client.request(Op::Start(self.order(id, script))).unwrap() {
            Outcome::Started { pid, .. } => pid,
            other => panic!("not started: {other:?}"),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(self.dir.path())
            && let Ok(Outcome::List { watched, .. }) = client.request(Op::List)
        {
            for process in watched {
                kill(process.pid);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(dir: &Path, options: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_aos-keep")).arg("--dir").arg(dir).args(options).spawn().unwrap()
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

#[allow(clippy::disallowed_methods, reason = "polls a condition with a deadline")]
fn wait_for<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "condition not met in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn list(client: &mut Client) -> (Vec<String>, Vec<Exit>) {
    match client.request(Op::List).unwrap() {
        Outcome::List { watched, exits } => (watched.into_iter().map(|w| w.id).collect(), exits),
        other => panic!("no list: {other:?}"),
    }
}

#[test]
fn exit_codes_and_signals_are_pushed_and_kept_until_acknowledged() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let pid = keeper.run(&mut client, "coded", "exit 7");
    let exit = client.next_exit(LONG).unwrap();
    assert_eq!((exit.id.as_str(), exit.pid, exit.code, exit.signal), ("coded", pid, Some(7), None));

    let pid = keeper.run(&mut client, "killed", "exec sleep 600");
    kill(pid);
    let exit = client.next_exit(LONG).unwrap();
    assert_eq!((exit.id.as_str(), exit.code, exit.signal), ("killed", None, Some(9)));

    let (watched, exits) = list(&mut client);
    assert!(watched.is_empty());
    assert_eq!(exits.len(), 2);
    client.request(Op::Ack { id: "killed".into(), pid: 1 }).unwrap();
    assert_eq!(list(&mut client).1.len(), 2, "an acknowledgement of another process is no acknowledgement");
    client.request(Op::Ack { id: "killed".into(), pid }).unwrap();
    assert_eq!(list(&mut client).1.len(), 1);
}

#[test]
fn an_exit_while_no_client_is_there_is_found_later_and_after_a_restart_of_the_keeper() {
    let mut keeper = Keeper::start();
    let mut client = keeper.client();
    let gate = keeper.path("gate");
    let pid = keeper.run(
        &mut client,
        "late",
        &format!("while ! test -e {}; do sleep 0.01; done; exit 3", gate.display()),
    );
    drop(client);
    let start = process::start_time(pid).unwrap();
    fs::write(&gate, "").unwrap();
    wait_for(|| (!process::is_running(pid, start)).then_some(()));
    wait_for(|| keeper.path("exits/late").exists().then_some(()));
    keeper.restart();
    let (_, exits) = list(&mut keeper.client());
    assert_eq!(exits.iter().map(|e| (e.id.as_str(), e.code)).collect::<Vec<_>>(), [("late", Some(3))]);
}

#[test]
fn a_restarted_keeper_takes_up_what_runs_and_its_exit_is_noticed_without_status() {
    let mut keeper = Keeper::start();
    let mut client = keeper.client();
    let pid = keeper.run(&mut client, "running", "exec sleep 600");
    let start = process::start_time(pid).unwrap();
    keeper.restart();
    assert!(process::is_running(pid, start), "the process outlives the keeper");
    let mut client = keeper.client();
    assert_eq!(list(&mut client).0, ["running"]);
    let adopt = Op::Adopt { id: "running".into(), pid, start_time: start };
    assert_eq!(client.request(adopt).unwrap(), Outcome::Adopted);
    kill(pid);
    let exit = client.next_exit(LONG).unwrap();
    assert_eq!((exit.id.as_str(), exit.pid, exit.code, exit.signal), ("running", pid, None, None));
}

#[test]
fn a_process_that_is_gone_or_another_one_is_not_adopted() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let own = i32::try_from(std::process::id()).unwrap();
    let wrong = process::start_time(own).unwrap() + 1;
    let outcome = client.request(Op::Adopt { id: "other".into(), pid: own, start_time: wrong }).unwrap();
    assert_eq!(outcome, Outcome::Gone);
    assert_eq!(list(&mut client).1.len(), 1, "its end is reported with unknown status");
}

#[test]
fn output_and_environment_reach_the_capped_log() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    keeper.run(&mut client, "talker", "echo out $COLOUR; echo err >&2; kill -s TERM $$; exit 1");
    let exit = client.next_exit(LONG).unwrap();
    assert_eq!(exit.signal, Some(15), "the process starts with SIGTERM neither blocked nor ignored");
    assert_eq!(fs::read_to_string(keeper.path("talker.log")).unwrap(), "out blue\nerr\n");

    let log = keeper.path("flood.log");
    keeper.run(&mut client, "flood", "while :; do echo 0123456789; sleep 0.001; done");
    wait_for(|| old_generation(&log).exists().then_some(()));
    wait_for(|| fs::metadata(&log).is_ok_and(|meta| meta.len() < 1000).then_some(()));
    assert!(fs::metadata(old_generation(&log)).unwrap().len() <= 1000);
}

#[test]
fn standard_input_is_empty_and_no_device_of_the_host() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    // OCI runtimes give the standard streams away; of a device the whole host would notice.
    let script = "exec >out; stat -L -c %F /proc/self/fd/0; cat | wc -c";
    let mut order = keeper.order("reader", "");
    // A shell gives `/dev/null` to what it puts into the background; the runtime does not.
    order.argv =
        vec!["/bin/sh".into(), "-c".into(), format!("cd {}; {script}; exit 3", keeper.dir.path().display())];
    assert!(matches!(client.request(Op::Start(order)).unwrap(), Outcome::CommandFailed { status: 3 }));
    assert_eq!(fs::read_to_string(keeper.path("out")).unwrap(), "fifo\n0\n");
}

fn records(log: &Path) -> Vec<Record> {
    Records::new(fs::read(index_of(log)).unwrap_or_default().as_slice()).collect()
}

fn now() -> u64 {
    seconds(std::time::SystemTime::now())
}

// SM-40, SM-41
#[test]
fn the_index_tells_when_lines_were_written_whoever_was_alive() {
    let mut keeper = Keeper::start();
    let mut client = keeper.client();
    let (log, gates) = (keeper.path("dated.log"), [keeper.path("gate1"), keeper.path("gate2")]);
    let [first, second] =
        gates.each_ref().map(|gate| format!("while ! test -e {}; do sleep 0.01; done;", gate.display()));
    let began = now();
    let pid = keeper.run(&mut client, "dated", &format!("echo one; {first} echo two; {second} exit 3"));
    let covers = |size| records(&log).iter().any(|r| r.event == Event::Written && r.offset == size);
    wait_for(|| covers(4).then_some(()));
    let one = now();
    wait_for(|| (now() > one + 1).then_some(()));

    // The second line is written while no keeper is there.
    keeper.child.kill().unwrap();
    keeper.child.wait().unwrap();
    let from = now();
    fs::write(&gates[0], "").unwrap();
    wait_for(|| fs::read_to_string(&log).unwrap().contains("two").then_some(()));
    let till = now();
    wait_for(|| (now() > till + 1).then_some(()));
    keeper.child = launch(keeper.dir.path(), &[]);
    wait_for(|| covers(8).then_some(()));
    let seen = records(&log);
    let times: Vec<u64> = seen.iter().filter(|r| r.event == Event::Written).map(|r| r.at).collect();
    assert!(
        times.len() == 2 && (began..=one).contains(&times[0]) && (from..=till).contains(&times[1]),
        "{seen:?}"
    );
    assert_eq!((seen[0].offset, seen[0].event), (0, Event::Started));

    // A stop on purpose and the end of one that is no child are told apart from a crash with a code.
    let mut client = keeper.client();
    client.request(Op::Stopping { id: "dated".into() }).unwrap();
    kill(pid);
    client.next_exit(LONG).unwrap();
    wait_for(|| records(&log).last().is_some_and(|r| r.event == Event::Stopped).then_some(()));
    keeper.run(&mut client, "dated", "echo three; exit 3");
    client.next_exit(LONG).unwrap();
    let last: Vec<(u64, Event)> = records(&log).iter().rev().take(3).map(|r| (r.offset, r.event)).collect();
    assert_eq!(last, [(14, Event::Exited(3)), (14, Event::Written), (8, Event::Started)]);
}

#[test]
fn unreadable_and_endless_lines_hurt_only_their_sender() {
    use std::io::{Read, Write};
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let mut bad = UnixStream::connect(keeper.path("keep.sock")).unwrap();
    bad.write_all(b"{\"seq\":1,\"op\":\"explode\"}\n").unwrap();
    let mut answer = [0u8; 64];
    assert!(bad.read(&mut answer).unwrap() > 0);
    while bad.write_all(&[b'x'; 8192]).is_ok() {}
    list(&mut client);
}

#[test]
fn the_service_manager_hears_when_clients_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aos-keep"));
    let child = command.arg("--dir").arg(dir.path()).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let keeper = Keeper { dir, child };
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1\n");
    Client::connect(keeper.dir.path()).expect("served without waiting");
}

#[test]
fn sigterm_ends_the_keeper_and_leaves_the_process_alone() {
    let mut keeper = Keeper::start();
    let mut client = keeper.client();
    let pid = keeper.run(&mut client, "stays", "exec sleep 600");
    let start = process::start_time(pid).unwrap();
    let keeper_pid = nix::unistd::Pid::from_raw(i32::try_from(keeper.child.id()).unwrap());
    nix::sys::signal::kill(keeper_pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(keeper.child.wait().unwrap().success());
    assert!(process::is_running(pid, start));
    kill(pid);
}

#[test]
fn a_second_keeper_for_the_same_folder_ends_at_once() {
    let keeper = Keeper::start();
    keeper.client();
    assert!(!launch(keeper.dir.path(), &[]).wait().unwrap().success());
}

//! Runtime commands that fail, hang, or end in an unusual order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use aos_keep::process;
use aos_keep::protocol::{Op, Outcome};

use crate::{Keeper, LONG, list, wait_for};

#[test]
fn failing_commands_and_bad_requests_watch_nothing() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let mut order = keeper.order("bad", "true");
    order.argv = vec!["/bin/sh".into(), "-c".into(), "exit 5".into()];
    assert_eq!(client.request(Op::Start(order.clone())).unwrap(), Outcome::CommandFailed { status: 5 });
    order.argv = vec!["/nonexistent/runtime".into()];
    client.request(Op::Start(order.clone())).unwrap_err();
    order.id = "../escape".into();
    client.request(Op::Start(order)).unwrap_err();
    assert_eq!(list(&mut client), (vec![], vec![]));
    let mode = fs::metadata(keeper.path("keep.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_same_name_is_not_started_twice() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    keeper.run(&mut client, "one", "exec sleep 600");
    client.request(Op::Start(keeper.order("one", "exec sleep 600"))).unwrap_err();
}

#[test]
fn a_process_that_ends_before_its_command_is_not_lost() {
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let mut order = keeper.order("quick", "");
    // The process is orphaned at once and ends long before the command that knows its number.
    let gate = keeper.path("gate");
    order.argv[2] = format!(
        "( (echo $$ >/dev/null; sh -c 'echo $$ > {pid}; exit 6') & ); while ! test -s {pid}; do :; done; \
         read p < {pid}; while test -e /proc/$p; do :; done; echo > {gate}",
        pid = order.pid_file.display(),
        gate = gate.display(),
    );
    assert!(matches!(client.request(Op::Start(order)).unwrap(), Outcome::Started { .. }));
    let exit = client.next_exit(LONG).unwrap();
    assert_eq!((exit.id.as_str(), exit.code), ("quick", Some(6)));
}

#[test]
fn a_list_waits_for_what_is_being_started() {
    use std::io::Write;
    let keeper = Keeper::start();
    let mut client = keeper.client();
    let gate = keeper.path("gate");
    let mut order = keeper.order("slow", "exec sleep 600");
    let wait = format!("while ! test -e {}; do sleep 0.01; done; ", gate.display());
    order.argv[2] = wait + &order.argv[2];
    // Asked for by a client that goes away, as a killed manager does.
    let mut other = UnixStream::connect(keeper.path("keep.sock")).unwrap();
    let request = aos_keep::protocol::Request { seq: 1, op: Op::Start(order) };
    other.write_all(format!("{}\n", serde_json::to_string(&request).unwrap()).as_bytes()).unwrap();
    wait_for(|| keeper.path("slow.log").exists().then_some(()));
    drop(other);
    let opener = std::thread::spawn(move || fs::write(gate, "").unwrap());
    assert_eq!(list(&mut client).0, ["slow"]);
    opener.join().unwrap();
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_started_and_hinders_nobody() {
    let keeper = Keeper::start_with(&["--command-limit", "5000"]);
    let pids_file = |id: &str| keeper.path(&format!("{id}.pids"));
    // Each leaves a process in its group and ignores a polite signal; the second has told its process before.
    let orders = ["hangs", "told"].map(|id| {
        let mut order = keeper.order(id, "");
        let tell =
            if id == "told" { format!("echo $! > {};", order.pid_file.display()) } else { String::new() };
        order.argv[2] =
            format!("trap '' TERM; sleep 600 & echo $$ $! > {}; {tell} wait", pids_file(id).display());
        order
    });
    let pids = |id: &str| {
        wait_for(|| {
            let text = fs::read_to_string(pids_file(id)).ok().filter(|text| text.ends_with('\n'))?;
            Some(text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        })
    };
    let waiting = orders.clone().map(|order| {
        let mut client = keeper.client();
        std::thread::spawn(move || client.request(Op::Start(order)).unwrap())
    });
    let hanging: Vec<(i32, Option<u64>)> =
        ["hangs", "told"].iter().flat_map(|id| pids(id)).map(|pid| (pid, process::start_time(pid))).collect();

    let mut client = keeper.client();
    keeper.run(&mut client, "fine", "exec sleep 600");
    assert_eq!(list(&mut client), (vec!["fine".to_owned()], vec![]), "the list waits for all that starts");
    for outcome in waiting {
        assert_eq!(outcome.join().unwrap(), Outcome::CommandFailed { status: 128 + 9 });
    }
    for (pid, start) in hanging {
        wait_for(|| (!start.is_some_and(|start| process::is_running(pid, start))).then_some(()));
    }
    for id in ["hangs", "told"] {
        keeper.run(&mut client, id, "exec sleep 600");
    }
    assert_eq!(list(&mut client).0, ["fine", "hangs", "told"], "the names are free again");
}

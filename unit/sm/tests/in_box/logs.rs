//! Logs as CM asks for them: of instances, of their crashes, of the system.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use aos_keep::process;
use aos_unit_api::common::v2::InstanceFilter;
use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

/// Every instance of an item.
pub fn log_filter(item: &str) -> InstanceFilter {
    InstanceFilter { item_id: item.into(), instance: -1, ..Default::default() }
}

/// Status of an answer, and its lines with their times.
pub async fn log_answer(sm: &Sm, name: &'static str) -> (String, Vec<(jiff::Timestamp, String)>) {
    let parts = wait_for("all parts", || {
        let mut parts: Vec<wire::LogData> = Vec::new();
        for message in sm.cm.messages() {
            if let FromSm::Log(log) = message
                && log.correlation_id == name
            {
                parts.push(log);
            }
        }
        let count = parts.first()?.part_count;
        (parts.len() as u64 >= count).then_some(parts)
    })
    .await;
    let mut lines = Vec::new();
    for part in &parts {
        let mut text = String::new();
        if !part.data.is_empty() {
            flate2::read::GzDecoder::new(part.data.as_slice()).read_to_string(&mut text).unwrap();
        }
        for line in text.lines() {
            let (time, line) = line.split_once(' ').unwrap();
            let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", time).unwrap();
            lines.push((time.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp(), line.to_owned()));
        }
    }
    (parts[0].status.clone(), lines)
}

fn wire_time(time: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

// D43, SM-40, SM-41, SM-59, PRO-85, DIS-32: each line has its time, `from` is inclusive and `till` exclusive, and of a
// crash the lines of the crashed run are told.
pub async fn log_lines_have_times_and_crashes_are_told() {
    let mut sm = Sm::start("crun").await;
    let script = "/bin/busybox cat /state.dat; if ! test -s /state.dat; then echo second > /state.dat; \
                  echo early; /bin/busybox sleep 3; echo late; exit 7; fi; echo runs; exec /bin/busybox sleep 1000";
    let image = sm.blobs.simple(script, with_tmp());
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.state_path = "a/state.dat".into();
    sm.cm.update(vec![info.clone()], vec![]).await;
    sm.cm.wait_status(0, |status| status.error.as_ref().is_some_and(|error| error.exit_code == 7)).await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the second run", || sm.log(&id).ends_with("runs\n").then_some(())).await;

    let instance = |name: &str, from, till| {
        let (correlation_id, filter) = (name.to_owned(), Some(log_filter("item")));
        ToSm::InstanceLogRequest(wire::InstanceLogRequest { correlation_id, filter, from, till })
    };
    let crash = |name: &str, from, till| {
        let (correlation_id, filter) = (name.to_owned(), Some(log_filter("item")));
        ToSm::InstanceCrashLogRequest(wire::InstanceCrashLogRequest { correlation_id, filter, from, till })
    };
    let words =
        |lines: &[(jiff::Timestamp, String)]| lines.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>();
    sm.cm.send(instance("all", None, None)).await;
    let (status, all) = log_answer(&sm, "all").await;
    assert_eq!(
        (status.as_str(), words(&all)),
        ("ok", ["early", "late", "second", "runs"].map(String::from).to_vec())
    );
    let (early, late) = (all[0].0, all[1].0);
    let apart = late.duration_since(early).as_secs();
    assert!((2..=4).contains(&apart), "written three seconds apart, told as {apart}");
    assert!(jiff::Timestamp::now().duration_since(late).as_secs() < 30);

    // The Service Manager may have been away in between.
    sm.kill();
    sm.launch();
    wait_for("another stream", || (sm.cm.count("RegisterSM") == 2).then_some(())).await;
    sm.cm.send(instance("before", Some(wire_time(early)), Some(wire_time(late)))).await;
    assert_eq!(words(&log_answer(&sm, "before").await.1), ["early"]);
    sm.cm.send(instance("after", Some(wire_time(late)), None)).await;
    assert_eq!(words(&log_answer(&sm, "after").await.1), ["late", "second", "runs"]);
    sm.cm.send(instance("none", None, Some(wire_time(early)))).await;
    assert_eq!(log_answer(&sm, "none").await, ("empty".to_owned(), vec![]));

    sm.cm.send(crash("crash", None, None)).await;
    let (status, lines) = log_answer(&sm, "crash").await;
    assert_eq!(status, "ok");
    assert_eq!(words(&lines), ["early", "late", "process exited with code 7"]);
    sm.cm.send(crash("sooner", None, Some(wire_time(early)))).await;
    assert_eq!(log_answer(&sm, "sooner").await.0, "absent");

    // A stop on purpose is none.
    let crashed = Some(wire_time(lines[2].0 + jiff::SignedDuration::from_secs(1)));
    let pid = number(&sm.instance(0).await["pid"]);
    info.version = "1.0.1".into();
    sm.cm.update(vec![info], vec![]).await;
    wait_for("the first process to end", || (process::start_time(pid).is_none()).then_some(())).await;
    sm.cm.wait_status(0, |status| status.version == "1.0.1" && status.state == "active").await;
    sm.cm.send(crash("later", crashed, None)).await;
    assert_eq!(log_answer(&sm, "later").await.0, "absent");

    // The logs of an instance go with it.
    let folder = sm.folder.path().join("work/logs");
    assert!(fs::read_dir(&folder).unwrap().count() >= 2);
    sm.cm.update(vec![], vec![0]).await;
    wait_for("the logs to go", || (fs::read_dir(&folder).unwrap().count() == 0).then_some(())).await;
}

// D43, SM-39, DIS-32: a real journald in the box.
pub async fn the_system_log_comes_from_the_journal() {
    let sm = Sm::start("crun").await;
    let request = |name: &str, from, till| {
        ToSm::SystemLogRequest(wire::SystemLogRequest { correlation_id: name.into(), from, till })
    };
    sm.cm.send(request("none", None, None)).await;
    let (status, _) = log_answer(&sm, "none").await;
    assert_eq!(status, "error", "no journal, no log");

    for folder in ["/run/systemd/journal", "/run/log/journal"] {
        fs::create_dir_all(folder).unwrap();
    }
    let mut journald = std::process::Command::new("/lib/systemd/systemd-journald").spawn().unwrap();
    let socket = Path::new("/run/systemd/journal/socket");
    let say = |text: &str| {
        let message = format!("MESSAGE={text}\nSYSLOG_IDENTIFIER=speaker\nPRIORITY=6\n");
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(message.as_bytes(), socket).is_ok().then_some(())
    };
    wait_for("journald", || say("early words")).await;
    let now = jiff::Timestamp::now;
    let begun = now().as_second();
    wait_for("three seconds", || (now().as_second() >= begun + 3).then_some(())).await;
    say("late words").unwrap();
    let flushed = std::process::Command::new("journalctl").arg("--sync").status().unwrap();
    assert!(flushed.success());
    let spoken = |lines: Vec<(jiff::Timestamp, String)>| {
        lines.into_iter().filter(|(_, line)| line.starts_with("speaker ")).collect::<Vec<_>>()
    };
    sm.cm.send(request("all", None, None)).await;
    let (status, lines) = log_answer(&sm, "all").await;
    let lines = spoken(lines);
    assert_eq!((status.as_str(), lines.len()), ("ok", 2), "{lines:?}");
    assert_eq!((lines[0].1.as_str(), lines[1].1.as_str()), ("speaker early words", "speaker late words"));
    let late = Some(wire_time(lines[1].0));
    sm.cm.send(request("before", None, late)).await;
    assert_eq!(spoken(log_answer(&sm, "before").await.1), lines[..1]);
    sm.cm.send(request("after", late, None)).await;
    assert_eq!(spoken(log_answer(&sm, "after").await.1), lines[1..]);
    sm.cm.send(request("future", Some(wire_time(now() + jiff::SignedDuration::from_hours(1))), None)).await;
    assert_eq!(log_answer(&sm, "future").await.0, "empty");
    journald.kill().unwrap();
    journald.wait().unwrap();
}

/// Hands on what is printed, as fast as it is taken.
struct Pipe(SyncSender<String>);

impl Write for Pipe {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.send(String::from_utf8_lossy(text).into_owned());
        sent.map_err(|_| std::io::ErrorKind::BrokenPipe.into()).map(|()| text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The next line without its time.
fn next_of(lines: &Receiver<String>) -> String {
    let line = tokio::task::block_in_place(|| lines.recv_timeout(Duration::from_mins(1)).unwrap());
    line.split_once(' ').unwrap().1.trim_end().to_owned()
}

// CLO-23, SM-59: whoever follows a log and reads slowly misses nothing when the keeper cuts it; what the keeper itself
// lost is told.
pub async fn a_log_is_followed_over_the_keepers_cuts() {
    let sm = Sm::start("crun").await;
    let script = "i=0; while [ $i -lt 2500 ]; do echo line $i ....................................................................; \
                  i=$((i+1)); [ $((i%10)) != 0 ] || /bin/busybox sleep 0.025; done; exec /bin/busybox sleep 1000";
    let image = sm.blobs.simple(script, with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let log = sm.folder.path().join(format!("work/logs/{id}.log"));
    let (sender, lines): (_, Receiver<String>) = sync_channel(1);
    let shown = aos_sm::Shown::Instances(vec![log.clone()]);
    let follower = std::thread::spawn(move || aos_sm::print_log(&shown, 0, true, &mut Pipe(sender)));
    let (mut expected, mut lost, mut untold, mut pieces) = (0, 0, 0, 0);
    while expected < 2500 {
        // He is far behind when it is cut for the first time, and never catches up before the end.
        if expected == 10 {
            let old = aos_keep::files_of(&log)[2].clone();
            wait_for("a cut", || fs::metadata(&old).is_ok_and(|meta| meta.len() > 0).then_some(())).await;
        }
        let line = next_of(&lines);
        if line.starts_with("[aos] ") {
            lost += 1;
            pieces = 2;
            continue;
        }
        let number = line.strip_prefix("line ").and_then(|rest| rest.split_once(' ')?.0.parse::<u32>().ok());
        match number.filter(|number| line.ends_with("....") && *number >= expected) {
            Some(number) => {
                if pieces == 0 {
                    untold += number - expected;
                }
                expected = number + 1;
                pieces = 0;
            }
            // Beside what was lost there may be half a line.
            None if pieces > 0 => pieces -= 1,
            None => panic!("'{line}' instead of line {expected}"),
        }
    }
    // What is written in the very moment of a cut nobody can count: a burst of lines at each of them, at most.
    assert!(untold <= 40, "{untold} lines are missing and nobody told");
    assert!(lost <= 3, "{lost} times something was lost");
    assert_eq!(sm.instance(0).await["starts"], 1);
    drop(lines);
    sm.cm.update(vec![], vec![0]).await;
    drop(sm);
    drop(follower);
}

//! Services that mean harm, all at once, beside one that answers: a fork bomb, memory hogs, fillers of every
//! writable place, a flood of log lines, one that kills whatever it can, one that opens what it can.
//!
//! How fast the neighbour answers is printed; what is asserted is that it always does, that each offender is held
//! by its limit, that it is told what can be told, and that all of them end without a trace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_keep::process;
use aos_sm::parts::{Grace, Image, Runtime};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::rig::{Rig, wait_for};

const NOW: Grace = Grace::Of(Duration::ZERO);
const NEIGHBOUR: &str =
    "/bin/busybox mkdir /tmp/w; echo hello > /tmp/w/index.html; exec /bin/busybox httpd -f -p 8080 -h /tmp/w";

/// Names and shell scripts. The first process never forks once its children take every place: it would end.
const OFFENDERS: [(&str, &str); 5] = [
    ("forks", "f() { f | f & }; f; f; f; exec /bin/busybox sleep 1000"),
    // Each bite is killed, the shell around it goes on.
    (
        "memory",
        "while :; do /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1 || echo bitten $?; done",
    ),
    (
        "disks",
        "for place in /tmp /dev/shm /storage/no/such; do /bin/busybox dd if=/dev/zero of=$place/f bs=64k; done; \
         echo tmp=$(/bin/busybox stat -c %s /tmp/f); exec /bin/busybox sleep 1000",
    ),
    (
        "lines",
        "exec /bin/busybox yes 'a line that nobody wants to read, again and again and again and again'",
    ),
    (
        "killer",
        "trap '' TERM HUP INT; kill -9 1; kill -9 $PPID; kill -9 -1; \
         p=2; while [ $p -lt 3000 ]; do kill -9 $p 2>/dev/null; p=$((p+1)); done; echo tired; \
         while :; do /bin/busybox sleep 1000; done",
    ),
];

/// Opens files, then sockets, until it may no more.
const OPENER: &str = "
import socket, time
kept, counts = [], []
for make in (lambda: open('/opener.py'), lambda: socket.socket()):
    kept.clear()
    try:
        while True: kept.append(make())
    except OSError as error: counts.append((len(kept), error.errno))
kept.clear()
print('got', *counts, flush=True)
while True: time.sleep(1000)
";

/// Asks the neighbour so many times from inside its network namespace; answers the times taken, sorted.
fn ask(namespace: &Path, times: usize) -> Vec<Duration> {
    let file = File::open(namespace).unwrap();
    let work = move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        let mut taken: Vec<Duration> = (0..times)
            .map(|_| {
                let begun = Instant::now();
                let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                assert!(text.ends_with("hello\n"), "{text}");
                begun.elapsed()
            })
            .collect();
        taken.sort();
        taken
    };
    std::thread::spawn(work).join().unwrap()
}

fn limited(item: &str) -> Value {
    // What lies in `/tmp` and `/dev/shm` counts as memory; here the size of the places is to be met first.
    let ram = if item == "disks" { 268_435_456 } else { 67_108_864 };
    json!({"baseLayerIsNodeRootfs": item == "opener", "quotas": {"pidsLimit": 64, "ramLimit": ram, "tmpLimit": 4_194_304, "noFileLimit": 256}})
}

// REL-33
pub async fn hostile_services_are_contained() {
    let mut rig = Rig::with("crun", true, |config| {
        config.default_pids_limit = Some(64);
        config.host_binds = Some(["bin", "sbin", "lib", "lib64", "usr"].map(str::to_owned).into());
    })
    .await;
    let neighbour =
        rig.job(0, NEIGHBOUR, json!({"baseLayerIsNodeRootfs": false, "quotas": {"tmpLimit": 1_048_576}}));
    let namespace = neighbour.network.as_ref().unwrap().namespace.clone();
    let (first, pid) = rig.start(&neighbour).await;
    let start = process::start_time(pid).unwrap();
    let listens =
        || fs::read_to_string(format!("/proc/{pid}/net/tcp6")).is_ok_and(|text| text.contains(":1F90"));
    wait_for("the neighbour", || listens().then_some(())).await;
    let alone = ask(&namespace, 200);

    let mut ids = Vec::new();
    for (number, (name, script)) in (1..).zip(OFFENDERS) {
        let (id, _) = rig.start(&rig.job(number, script, limited(name))).await;
        ids.push(id);
    }
    fs::create_dir_all(rig.path("opener")).unwrap();
    fs::write(rig.path("opener/opener.py"), OPENER).unwrap();
    let mut opener = rig.job_of(20, &["/usr/bin/python3", "/opener.py"], limited("opener"));
    let layers = vec![rig.path("opener")];
    opener.image = Arc::new(Image { layers, ..Image::clone(&opener.image) });
    ids.push(rig.start(&opener).await.0);
    let [forks, memory, disks, lines, killer, opens] = ids.as_slice() else { panic!("{ids:?}") };
    let beside = ask(&namespace, 200);
    let middle = |taken: &[Duration]| taken[taken.len() / 2];
    eprintln!(
        "the neighbour's median answer: {:?} alone, {:?} beside the others",
        middle(&alone),
        middle(&beside)
    );

    // Each is held by its limit, and says so where it can.
    let count = |id: &str, file: &str| {
        let folder = rig.runtime.cgroups(id).pids.unwrap();
        fs::read_to_string(folder.join(file)).unwrap().trim().to_owned()
    };
    rig.printed(forks, "can't fork").await;
    assert!(count(forks, "pids.current").parse::<u32>().unwrap() <= 64);
    rig.printed(memory, "bitten 137").await;
    assert!(rig.printed(disks, "tmp=").await.contains("tmp=4194304\n"));
    let got = rig.printed(opens, "got ").await;
    let counts: Vec<u32> = got.split(['(', ',']).filter_map(|word| word.trim().parse().ok()).collect();
    assert!(counts.len() == 2 && counts.iter().all(|count| (200..=256).contains(count)), "{got}");
    assert_eq!(got.matches("24)").count(), 2, "too many open files, both times: {got}");
    rig.printed(killer, "tired").await;
    let flood = tokio::time::timeout(Duration::from_secs(40), rig.floods.recv()).await.unwrap().unwrap();
    assert_eq!(&flood.id, lines);
    assert!(flood.bytes > 65536, "{flood:?}");

    // The neighbour never noticed, the keeper goes on, and so does what starts and stops.
    assert!(process::is_running(pid, start));
    let (extra, _) = rig.start(&rig.job(50, "echo up; exec /bin/busybox sleep 1000", limited("extra"))).await;
    rig.printed(&extra, "up").await;
    for id in ids.iter().chain([&extra, &first]) {
        rig.runtime.stop(id, NOW).await.unwrap();
        rig.assert_nothing_is_left(id);
    }
    for file in aos_keep::files_of(&rig.runtime.log_path(lines)) {
        let size = fs::metadata(&file).map_or(0, |meta| meta.len());
        assert!(size <= 4 * rig.config.log_max_bytes, "{} has {size} bytes", file.display());
    }
}

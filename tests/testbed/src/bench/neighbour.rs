//! A service beside hostile ones: how much longer it takes to answer.
//!
//! A whole Unit. The neighbour is the small web server; beside it run a fork bomb, one that takes memory, one that fills
//! every place it can write to, a flood of log lines, one that kills whatever it can and one that only computes.
//! Questions are asked from the node, one connection each, before the offenders come and while they do their worst;
//! the ratio is that of the medians. BENCH_RUNS is the number of rounds (default 3).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::json;

use crate::bench::Rows;
use crate::interrupt::end_on_interrupt;
use crate::service::PORT;
use crate::stage::STEP_LIMIT;
use crate::wait::{pause, wait_for_or_last};
use crate::{Error, HttpService, Result, Site, Stage, http};

const SYSTEM_ID: &str = "neighbour-unit";
const NEIGHBOUR: &str = "neighbour";
const VERSION: &str = "1.0.0";
/// Questions of one measurement.
const QUESTIONS: usize = 400;
/// Time that offenders get to do their worst, and the node to be calm again.
const SETTLE: Duration = Duration::from_secs(5);

/// Names and what they do.
const OFFENDERS: [(&str, &str); 6] = [
    ("forks", "f() { f | f & }; f; f; f; exec /bin/busybox sleep 100000"),
    ("memory", "while :; do /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1; done"),
    (
        "disks",
        "while :; do for place in /tmp /dev/shm /storage; do \
         /bin/busybox dd if=/dev/zero of=$place/f bs=64k; /bin/busybox rm $place/f; done; done",
    ),
    (
        "lines",
        "exec /bin/busybox yes 'a line that nobody wants to read, again and again and again and again'",
    ),
    (
        "killer",
        "trap '' TERM HUP INT; while :; do kill -9 1; kill -9 $PPID; kill -9 -1; p=2; \
         while [ $p -lt 3000 ]; do kill -9 $p 2>/dev/null; p=$((p+1)); done; done",
    ),
    ("cpu", "while :; do :; done"),
];

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let runs = std::env::var("BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(3u64).max(1);
    let site = Arc::new(Site::new("bench-neighbour")?);
    let _done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| eprintln!("{text}");
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;
    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;
    let neighbour = HttpService::new(&site.dir().join(NEIGHBOUR), NEIGHBOUR, "hello")?;
    neighbour.publish(&stage.operator, VERSION)?;
    for (name, script) in OFFENDERS {
        let mut service = HttpService::with_handles(&site.dir().join(name), name)?;
        service.set_start(&format!("{script}\n"))?;
        service.set_config(&json!({
            "author": "bench", "baseLayerIsNodeRootfs": false,
            "runtimes": [{"codename": "crun"}, {"codename": "runc"}],
            "quotas": {"pidsLimit": 64, "ramLimit": 64 << 20, "tmpLimit": 4 << 20, "storageLimit": 4 << 20, "noFileLimit": 256},
        }))?;
        service.publish(&stage.operator, VERSION)?;
    }
    assign(&mut stage, NEIGHBOUR)?;
    let address = address(&stage)?;
    for round in 1..=runs {
        pause(SETTLE);
        let alone = ask(&stage, address)?;
        for (name, _) in OFFENDERS {
            assign(&mut stage, name)?;
        }
        pause(SETTLE);
        let beside = ask(&stage, address)?;
        eprintln!("round {round}: {alone:?} alone, {beside:?} beside the others");
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        rows.add_real("sm.neighbour.alone", "us", "one connection and answer, median", micros(alone));
        rows.add_ratio(
            "sm.neighbour.latency_ratio",
            "median answer of a web server beside six hostile services, against alone",
            micros(beside) / micros(alone),
        );
        for (name, _) in OFFENDERS {
            stage.operator.run(&["unassign", SYSTEM_ID, name])?;
        }
        wait_for_or_last("the offenders' end", STEP_LIMIT, || {
            let left = stage.unit.instances();
            if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
        })?;
    }
    stage.unit.check_running()?;
    drop(stage);
    site.end()
}

fn assign(stage: &mut Stage, item: &str) -> Result<()> {
    stage.operator.run(&["assign", SYSTEM_ID, item, "--instances", "1"])?;
    stage.wait_active(item, VERSION, STEP_LIMIT).map(drop)
}

/// Where the neighbour answers; it is the only instance yet.
fn address(stage: &Stage) -> Result<SocketAddr> {
    wait_for_or_last("the neighbour's address", STEP_LIMIT, || {
        let instances = stage.unit.instances();
        let ip = instances.first().and_then(|one| one.get("ip")?.as_str()?.parse::<IpAddr>().ok());
        ip.map(|ip| SocketAddr::new(ip, PORT)).ok_or_else(|| format!("{instances:?}"))
    })
}

/// Asks from the node's network; answers the median time.
fn ask(stage: &Stage, address: SocketAddr) -> Result<Duration> {
    let network = stage.unit.node().network()?;
    let work = move || {
        setns(network, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
        let mut times = Vec::new();
        for _ in 0..QUESTIONS {
            let begun = Instant::now();
            let answer = http::get(address, "/", STEP_LIMIT)?;
            times.push(begun.elapsed());
            if answer.text() != "hello\n" {
                return Err(std::io::Error::other(format!("'{}' instead of the page", answer.text())));
            }
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).copied().unwrap_or_default())
    };
    let asked = std::thread::spawn(work).join().unwrap_or_else(|_| Err(std::io::Error::other("it panicked")));
    asked.map_err(|error| Error::Unexpected(format!("the neighbour does not answer: {error}")))
}

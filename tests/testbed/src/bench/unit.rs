//! Memory, sizes and times of one Unit.
//!
//! BENCH_IDLE is the time between connecting and reading memory, seconds (default 60); BENCH_RUNS the number
//! of runs (default 5).

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::Rows;
use crate::error::Tried;
use crate::interrupt::end_on_interrupt;
use crate::stage::{STEP_LIMIT, since_desired_sent};
use crate::wait::pause;
use crate::{Daemon, Error, HttpService, Result, Site, Stage, binaries};

const CODENAME: &str = "bench";
const SYSTEM_ID: &str = "bench-unit";

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (idle, runs) = (Duration::from_secs(number("BENCH_IDLE", 60)), number("BENCH_RUNS", 5).max(1));
    let site = Arc::new(Site::new("bench")?);
    let _done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| eprintln!("{text}");
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;

    let program = binaries::find("aos")?;
    let size = fs::metadata(&program).tried(|| format!("cannot read {}", program.display()))?.len();
    rows.add("unit.binary.size", "bytes", "aos with cm, sm and iam, stripped", size);

    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;
    for run in 1..=runs {
        // A new item each time: nothing of it is on the Unit, and nothing has to be stopped for it.
        let codename = format!("{CODENAME}-{run}");
        let service = HttpService::new(&site.dir().join("service"), &codename, &codename)?;
        service.publish(&stage.operator, "1.0.0")?;
        stage.operator.run(&["assign", SYSTEM_ID, &codename])?;
        let status = stage.wait_active(&codename, "1.0.0", STEP_LIMIT)?;
        let time =
            since_desired_sent(&status).and_then(|time| u64::try_from(time).ok()).ok_or_else(|| {
                Error::Unexpected("the cloud does not tell when it sent desiredStatus".to_owned())
            })?;
        eprintln!("run {run}: active {time} ms after desiredStatus");
        let note =
            "desiredStatus sent to 'active' known in the cloud; a new item each time, one layer of 1 MB";
        rows.add("unit.desired_to_active", "ms", note, time);
    }
    for run in 2..=runs {
        stage.operator.run(&["unassign", SYSTEM_ID, &format!("{CODENAME}-{run}")])?;
    }
    stage.wait_status("one service to be left", STEP_LIMIT, |status| {
        let left = crate::stage::instances(status);
        if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
    })?;
    for run in 1..=runs {
        for daemon in Daemon::ALL.into_iter().rev() {
            stage.unit.stop(daemon)?;
        }
        stage.wait_status("the Unit to be offline", STEP_LIMIT, |status| {
            match crate::stage::word(status, "online_status").as_str() {
                "Online" => Err("still online".to_owned()),
                _ => Ok(()),
            }
        })?;
        let start = Instant::now();
        stage.unit.start_all()?;
        stage.wait_online(STEP_LIMIT)?;
        let time = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        rows.add(
            "unit.start_to_connected",
            "ms",
            "IAM, CM and SM started together, until online in the cloud",
            time,
        );
        eprintln!("run {run}: online after {time} ms; reading memory in {} s", idle.as_secs());
        pause(idle);
        stage.unit.check_running()?;
        add_memory(rows, &stage, idle)?;
    }
    drop(stage);
    site.end()
}

fn add_memory(rows: &mut Rows, stage: &Stage, idle: Duration) -> Result<()> {
    let memory = stage.unit.memory();
    let note =
        format!("{} s after start, one service running (not counted), keys in SoftHSM", idle.as_secs());
    let mut total = 0;
    let mut dirty = 0;
    for (word, one) in &memory {
        total += one.pss;
        dirty += one.private_dirty;
        let name = match word.as_str() {
            "iam" => "unit.idle.pss.iam",
            "cm" => "unit.idle.pss.cm",
            "sm" => "unit.idle.pss.sm",
            "keep" => "unit.idle.pss.keep",
            _ => "unit.idle.pss.other",
        };
        rows.add(name, "bytes", &note, one.pss);
    }
    for word in ["iam", "cm", "sm"] {
        if !memory.contains_key(word) {
            return Err(Error::Unexpected(format!("{word} does not run")));
        }
    }
    rows.add("unit.idle.pss.total", "bytes", &note, total);
    rows.add("unit.idle.private_dirty.total", "bytes", &note, dirty);
    Ok(())
}

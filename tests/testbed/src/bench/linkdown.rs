//! What a Communication Manager costs while its cloud is away and 1,000 messages wait for it.
//!
//! A real Unit gets 1,000 kept messages into its outbox, as it has them after a restart. Then the way to the
//! cloud is cut, the Communication Manager started, and the processor time of its process is read before and
//! after BENCH_LINKDOWN seconds (default 30). In the end the way is healed and every message has to arrive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{AosIdentity, Body, EnvVarStatus, Envelope, OverrideEnvVarsStatus};
use serde_json::Value;

use crate::bench::Rows;
use crate::interrupt::end_on_interrupt;
use crate::stage::STEP_LIMIT;
use crate::wait::{pause, wait_for_or_last};
use crate::{Daemon, Error, Result, Site, Stage, Unit, process};

const SYSTEM_ID: &str = "linkdown-unit";
const MESSAGES: u64 = 1000;
/// Time for all messages to arrive once the way is healed, and for the last pause before that.
const ARRIVAL_LIMIT: Duration = Duration::from_mins(3);

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let seconds = std::env::var("BENCH_LINKDOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let time = Duration::from_secs(seconds).max(Duration::from_secs(20));
    let site = Arc::new(Site::new("linkdown")?);
    let _done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| eprintln!("{text}");
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;
    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;

    stage.unit.stop(Daemon::Cm)?;
    stage.unit.set_cloud_link(false);
    fill_outbox(&stage.unit)?;
    stage.unit.start(Daemon::Cm)?;
    wait_for_or_last("the messages to wait", STEP_LIMIT, || waiting(&stage.unit, MESSAGES))?;

    let pid = stage.unit.pid(Daemon::Cm).ok_or_else(|| Error::Unexpected("cm does not run".to_owned()))?;
    let (before, started) = (process::processor_time(pid)?, Instant::now());
    pause(time);
    let (after, elapsed) = (process::processor_time(pid)?, started.elapsed());
    let percent = after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    waiting(&stage.unit, MESSAGES).map_err(Error::Unexpected)?;
    let note = format!(
        "of one core, cm with the link cut and {MESSAGES} messages waiting, over {} s with all attempts to connect",
        elapsed.as_secs()
    );
    rows.add_real("cm.linkdown.cpu", "percent", &note, percent);
    eprintln!("cm used {percent:.3} % of a core");

    stage.unit.set_cloud_link(true);
    wait_for_or_last("all messages to arrive", ARRIVAL_LIMIT, || {
        let cloud = cloud_of(&stage.unit)?;
        let kept = cloud.get("kept").and_then(Value::as_u64);
        if kept == Some(0) { Ok(()) } else { Err(format!("{cloud}")) }
    })?;
    stage.unit.check_running()?;
    drop(stage);
    site.end()
}

/// What the Communication Manager says of its link.
fn cloud_of(unit: &Unit) -> std::result::Result<Value, String> {
    let status = unit.status().map_err(|error| error.to_string())?;
    status.pointer("/cm/cloud").cloned().ok_or_else(|| format!("no link in {status}"))
}

/// Whether so many messages wait and no link stands.
fn waiting(unit: &Unit, messages: u64) -> std::result::Result<(), String> {
    let cloud = cloud_of(unit)?;
    let word = |key: &str| cloud.get(key).and_then(Value::as_str);
    let queued = cloud.get("queued").and_then(Value::as_u64);
    if word("state") == Some("connecting") && queued.is_some_and(|queued| queued >= messages) {
        return Ok(());
    }
    Err(cloud.to_string())
}

fn fill_outbox(unit: &Unit) -> Result<()> {
    let path = unit.dir().join("cm/cm.db");
    let failed = |error: &dyn std::error::Error| Error::Unexpected(format!("{}: {error}", path.display()));
    let system_id = SYSTEM_ID.parse().map_err(|error| failed(&error))?;
    let mut db = rusqlite::Connection::open(&path).map_err(|error| failed(&error))?;
    let transaction = db.transaction().map_err(|error| failed(&error))?;
    for instance in 0..MESSAGES {
        let status = EnvVarStatus {
            item: AosIdentity::by_id("3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41"),
            subject: AosIdentity::by_id("c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714"),
            instance,
            name: "LEVEL".to_owned(),
            error_info: None,
        };
        let body = Body::OverrideEnvVarsStatus(OverrideEnvVarsStatus { statuses: vec![status] });
        let envelope = Envelope::new(Clone::clone(&system_id), jiff::Timestamp::now(), body);
        let frame = aos_cloud_protocol::write(&envelope).map_err(|error| failed(&error))?;
        transaction
            .execute(
                "INSERT INTO outbox (txn, kind, frame) VALUES (?1, 'overrideEnvVarsStatus', ?2)",
                (envelope.header.txn.as_str(), frame),
            )
            .map_err(|error| failed(&error))?;
    }
    transaction.commit().map_err(|error| failed(&error))
}

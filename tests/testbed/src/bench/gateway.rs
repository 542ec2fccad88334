//! The cloud's gateway: memory of idle connections, handshakes, acknowledgements.
//!
//! The cloud, the virtual Units and the bare TLS server are processes of their own on this machine's
//! loopback. BENCH_UNITS is the number of connections whose memory is measured (default 10000; each needs a
//! file descriptor in two processes and a port).

mod swarm;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::Rows;
use crate::error::Tried;
use crate::interrupt::end_on_interrupt;
use crate::process::memory;
use crate::wait::pause;
use crate::{Cloud, Error, Result, Site, http};
use swarm::{Helper, number, prepare};

const UNITS: u64 = 10_000;
/// Connections of the message rows.
const SENDERS: u64 = 1000;
/// Units that connect at the same time.
const PARALLEL: u64 = 32;
/// Messages in a second whose acknowledgements are timed.
const LOAD: u64 = 1000;
const SEND_SECONDS: u64 = 15;
const HANDSHAKES: u64 = 2000;
const ROUNDS: usize = 5;
const ASK: Duration = Duration::from_secs(10);
/// Connecting so many at once is what the gateway spreads over time; here it shall not.
const LIMITS: [&str; 4] = ["--admissions-per-second", "100000", "--admission-burst", "1000000"];

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let units =
        std::env::var("BENCH_UNITS").ok().and_then(|text| text.parse().ok()).unwrap_or(UNITS).max(SENDERS);
    let site = Arc::new(Site::new("bench-gateway")?);
    let _done = end_on_interrupt(&site)?;
    let data = site.dir().join("cloud");
    eprintln!("registering {units} virtual Units");
    prepare(&data, units)?;

    let mut cloud = Cloud::start_with(&site, &LIMITS)?;
    let before = private_dirty(&cloud)?;
    let mut swarm = Helper::run(&site, &data, cloud.endpoints().ports()?[0])?;
    let answer = swarm.ask(&format!("connect {units} {PARALLEL}"))?;
    eprintln!("{units} connections: {answer}");
    if number(&answer, "connected")? != units {
        return Err(Error::Unexpected(format!("not all Units connected: {answer}")));
    }
    let after = settled(&cloud, units)?;
    drop(swarm);
    let each = after.saturating_sub(before) / units;
    eprintln!("private memory of the cloud: {before} bytes before, {after} with {units} connections");
    rows.add(
        "gateway.connection.user_bytes",
        "bytes",
        "private dirty of the cloud with all connections minus with none, each; mTLS WebSocket, idle after a \
         unitStatus of 50 instances and a desiredStatus",
        each,
    );
    cloud.stop()?;

    cloud.restart(&site)?;
    let port = cloud.endpoints().ports()?[0];
    let mut swarm = Helper::run(&site, &data, port)?;
    handshakes(rows, &site, &cloud, &mut swarm, port)?;
    acknowledgements(rows, &mut swarm)?;
    drop(swarm);
    cloud.stop()
}

fn acknowledgements(rows: &mut Rows, swarm: &mut Helper) -> Result<()> {
    let answer = swarm.ask(&format!("connect {SENDERS} {PARALLEL}"))?;
    if number(&answer, "connected")? != SENDERS {
        return Err(Error::Unexpected(format!("not all Units connected: {answer}")));
    }
    // The first messages meet cold caches.
    swarm.ask(&format!("send 3 {LOAD}"))?;
    let timed = swarm.ask(&format!("send {SEND_SECONDS} {LOAD}"))?;
    eprintln!("{LOAD} messages a second: {timed}");
    let note = "from sending monitoringData to its ack, stored durably; 1,000 connections, one message a \
                second each";
    #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
    let millis = |key| Ok::<_, Error>(number(&timed, key)? as f64 / 1000.0);
    rows.add_real("gateway.ack.p50", "ms", note, millis("p50_micros")?);
    rows.add_real("gateway.ack.p99", "ms", note, millis("p99_micros")?);
    let flood = swarm.ask(&format!("send {SEND_SECONDS} 0"))?;
    eprintln!("as fast as acknowledged: {flood}");
    if number(&timed, "lost")? + number(&flood, "lost")? > 0 {
        return Err(Error::Unexpected(format!("Units were lost: {timed} {flood}")));
    }
    rows.add(
        "gateway.acked_per_second",
        "1/s",
        "monitoringData of 1,000 connections, each with one message under way; stored durably",
        number(&flood, "acknowledged")? * 1000 / number(&flood, "millis")?.max(1),
    );
    Ok(())
}

fn handshakes(rows: &mut Rows, site: &Site, cloud: &Cloud, swarm: &mut Helper, port: u16) -> Result<()> {
    let bare = Helper::bare(site, &site.dir().join("cloud"))?;
    let bare_port = number(bare.greeting(), "port")?;
    let pid = cloud.pid().ok_or_else(|| Error::Unexpected("the cloud is gone".to_owned()))?;
    for round in 0..=ROUNDS {
        let accepted = series(cloud, "aos_gateway_handshakes_total")?;
        let ours = cost(pid, swarm, u64::from(port))?;
        let accepted = series(cloud, "aos_gateway_handshakes_total")? - accepted;
        if accepted < HANDSHAKES {
            return Err(Error::Unexpected(format!("the cloud accepted {accepted} handshakes")));
        }
        let theirs = cost(bare.pid(), swarm, bare_port)?;
        eprintln!("CPU per handshake: bare {theirs:.0} us, cloud {ours:.0} us");
        // The first round warms up both.
        if round > 0 {
            let note = "CPU of a server per full mTLS handshake, rustls alone over that of the cloud's \
                        listener; same settings, loopback";
            rows.add_ratio("gateway.handshake.vs_bare", note, theirs / ours);
        }
    }
    Ok(())
}

/// CPU time of process `pid` for one handshake, microseconds.
fn cost(pid: i32, swarm: &mut Helper, port: u64) -> Result<f64> {
    let before = cpu(pid)?;
    let answer = swarm.ask(&format!("handshakes {HANDSHAKES} 8 {port}"))?;
    if number(&answer, "handshakes")? != HANDSHAKES {
        return Err(Error::Unexpected(format!("handshakes failed: {answer}")));
    }
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
    let each = (cpu(pid)?.saturating_sub(before)) as f64 / 1000.0 / HANDSHAKES as f64;
    Ok(each)
}

/// CPU time of all threads of a process so far, nanoseconds. Threads that end meanwhile are missing; the
/// servers here start none after their first requests.
fn cpu(pid: i32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).tried(|| format!("cannot read {tasks}"))?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Private memory once all sessions are idle and nothing moves any more.
fn settled(cloud: &Cloud, units: u64) -> Result<u64> {
    let limit = Instant::now() + Duration::from_mins(2);
    let mut last = 0;
    loop {
        pause(Duration::from_secs(5));
        let now = private_dirty(cloud)?;
        let idle = series(cloud, "aos_gateway_handling")? == 0;
        if series(cloud, "aos_gateway_sessions")? != units {
            return Err(Error::Unexpected("connections were lost".to_owned()));
        }
        if idle && now.abs_diff(last) < 1024 * 1024 {
            return Ok(now);
        }
        if Instant::now() > limit {
            return Err(Error::Unexpected("the cloud's memory does not settle".to_owned()));
        }
        last = now;
    }
}

fn private_dirty(cloud: &Cloud) -> Result<u64> {
    let memory = cloud.pid().and_then(memory).map(|memory| memory.private_dirty);
    memory.ok_or_else(|| Error::Unexpected("the cloud is gone".to_owned()))
}

/// The value of a series of the cloud's metrics.
fn series(cloud: &Cloud, name: &str) -> Result<u64> {
    let answer =
        http::get(cloud.metrics()?, "/metrics", ASK).tried(|| "cannot read the metrics".to_owned())?;
    let text = answer.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| Error::Unexpected(format!("no {name} in the metrics")))
}

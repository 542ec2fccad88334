//! The Identity and Access Manager: start, answers, handshakes with a key in a token, memory.
//!
//! A provisioned Unit in its box; what asks runs inside the box, too. BENCH_IDLE is the time between connecting
//! and reading memory, seconds (default 60); BENCH_RUNS the number of starts (default 5).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Rows;
use crate::error::Tried;
use crate::interrupt::end_on_interrupt;
use crate::stage::STEP_LIMIT;
use crate::unit_config::{IAM_PUBLIC, softhsm};
use crate::wait::pause;
use crate::{Daemon, Error, Process, Result, Site, Stage, Unit, binaries};

const SYSTEM_ID: &str = "iam-unit";
const CALLS: &str = "5000";
const HANDSHAKE_SECONDS: &str = "1";
const START_LIMIT: Duration = Duration::from_secs(20);

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (idle, runs) = (Duration::from_secs(number("BENCH_IDLE", 60)), number("BENCH_RUNS", 5).max(1));
    handshakes(rows)?;

    let site = Arc::new(Site::new("bench-iam")?);
    let _done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| eprintln!("{text}");
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;
    for run in 1..=runs {
        let time = start(&stage.unit)?;
        eprintln!("start {run}: serving after {:.1} ms", time.as_secs_f64() * 1000.0);
        let note = "begin of the process to READY=1, both servers listening; keys of 5 types in SoftHSM; with the \
                    way into the box";
        rows.add_real("iam.start", "ms", note, time.as_secs_f64() * 1000.0);
    }

    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;
    let mut ask = stage.unit.command(binaries::find("aos-iam-bench")?)?;
    ask.args(["getcert", &format!("localhost:{IAM_PUBLIC}")])
        .arg(stage.unit.dir().join("root.pem"))
        .arg(CALLS);
    let answer = output(ask)?;
    let note = "GetCert over TLS on one connection, one after the other, CM and SM running";
    // Microseconds of one call fit.
    #[expect(clippy::cast_precision_loss)]
    rows.add_real("iam.getcert.p99", "ms", note, field(&answer, "p99_us")? as f64 / 1000.0);
    rows.add("iam.getcert.per_second", "1/s", note, field(&answer, "per_second")?);
    eprintln!("GetCert: {answer}");

    eprintln!("reading memory in {} s", idle.as_secs());
    pause(idle);
    stage.unit.check_running()?;
    let memory = stage.unit.memory();
    let iam = memory.get("iam").ok_or_else(|| Error::Unexpected("iam does not run".to_owned()))?;
    let note = format!("{} s after {CALLS} calls, CM and SM running too, keys in SoftHSM", idle.as_secs());
    rows.add("iam.idle.pss", "bytes", &note, iam.pss);
    drop(stage);
    site.end()
}

/// Starts the daemon alone and ends it; the time until it says that it is ready.
fn start(unit: &Unit) -> Result<Duration> {
    let path = unit.dir().join("notify");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).tried(|| format!("cannot listen on {}", path.display()))?;
    socket.set_read_timeout(Some(START_LIMIT)).tried(|| "cannot set a time-out".to_owned())?;
    let mut command = unit.command(binaries::find("aos")?)?;
    command.args(["iam", "-c"]).arg(unit.dir().join("iam.cfg")).env("NOTIFY_SOCKET", &path);
    let started = Instant::now();
    let mut process = Process::start("iam", command, &unit.log(Daemon::Iam))?;
    let mut message = [0; 256];
    loop {
        let length = socket.recv(&mut message).tried(|| "iam did not say that it is ready".to_owned())?;
        if message[..length].windows(7).any(|part| part == b"READY=1") {
            break;
        }
    }
    let time = started.elapsed();
    process.stop(START_LIMIT)?;
    Ok(time)
}

/// The same key kind in a token and in memory, as a TLS server's.
fn handshakes(rows: &mut Rows) -> Result<()> {
    let site = Site::new("bench-handshakes")?;
    let tokens = site.dir().join("tokens");
    fs::create_dir_all(&tokens).tried(|| format!("cannot make {}", tokens.display()))?;
    let conf = site.dir().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    fs::write(&conf, text).tried(|| format!("cannot write {}", conf.display()))?;
    let mut command = Command::new(binaries::find("aos-iam-bench")?);
    command.args(["handshakes", softhsm()?, HANDSHAKE_SECONDS]).env("SOFTHSM2_CONF", &conf);
    let answer = output(command)?;
    eprintln!("mTLS handshakes a second: {answer}");
    let (token, file) = (field(&answer, "token")?, field(&answer, "file")?);
    let note = "full mTLS handshakes in a second of processor time, server key P-384, client key P-256, both sides on one \
                thread";
    rows.add("tls.token.handshakes", "1/s", note, token);
    rows.add("tls.file.handshakes", "1/s", note, file);
    // Handshakes of a second fit.
    #[expect(clippy::cast_precision_loss)]
    rows.add_ratio("tls.token_vs_file", note, token as f64 / file.max(1) as f64);
    site.end()
}

fn output(mut command: Command) -> Result<Value> {
    let output = command.output().tried(|| "cannot run aos-iam-bench".to_owned())?;
    if !output.status.success() {
        return Err(Error::Program {
            program: "aos-iam-bench".to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|source| Error::Json { what: "aos-iam-bench".to_owned(), source })
}

fn field(answer: &Value, name: &str) -> Result<u64> {
    let found = answer.get(name).and_then(Value::as_u64);
    found.ok_or_else(|| Error::Unexpected(format!("no '{name}' in {answer}")))
}

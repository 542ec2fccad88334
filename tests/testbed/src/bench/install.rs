//! Installing an image: download over the loopback interface, verify, unpack, make durable.
//!
//! 200 MB of real files in five gzip layers. The peer is what a person would type: `curl | sha256sum` of each
//! layer, `tar xz` of each layer from where it is served, and `sync -f` at the end. Both sides take turns and
//! write to the same file system. BENCH_RUNS is the number of rounds (default 5).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::bench::Rows;
use crate::error::Tried;
use crate::interrupt::end_on_interrupt;
use crate::{Error, Result, Site, binaries};

const PROGRAM: &str = "aos-install-bench";
const LAYERS: &str = "5";
/// Packed bytes of each layer.
const BYTES: &str = "40000000";

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let runs = std::env::var("BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_u32).max(1);
    let site = Arc::new(Site::new("bench-install")?);
    let _done = end_on_interrupt(&site)?;
    let blobs = site.dir().join("blobs");
    eprintln!("making an image of 200 MB");
    let mut make = Command::new(binaries::find(PROGRAM)?);
    make.arg("make").arg(&blobs).args([LAYERS, BYTES]);
    let image: Value = serde_json::from_str(&output(make)?)
        .map_err(|source| Error::Json { what: PROGRAM.to_owned(), source })?;
    let manifest = image["manifest"].as_str().unwrap_or_default().to_owned();
    let layers: Vec<&str> = image["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| layer["digest"].as_str()?.strip_prefix("sha256:"))
        .collect();
    let server = Server::start(&blobs)?;

    let (ours_dir, peer_dir) = (site.dir().join("ours"), site.dir().join("peer"));
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        for dir in [&ours_dir, &peer_dir] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).tried(|| format!("cannot make {}", dir.display()))?;
        }
        sync(site.dir())?;
        let mut install = Command::new(binaries::find(PROGRAM)?);
        install.arg("install").arg(&ours_dir).args([&server.address, &manifest]);
        let our_time = milliseconds(&output(install)?)?;
        sync(site.dir())?;
        let peer_time = pipeline(&server.address, &blobs, &peer_dir, &layers)?;
        eprintln!("round {round}: installed in {our_time:.0} ms, pipeline {peer_time:.0} ms");
        // The first round fills the caches.
        if round > 0 {
            ours.push(our_time);
            peers.push(peer_time);
        }
    }
    let plain = image["plainBytes"].as_u64().unwrap_or_default() >> 20;
    let note = format!("200 MB in five gzip layers from loopback, {plain} MiB unpacked, durable");
    for (our_time, peer_time) in ours.iter().zip(&peers) {
        rows.add_real("sm.install", "ms", &note, *our_time);
        rows.add_real(
            "sm.install.pipeline",
            "ms",
            "curl | sha256sum, tar xz, sync -f of the same",
            *peer_time,
        );
    }
    rows.add_ratio("sm.install.vs_pipeline", &note, median(&mut ours) / median(&mut peers));
    drop(server);
    site.end()
}

/// Milliseconds of the pipeline.
fn pipeline(address: &str, blobs: &Path, dir: &Path, layers: &[&str]) -> Result<f64> {
    let script = r#"set -euo pipefail
        address=$1 blobs=$2 dir=$3; shift 3
        begin=$EPOCHREALTIME
        for layer in "$@"; do
            [ "$(curl -sS "http://$address/$layer" | sha256sum | cut -d' ' -f1)" = "$layer" ]
            mkdir "$dir/$layer"
            tar xzf "$blobs/$layer" -C "$dir/$layer"
        done
        sync -f "$dir"
        end=$EPOCHREALTIME
        awk "BEGIN {print (${end/,/.} - ${begin/,/.}) * 1000}""#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", address]).arg(blobs).arg(dir).args(layers);
    milliseconds(&output(command)?)
}

/// Nothing of what happened before is left to be written.
fn sync(dir: &Path) -> Result<()> {
    let mut command = Command::new("sync");
    command.arg("-f").arg(dir);
    output(command).map(|_| ())
}

fn milliseconds(text: &str) -> Result<f64> {
    text.trim().parse().map_err(|_| Error::Unexpected(format!("'{text}' is no time")))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn output(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().tried(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        return Err(Error::Program {
            program,
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The server of blobs, a process of its own for both sides.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(blobs: &Path) -> Result<Self> {
        let mut command = Command::new(binaries::find(PROGRAM)?);
        command.arg("serve").arg(blobs).stdout(Stdio::piped());
        let mut process = command.spawn().tried(|| format!("cannot start {PROGRAM}"))?;
        let mut address = String::new();
        if let Some(stdout) = process.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut address);
            read.tried(|| format!("{PROGRAM} did not tell its address"))?;
        }
        Ok(Self { process, address: address.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! Services: what the Service Manager adds to the container runtime when it starts one, ten and fifty of them,
//! and what it costs while they run.
//!
//! A whole Unit with its cloud; instances have network, firewall, names, secret, quotas and monitoring each second.
//! The peer is the bare runtime: `crun run` of the very bundles in the same namespaces. Within its time the network
//! namespace is made, and the cable into it with addresses and route, by `ip -batch`; nothing else, and the bridge
//! is there before. Many are run one after the other; a single one is run after a pause, as a single start of the
//! Service Manager follows one, because the kernel lets a grace period pass before it moves the first process into
//! a cgroup and none before the next ones. BENCH_RUNS is the number of rounds (default 5), BENCH_SINGLES of single
//! starts in each (default 10), BENCH_IDLE the time before memory is read (default 60).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Rows;
use crate::error::Tried;
use crate::interrupt::end_on_interrupt;
use crate::stage::{STEP_LIMIT, instances};
use crate::wait::{pause, wait_for_or_last};
use crate::{Daemon, Error, HttpService, Result, Site, Stage, binaries, process};

const SYSTEM_ID: &str = "services-unit";
const ITEM: &str = "bench-service";
const VERSION: &str = "1.0.0";
const MANY: usize = 50;
/// Pause before a single run of the bare runtime.
const CALM: Duration = Duration::from_millis(100);
/// How long processor time is counted.
const CPU_TIME: Duration = Duration::from_secs(30);

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (idle, runs) = (Duration::from_secs(number("BENCH_IDLE", 60)), number("BENCH_RUNS", 5).max(1));
    let singles = number("BENCH_SINGLES", 10);
    let site = Arc::new(Site::new("bench-services")?);
    let _done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| eprintln!("{text}");
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;
    stage.unit.configure(Daemon::Sm, |config| {
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "10s"});
    })?;
    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;
    eprintln!("reading memory without instances in {} s", idle.as_secs());
    pause(idle);
    let note = "SM and keeper, IAM and CM running too, keys in SoftHSM";
    rows.add("sm.idle.pss", "bytes", &format!("{note}; no instance"), memory(&stage)?);

    let service = HttpService::new(&site.dir().join("service"), ITEM, "bench")?;
    service.set_config(&item())?;
    service.publish(&stage.operator, VERSION)?;
    // The image comes to the Unit once.
    set_instances(&mut stage, 1)?;
    let mut times = Times::default();
    for run in 1..=runs {
        let dir = site.dir().join(format!("bare-{run}"));
        for single in 1..=singles {
            times.start(&mut stage, 1)?;
            let bare = bare_runs(&stage, &dir.join(single.to_string()), CALM)?;
            times.bare_singles.extend(bare);
        }
        times.start(&mut stage, 10)?;
        let whole = times.start(&mut stage, MANY)?;
        let bare = bare_runs(&stage, &dir.join("many"), Duration::ZERO)?;
        let sum: f64 = bare.iter().sum();
        eprintln!("round {run}: {MANY} instances in {whole:.0} ms, bare runtime {sum:.0} ms");
        rows.add_ratio(
            "sm.start50.vs_bare",
            "wish received to 50th active, against 50 x `crun run` of the same bundles in sequence",
            whole / sum,
        );
        times.bare.extend(bare);
    }
    times.tell(rows);

    eprintln!("reading memory with {MANY} instances in {} s", idle.as_secs());
    pause(idle);
    rows.add("sm.50.pss", "bytes", &format!("{note}; 50 idle instances"), memory(&stage)?);
    let before = processor_time(&stage)?;
    pause(CPU_TIME);
    let used = processor_time(&stage)? - before;
    rows.add_real(
        "sm.50.cpu",
        "percent",
        "of one core, SM and keeper, 50 idle instances, monitoring each second",
        100.0 * used / CPU_TIME.as_secs_f64(),
    );
    stage.unit.check_running()?;
    drop(stage);
    site.end()
}

/// Everything that costs something at a start.
fn item() -> Value {
    json!({
        "author": "bench",
        "baseLayerIsNodeRootfs": false,
        "runtimes": [{"codename": "crun"}],
        "quotas": {
            "cpuDMIPSLimit": 100, "ramLimit": 16 << 20, "pidsLimit": 32, "noFileLimit": 256, "tmpLimit": 1 << 20,
            "stateLimit": 64 << 10, "storageLimit": 1 << 20, "downloadSpeed": 100_000, "uploadSpeed": 100_000,
            "downloadLimit": 1_u64 << 40, "uploadLimit": 1_u64 << 40,
        },
        "permissions": {"bench": {"figure": "r"}},
        "allowedConnections": {"5b2c7cd4-94ff-4a12-9d3f-27a6b1e3b0f1/80/tcp": {}},
        "alertRules": {"ram": {"minTimeout": "PT10S", "minThreshold": 80.0, "maxThreshold": 95.0}},
    })
}

/// Milliseconds of starts and of the bare runtime.
#[derive(Default)]
struct Times {
    /// By the number of instances started together.
    starts: BTreeMap<usize, Vec<f64>>,
    /// The bare runtime, each after a pause.
    bare_singles: Vec<f64>,
    /// The bare runtime, one after the other.
    bare: Vec<f64>,
}

impl Times {
    /// Starts so many instances where there are none.
    fn start(&mut self, stage: &mut Stage, count: usize) -> Result<f64> {
        set_instances(stage, 0)?;
        set_instances(stage, count)?;
        let time = start_time(stage, count)?;
        self.starts.entry(count).or_default().push(time);
        Ok(time)
    }

    /// Like with like: the median above the bare runtime's median, its 99th hundredth above the bare one's. The bare
    /// runtime waits for the kernel now and then, too, and so do its runs by the Service Manager.
    fn tell(&mut self, rows: &mut Rows) {
        for times in self.starts.values_mut().chain([&mut self.bare_singles, &mut self.bare]) {
            times.sort_unstable_by(f64::total_cmp);
        }
        let (single, sequence) = ("a single `crun run` after a pause", "`crun run` one after the other");
        for (name, what, times, place) in [
            ("sm.bare.start1", single, &self.bare_singles, 50),
            ("sm.bare.start1.p99", single, &self.bare_singles, 99),
            ("sm.bare.start", sequence, &self.bare, 50),
            ("sm.bare.start.p99", sequence, &self.bare, 99),
        ] {
            rows.add_real(name, "ms", &format!("{what}, with network, p{place}"), hundredth(times, place));
        }
        if let Some(times) = self.starts.get(&1) {
            for (name, place) in [("sm.start1", 50), ("sm.start1.p99", 99)] {
                let note = format!("wish received to active, one instance, p{place}");
                rows.add_real(name, "ms", &note, hundredth(times, place));
            }
        }
        for (place, whole, names) in [
            (
                50,
                "sm.start.overhead.p50",
                ["sm.start1.overhead", "sm.start10.overhead", "sm.start50.overhead"],
            ),
            (
                99,
                "sm.start.overhead.p99",
                ["sm.start1.overhead.p99", "sm.start10.overhead.p99", "sm.start50.overhead.p99"],
            ),
        ] {
            let note = format!("an instance, p{place} above the bare runtime's p{place}");
            let mut worst = f64::NEG_INFINITY;
            for ((count, times), name) in self.starts.iter().zip(names) {
                let bare = if *count == 1 { &self.bare_singles } else { &self.bare };
                // Instance counts are small.
                #[expect(clippy::cast_precision_loss)]
                let overhead = hundredth(times, place) / *count as f64 - hundredth(bare, place);
                rows.add_real(name, "ms", &note, overhead);
                worst = worst.max(overhead);
            }
            rows.add_real(whole, "ms", &format!("{note}; the worst of 1, 10 and 50"), worst);
        }
    }
}

/// Makes so many instances run and waits until the node has them and nothing else of the item.
fn set_instances(stage: &mut Stage, count: usize) -> Result<()> {
    let wish = count.to_string();
    match count {
        0 => stage.operator.run(&["unassign", SYSTEM_ID, ITEM])?,
        _ => stage.operator.run(&["assign", SYSTEM_ID, ITEM, "--instances", &wish])?,
    };
    // Asked on the node itself: the cloud does not list what is not wanted any more, though it may still end.
    wait_for_or_last(&format!("{count} instances on the node"), STEP_LIMIT, || {
        let found = stage.unit.instances();
        let active =
            found.iter().filter(|one| one.get("state").is_some_and(|state| state == "active")).count();
        if found.len() == count && active == count { Ok(()) } else { Err(format!("{active} of {found:?}")) }
    })?;
    stage.wait_status(&format!("{count} instances"), STEP_LIMIT, |status| {
        let found = instances(status);
        let active = found.iter().filter(|one| one.state == "active").count();
        if found.len() == count && active == count { Ok(()) } else { Err(format!("{active} of {found:?}")) }
    })?;
    Ok(())
}

/// Milliseconds from the wish's arrival at the Service Manager until the last instance was active.
fn start_time(stage: &Stage, count: usize) -> Result<f64> {
    wait_for_or_last("the time that starts took", STEP_LIMIT, || {
        let instances = stage.unit.instances();
        let times: Vec<f64> = instances.iter().filter_map(|one| one.get("startMs")?.as_f64()).collect();
        let last = times.iter().copied().reduce(f64::max);
        last.filter(|_| times.len() == count).ok_or_else(|| format!("{instances:?}"))
    })
}

/// Runs bundles: folder, runtime, pause in seconds, names. The runtime gives its standard streams to the service:
/// files of ours, no device of the host.
const BARE: &str = r#"
    cd "$1" || exit 1
    crun=$2; pause=$3; shift 3
    mount -t tmpfs tmpfs /run && mkdir /run/netns && : >empty || exit 1
    ip link add bare0 type bridge && ip addr add 10.213.0.1/16 dev bare0 && ip link set bare0 up || exit 1
    number=1
    for id in "$@"; do
        sleep "$pause"
        number=$((number + 1)); veth=b$$n$number
        printf '%s\n' "netns add $id" "link add $veth type veth peer name eth0 netns $id" \
            "link set $veth master bare0 up" >"$id/cable"
        printf '%s\n' "link set lo up" "addr add 10.213.0.$number/16 dev eth0" "link set eth0 up" \
            "route add default via 10.213.0.1" >"$id/inside"
        begin=$EPOCHREALTIME
        ip -batch "$id/cable" && ip -netns "$id" -batch "$id/inside" &&
            "$crun" --root "$PWD/state" run --detach --bundle "$PWD/$id" "bare-$id" \
                <empty >"$id/output" 2>"$id/errors" || { cat "$id/errors" >&2; exit 1; }
        end=$EPOCHREALTIME
        echo $((${end/./} - ${begin/./}))
    done
    for id in "$@"; do "$crun" --root "$PWD/state" delete --force "bare-$id"; ip netns delete "$id"; done
    ip link delete bare0"#;

/// The bundles of all instances, run by the bare runtime with a pause before each: milliseconds of each.
fn bare_runs(stage: &Stage, dir: &Path, pause: Duration) -> Result<Vec<f64>> {
    let config: Value = {
        let path = stage.unit.dir().join("sm.cfg");
        let text = fs::read(&path).tried(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).map_err(|source| Error::Json { what: "sm.cfg".to_owned(), source })?
    };
    let word = |key: &str| {
        let value = config.pointer(&format!("/runtimes/0/config/{key}")).and_then(Value::as_str);
        value.map(PathBuf::from).ok_or_else(|| Error::Unexpected(format!("no '{key}' in sm.cfg")))
    };
    let (bundles, crun) = (word("runtimeDir")?, word("crunExecutable")?);
    let mut names = Vec::new();
    for instance in stage.unit.instances() {
        let Some(id) = instance.get("id").and_then(Value::as_str) else { continue };
        let folder = dir.join(id);
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        copy_bundle(&bundles.join(id).join("config.json"), &folder, id)?;
        names.push(id.to_owned());
    }
    let mut command = stage.unit.command("unshare")?;
    command.args(["--mount", "--propagation", "private", "bash", "-c", BARE, "bash"]);
    command.arg(dir).arg(crun).arg(pause.as_secs_f64().to_string()).args(&names);
    let output = command.output().tried(|| "cannot run the bare runtime".to_owned())?;
    if !output.status.success() {
        return Err(Error::Program {
            program: "crun".to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.parse::<f64>().ok()).map(|micros| micros / 1000.0).collect())
}

/// A bundle like the given one, with a network namespace that the script makes and a cgroup of its own.
fn copy_bundle(config: &Path, folder: &Path, id: &str) -> Result<()> {
    let text = fs::read(config).tried(|| format!("cannot read {}", config.display()))?;
    let mut spec: Value = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { what: config.display().to_string(), source })?;
    if let Some(namespaces) = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
        for namespace in namespaces.iter_mut().filter_map(Value::as_object_mut) {
            if namespace.get("type").is_some_and(|kind| kind == "network") {
                namespace.insert("path".to_owned(), json!(format!("/run/netns/{id}")));
            } else {
                namespace.remove("path");
            }
        }
    }
    spec["linux"]["cgroupsPath"] = json!(format!("/bare/{id}"));
    let path = folder.join("config.json");
    fs::write(&path, spec.to_string()).tried(|| format!("cannot write {}", path.display()))
}

/// The value that so many hundredths of the sorted ones do not exceed.
fn hundredth(sorted: &[f64], place: usize) -> f64 {
    let index = (sorted.len() * place).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

fn memory(stage: &Stage) -> Result<u64> {
    let memory = stage.unit.memory();
    let of = |word: &str| {
        memory.get(word).map(|one| one.pss).ok_or_else(|| Error::Unexpected(format!("{word} does not run")))
    };
    Ok(of("sm")? + of("keep")?)
}

/// Seconds of processor time that SM and keeper have used.
fn processor_time(stage: &Stage) -> Result<f64> {
    let own = binaries::find("aos")?;
    let mut used = Duration::ZERO;
    for pid in stage.unit.node().processes() {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let word = process::arguments(pid).into_iter().nth(1).unwrap_or_default();
        if program == own && ["sm", "keep"].contains(&word.as_str()) {
            used += process::processor_time(pid)?;
        }
    }
    Ok(used.as_secs_f64())
}

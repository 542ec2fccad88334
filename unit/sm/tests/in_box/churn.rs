//! A Service Manager that is killed again and again while twenty instances are started, changed and stopped.
//!
//! What changes is drawn from a seed that is printed (`AOS_TEST_SEED` gives another one); when the process is killed is up to the
//! machine. Five instances are never touched: whatever happens around them they keep their process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use aos_unit_api::servicemanager::v5 as wire;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cm::wait_for;
use crate::image::{Image, wish};
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

const KILLS: u64 = 200;
const INSTANCES: u64 = 20;
/// Those below this number are never touched.
const STABLE: u64 = 5;
/// After so many kills everything has to have converged.
const ROUNDS: u64 = 10;
const EXIT_CODE: i32 = 7;

/// Numbers of a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What is of the machine and must not be left behind.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    processes: BTreeSet<String>,
    mounts: Vec<String>,
    links: Vec<String>,
    addresses: Vec<String>,
    rules: String,
    cgroups: Vec<String>,
    bundles: Vec<String>,
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Traces {
    fn now() -> Self {
        let processes = names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
        let command = |pid: &String| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            (words.contains("busybox") || words.contains("crun")).then_some(words)
        };
        let mut mounts: Vec<String> = fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .filter(|line| line.contains("/run/aos") || line.contains("aos-sm-") || line.contains("overlay"))
            .map(str::to_owned)
            .collect();
        mounts.sort();
        let rules: Vec<String> = output("nft", &["list", "ruleset"])
            .lines()
            .filter(|line| line.contains("172.31.") || line.contains("instance"))
            .map(str::to_owned)
            .collect();
        let mut cgroups = Vec::new();
        for hierarchy in names("/sys/fs/cgroup") {
            cgroups.extend(instance_groups(&format!("/sys/fs/cgroup/{hierarchy}/aos-test")));
        }
        cgroups.extend(instance_groups("/sys/fs/cgroup/aos-test"));
        Self {
            processes: processes.filter_map(|pid| command(&pid)).collect(),
            mounts,
            links: output("ip", &["-o", "link"])
                .lines()
                .filter(|line| ["br-", "veth", "vlan-", "ifb-"].iter().any(|kind| line.contains(kind)))
                .map(str::to_owned)
                .collect(),
            addresses: output("ip", &["-o", "-4", "address"])
                .lines()
                .filter(|line| line.contains("172.31."))
                .map(str::to_owned)
                .collect(),
            rules: rules.join("\n"),
            cgroups,
            bundles: [names("/run/aos/runtime/netns"), names("/run/oci")].concat(),
        }
    }

    fn none() -> Self {
        Self {
            processes: BTreeSet::new(),
            mounts: vec![],
            links: vec![],
            addresses: vec![],
            rules: String::new(),
            cgroups: vec![],
            bundles: vec![],
        }
    }
}

fn instance_groups(folder: &str) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.len() == 36 && name.contains('-')).collect()
}

/// The wish of the moment: number of the image and of the environment, by instance.
type Wish = BTreeMap<u64, (usize, u64)>;

struct Churn {
    sm: Sm,
    images: [Image; 2],
    wish: Wish,
    dice: Dice,
}

impl Churn {
    fn infos(&self) -> Vec<wire::InstanceInfo> {
        self.wish
            .iter()
            .map(|(instance, (image, turn))| {
                let version = format!("1.0.{image}");
                let mut info = wish(*instance, &version, &self.images[*image], &self.sm.runtime);
                info.env_vars = vec![wire::EnvVarInfo { name: "TURN".into(), value: turn.to_string() }];
                info
            })
            .collect()
    }

    fn unwanted(&self) -> Vec<u64> {
        (0..INSTANCES).filter(|instance| !self.wish.contains_key(instance)).collect()
    }

    /// As CM does after every connect and change: everything that is wanted and everything that is not.
    async fn tell(&self) {
        self.sm.cm.update(self.infos(), self.unwanted()).await;
    }

    fn change(&mut self, round: u64) {
        for _ in 0..=self.dice.below(5) {
            let instance = STABLE + self.dice.below(INSTANCES - STABLE);
            let image = usize::try_from(self.dice.below(2)).unwrap();
            match self.dice.below(3) {
                0 => drop(self.wish.remove(&instance)),
                _ => drop(self.wish.insert(instance, (image, round))),
            }
        }
    }

    async fn instances(&self) -> BTreeMap<u64, serde_json::Value> {
        let status = self.sm.status().await;
        let list = status["instances"].as_array().unwrap().clone();
        list.into_iter().map(|one| (one["instance"].as_u64().unwrap(), one)).collect()
    }

    /// Until exactly what is wanted runs, in the version wanted.
    async fn converge(&self, what: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(40);
        loop {
            let present = self.instances().await;
            let good = present.len() == self.wish.len()
                && self.wish.iter().all(|(instance, (image, _))| {
                    present.get(instance).is_some_and(|one| {
                        one["state"] == "active" && one["version"] == format!("1.0.{image}")
                    })
                });
            if good {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{what}: wanted {:?}, there is {present:#?}",
                self.wish
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills, lets `meanwhile` happen, starts again and says everything anew.
    async fn restart(&mut self, meanwhile: impl FnOnce()) {
        self.sm.kill();
        meanwhile();
        let streams = self.sm.cm.count("RegisterSM");
        self.sm.launch();
        wait_for("another stream", || (self.sm.cm.count("RegisterSM") > streams).then_some(())).await;
        self.tell().await;
    }
}

fn processes(instances: &BTreeMap<u64, serde_json::Value>) -> BTreeMap<u64, (i32, u64)> {
    let stable = instances.iter().filter(|(instance, _)| **instance < STABLE);
    stable
        .map(|(instance, one)| (*instance, (number(&one["pid"]), one["starts"].as_u64().unwrap())))
        .collect()
}

// REL-02, REL-03, REL-30
pub async fn two_hundred_kills_during_churn_leave_nothing_behind() {
    let seed = std::env::var("AOS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x5eed_a05e_d6e5_eed5);
    eprintln!("AOS_TEST_SEED={seed}");
    let sm = Sm::start("crun").await;
    let script = |name: &str| {
        format!(
            "trap 'exit 0' TERM; trap 'exit {EXIT_CODE}' USR1; : {name}; while :; do /bin/busybox sleep 100 & wait $!; done"
        )
    };
    let images = ["one", "two"].map(|name| sm.blobs.simple(&script(name), with_tmp()));
    let wish = (0..INSTANCES).map(|instance| (instance, (0, 0))).collect();
    let mut churn = Churn { sm, images, wish, dice: Dice(seed) };
    churn.tell().await;
    churn.converge("the first start").await;
    let before = processes(&churn.instances().await);
    assert_eq!(before.len(), usize::try_from(STABLE).unwrap());

    for round in 1..=KILLS {
        churn.change(round);
        churn.tell().await;
        let pause = Duration::from_millis(churn.dice.below(120));
        tokio::time::sleep(pause).await;
        if round % ROUNDS != 0 {
            churn.restart(|| ()).await;
            continue;
        }
        let what = format!("round {round}");
        churn.converge(&what).await;
        // One ends by itself while nobody looks; it is heard of all the same, and started again.
        let victim = *churn.wish.keys().find(|instance| **instance >= STABLE).unwrap_or(&STABLE);
        churn.wish.entry(victim).or_insert((0, round));
        churn.tell().await;
        churn.converge(&what).await;
        let pid = Pid::from_raw(number(&churn.instances().await[&victim]["pid"]));
        churn.sm.cm.clear();
        churn
            .restart(|| {
                kill(pid, Signal::SIGUSR1).unwrap();
                let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
                let deadline = std::time::Instant::now() + Duration::from_secs(30);
                while !gone() {
                    assert!(std::time::Instant::now() < deadline, "{pid} does not end");
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
            .await;
        churn.converge(&what).await;
        let told = ("failed".to_owned(), EXIT_CODE);
        wait_for("the exit code", || churn.sm.cm.history(victim).contains(&told).then_some(())).await;
        assert_eq!(processes(&churn.instances().await), before, "{what}");
    }

    // Orderly ends change nothing at all.
    let all = |instances: BTreeMap<u64, serde_json::Value>| -> Vec<(i32, u64)> {
        instances.values().map(|one| (number(&one["pid"]), one["starts"].as_u64().unwrap())).collect()
    };
    let before = all(churn.instances().await);
    for _ in 0..5 {
        churn.sm.stop();
        churn.sm.launch();
        churn.converge("an orderly restart").await;
        assert_eq!(all(churn.instances().await), before);
    }

    churn.wish.clear();
    churn.sm.cm.wait_connected().await;
    churn.tell().await;
    churn.converge("the end").await;
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    while Traces::now() != Traces::none() {
        assert!(std::time::Instant::now() < deadline, "left behind: {:#?}", Traces::now());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! A box for one test: own processes, mounts, network and cgroups.
//!
//! On hosts with cgroup v1 (also in part) the box gets a child in every hierarchy and mounts the hierarchies
//! anew, so that the runtimes see a plain v1 host whose root is the child. On a pure v2 host the cgroups of
//! the test live in a child of the present one. Everything in the box dies with its first process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::tests;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Variable: factor on the time that conditions are waited for, on slow machines.
pub const PATIENCE: &str = "AOS_TEST_PATIENCE";

/// That factor.
pub fn patience() -> u32 {
    std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
/// Variable: the box's group on hosts where a manager of groups runs, else empty.
const GROUP: &str = "AOS_TEST_GROUP";

/// One cgroup hierarchy of the host: its controllers (empty for v2) and our place in it.
struct Hierarchy {
    controllers: String,
    place: PathBuf,
}

fn hierarchies() -> Vec<Hierarchy> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?.to_owned(), fields.next()?);
        let mounted = match controllers.as_str() {
            "" if Path::new(CGROUPS).join("cgroup.controllers").exists() => PathBuf::from(CGROUPS),
            "" => Path::new(CGROUPS).join("unified"),
            named => Path::new(CGROUPS).join(named.trim_start_matches("name=")),
        };
        let place = mounted.join(path.trim_start_matches('/'));
        place.exists().then_some(Hierarchy { controllers, place })
    };
    text.lines().filter_map(parse).collect()
}

fn is_v1(all: &[Hierarchy]) -> bool {
    all.iter().any(|hierarchy| hierarchy.controllers.split(',').any(|controller| controller == "memory"))
}

/// Runs a test in its box; true when it passed.
pub fn run(name: &str) -> bool {
    if !nix::unistd::Uid::effective().is_root() {
        println!("{name} needs root");
        return false;
    }
    let all = hierarchies();
    let mut places = Vec::new();
    if is_v1(&all) {
        for Hierarchy { controllers, place } in &all {
            let child = place.join(format!("aos-sm-test-{}", std::process::id()));
            fs::create_dir_all(&child).unwrap();
            if controllers.split(',').any(|controller| controller == "cpuset") {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(child.join(file), fs::read(place.join(file)).unwrap()).unwrap();
                }
                fs::write(child.join("cgroup.clone_children"), "1").unwrap();
            }
            places.push(child);
        }
    }
    // Below a group that somebody else manages no process may come to a group beside it, so the box is one of its own,
    // with its processes in a group inside, for a group with processes has no limited ones in it.
    let managed = !is_v1(&all) && all.iter().any(|hierarchy| hierarchy.place != Path::new(CGROUPS));
    if managed {
        allow_controllers(Path::new(CGROUPS));
        let child = Path::new(CGROUPS).join(format!("aos-sm-test-{}", std::process::id()));
        fs::create_dir_all(&child).unwrap();
        places.push(child);
    }
    let script = r#"for place in "$@"; do echo $$ > "$place/cgroup.procs"; done
        exec unshare --cgroup sh -c '
            if [ -n "$AOS_TEST_GROUP" ]; then
                mkdir "$AOS_TEST_GROUP/test" && echo $$ > "$AOS_TEST_GROUP/test/cgroup.procs" || exit 1
            fi
            exec unshare --mount --net --pid --ipc --fork --kill-child --mount-proc --propagation private \
                "$AOS_TEST_PROGRAM" --inside "$AOS_TEST_NAME"'"#;
    let group = if managed { places.last().cloned().unwrap_or_default() } else { PathBuf::new() };
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(&places)
        .env("AOS_TEST_PROGRAM", std::env::current_exe().unwrap())
        .env("AOS_TEST_NAME", name)
        .env(GROUP, group)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    for place in &places {
        remove_tree(place);
    }
    status.success()
}

/// Lets children have every controller there is.
fn allow_controllers(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // Some cannot be given away; the tests need processor, memory and processes.
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn remove_tree(place: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while place.exists() && Instant::now() < deadline {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                remove_tree(&entry.path());
            }
        }
        if fs::remove_dir(place).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Inside the box: last preparations, then the test.
pub fn inside(name: &str) -> ExitCode {
    let all = hierarchies();
    if is_v1(&all) {
        mount(Some("tmpfs"), CGROUPS, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        for Hierarchy { controllers, .. } in all.iter().filter(|hierarchy| !hierarchy.controllers.is_empty())
        {
            let place = Path::new(CGROUPS).join(controllers.trim_start_matches("name="));
            fs::create_dir(&place).unwrap();
            let options = if controllers.starts_with("name=") {
                format!("none,{controllers}")
            } else {
                controllers.clone()
            };
            mount(Some("cgroup"), &place, Some("cgroup"), MsFlags::empty(), Some(options.as_str())).unwrap();
        }
    }
    if std::env::var_os(GROUP).is_some_and(|group| !group.is_empty()) {
        // The same thing is not mounted over itself.
        nix::mount::umount2(CGROUPS, nix::mount::MntFlags::MNT_DETACH).unwrap();
        mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
    }
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let (_, test) = tests::find(name).expect("no such test");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let limit = Duration::from_secs(280) * patience();
        let task = tokio::spawn(test());
        match tokio::time::timeout(limit, task).await {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(_)) => ExitCode::FAILURE,
            Err(_) => {
                eprintln!("{name} took longer than {limit:?}");
                ExitCode::FAILURE
            }
        }
    });
    thaw(Path::new(CGROUPS).join("freezer").as_path());
    result
}

/// A Service Manager that the test ended in the middle of a stop may leave a frozen group, and what is frozen does
/// not end with the box.
fn thaw(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            thaw(&entry.path());
        }
    }
    // The root of a hierarchy has no such file.
    let _ = fs::write(group.join("freezer.state"), "THAWED");
}

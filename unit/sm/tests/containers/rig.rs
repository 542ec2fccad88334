//! A container runtime with a real keeper and nothing else around it: no images, no network, no CM.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_ids::{Digest, InstanceIdent, ItemId, SubjectId};
use aos_item_format::{ImageConfig, ItemConfig};
use aos_sm::ContainerConfig;
use aos_sm::parts::{
    Attached, ContainerRuntime, Data, Flood, Grace, Image, InstanceInfo, Keeper, NodeFigures, Prepared,
    Runtime, SeccompChoice, StartJob,
};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(90);
pub const UID: u32 = 5001;
pub const GID: u32 = 5002;

/// The runtime under test.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub runtime: ContainerRuntime,
    pub floods: mpsc::Receiver<Flood>,
    pub config: ContainerConfig,
}

/// A configuration of the runtime `program` in `folder`.
pub fn config(folder: &Path, program: &str, users: bool) -> ContainerConfig {
    let executable =
        ["/usr/bin", "/usr/sbin"].iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
    ContainerConfig {
        runtime_type: program.to_owned(),
        runtime_dir: "/run/aos/runtime".into(),
        storage_dir: folder.join("storages"),
        state_dir: folder.join("states"),
        state_root: "/run/oci".into(),
        executable: executable.expect("no OCI runtime"),
        cgroup_parent: "/aos-test".into(),
        log_dir: folder.join("logs"),
        log_max_bytes: 65536,
        stop_grace: Duration::from_secs(1),
        user_namespaces: users,
        host_binds: None,
        seccomp: SeccompChoice::Default,
        default_pids_limit: None,
    }
}

impl Rig {
    pub async fn new(program: &str, users: bool) -> Self {
        Self::with(program, users, |_| {}).await
    }

    pub async fn with(program: &str, users: bool, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        let folder = tempfile::Builder::new().prefix("aos-rig-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut config = config(folder.path(), program, users);
        change(&mut config);
        fs::create_dir_all(&config.runtime_dir).unwrap();
        own_null();
        let (exits_in, _) = mpsc::channel(64);
        let (floods_in, floods) = mpsc::channel(64);
        let keeper = std::env::current_exe().unwrap();
        let (keeper, _, task) =
            Keeper::open(config.runtime_dir.clone(), keeper, exits_in, floods_in).await.unwrap();
        tokio::spawn(task);
        let node = NodeFigures { cores: 2, max_dmips: 10_000, max_files: 2000, cgroup_namespaces: true };
        let runtime = ContainerRuntime::open(config.clone(), node, keeper).unwrap();
        let layer = folder.path().join("layer");
        for dir in ["bin", "etc"] {
            fs::create_dir_all(layer.join(dir)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.expect("no busybox"), layer.join("bin/busybox")).unwrap();
        Self { folder, runtime, floods, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An instance that runs `script` with busybox.
    pub fn job(&self, number: u64, script: &str, item: Value) -> StartJob {
        self.job_of(number, &["/bin/busybox", "sh", "-c", script], item)
    }

    /// An instance that runs `argv`, with a network namespace of its own.
    #[allow(clippy::needless_pass_by_value, reason = "mostly called with a literal")]
    pub fn job_of(&self, number: u64, argv: &[&str], item: Value) -> StartJob {
        let ident =
            InstanceIdent::service(ItemId::new("item").unwrap(), SubjectId::new("subject").unwrap(), number);
        let info = InstanceInfo {
            ident,
            version: "1".into(),
            manifest: Digest::from_sha256([0; 32]),
            owner: "owner".into(),
            runtime: "runtime".into(),
            uid: UID,
            gid: GID,
            priority: 0,
            storage_path: format!("storage{number}"),
            state_path: format!("state{number}.dat"),
            env: vec![],
            refused_env: vec![],
            monitoring: None,
        };
        let image = json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": argv},
            "rootfs": {"type": "layers", "diff_ids": []}});
        let image = Image {
            config: ImageConfig::read(image.to_string().as_bytes()).unwrap(),
            item: ItemConfig::read(item.to_string().as_bytes()).unwrap(),
            layers: vec![self.path("layer")],
            blobs: vec![],
        };
        let network = Prepared {
            namespace: network(&info.id()),
            ip: String::new(),
            hosts: "127.0.0.1\tlocalhost\n".into(),
            resolv: String::new(),
        };
        let data = self.runtime.places(&info).unwrap();
        make(&data);
        StartJob {
            info,
            image: Arc::new(image),
            attached: Attached::default(),
            network: Some(network),
            secret: None,
            data,
        }
    }

    /// Starts the instance and answers its instance ID and process.
    pub async fn start(&self, job: &StartJob) -> (String, i32) {
        let pid = self.runtime.start(job).await.unwrap_or_else(|error| panic!("{error:?}"));
        (job.info.id(), pid)
    }

    pub fn log(&self, id: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.runtime.log_path(id)).unwrap_or_default()).into_owned()
    }

    /// Waits until the instance has printed `word`, and answers all it printed.
    pub async fn printed(&self, id: &str, word: &str) -> String {
        wait_for(&format!("'{word}' of the service"), || self.log(id).contains(word).then(|| self.log(id)))
            .await
    }

    /// Starts the instance, waits for it to print `done`, stops it; answers what it printed.
    pub async fn output_of(&self, job: &StartJob) -> String {
        let _ = fs::remove_file(self.runtime.log_path(&job.info.id()));
        let (id, _) = self.start(job).await;
        let text = self.printed(&id, "done\n").await;
        self.runtime.stop(&id, Grace::Of(Duration::ZERO)).await.unwrap();
        text
    }

    /// The processes in the cgroups of an instance.
    pub fn processes(&self, id: &str) -> Vec<i32> {
        let groups = self.runtime.cgroups(id).all;
        let texts = groups.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
        let mut pids: Vec<i32> = texts
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Nothing of the instance is on this host any more.
    pub fn assert_nothing_is_left(&self, id: &str) {
        assert_eq!(self.processes(id), Vec::<i32>::new());
        for place in [self.config.runtime_dir.join(id), self.config.state_root.join(id)] {
            assert!(!place.exists(), "{} is left", place.display());
        }
        for group in self.runtime.cgroups(id).all {
            assert!(!group.exists(), "{} is left", group.display());
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let left: Vec<&str> =
            mounts.lines().filter(|line| line.contains(id) && !line.contains("netns")).collect();
        assert_eq!(left, Vec::<&str>::new());
    }
}

/// A `/dev/null` of the box's own: what runs elsewhere on this machine changes the owner of the other one.
fn own_null() {
    let node = Path::new("/run/null");
    if !node.exists() {
        mknod(node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
        fs::set_permissions(node, fs::Permissions::from_mode(0o666)).unwrap();
        mount(Some(node), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

fn make(data: &Data) {
    let (Some(state), Some(storage)) = (&data.state, &data.storage) else { panic!("no places") };
    if !state.exists() {
        fs::write(state, "").unwrap();
        fs::set_permissions(state, fs::Permissions::from_mode(0o600)).unwrap();
        chown(state, Some(UID), Some(GID)).unwrap();
    }
    if !storage.exists() {
        fs::create_dir(storage).unwrap();
        chown(storage, Some(UID), Some(GID)).unwrap();
    }
}

fn network(id: &str) -> PathBuf {
    let place = Path::new("/run/netns").join(id);
    if !place.exists() {
        assert!(Command::new("ip").args(["netns", "add", id]).status().unwrap().success());
        let up = Command::new("ip").args(["-n", id, "link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
    }
    place
}

/// `NAME=value` lines as a map.
pub fn values(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Asks again and again until there is an answer.
pub async fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in fs::read_dir(&self.config.log_dir).into_iter().flatten().flatten() {
                let text = fs::read(log.path()).unwrap_or_default();
                eprintln!("{}:\n{}", log.path().display(), String::from_utf8_lossy(&text));
            }
        }
        // Overlays still mounted would keep the folder busy; the box takes them down anyway.
        for entry in fs::read_dir(&self.config.runtime_dir).into_iter().flatten().flatten() {
            for name in ["rootfs", "sys"] {
                let place = entry.path().join(name);
                let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

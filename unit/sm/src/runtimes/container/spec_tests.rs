//! The specification, value by value.

use aos_ids::{Digest, InstanceIdent, ItemId, SubjectId};
use aos_item_format::{ImageConfig, ItemConfig, ResourceMount};

use super::super::mounts::host_files;
use super::super::seccomp;
use super::*;

fn image(item: &str) -> Image {
    Image {
        config: ImageConfig::read(
            br#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/run"],"Cmd":["-x"],"Env":["A=image","PATH=/p"],
                "WorkingDir":"/w"},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap(),
        item: ItemConfig::read(item.as_bytes()).unwrap(),
        layers: vec![],
        blobs: vec![],
    }
}

fn info() -> InstanceInfo {
    let ident = InstanceIdent::service(ItemId::new("i").unwrap(), SubjectId::new("s").unwrap(), 3);
    InstanceInfo {
        ident,
        version: "1".into(),
        manifest: Digest::from_sha256([0; 32]),
        owner: "o".into(),
        runtime: "r".into(),
        uid: 5001,
        gid: 5002,
        priority: 0,
        storage_path: String::new(),
        state_path: String::new(),
        env: vec![("A".into(), "override".into())],
        refused_env: vec![],
        monitoring: None,
    }
}

const NODE: NodeFigures =
    NodeFigures { cores: 4, max_dmips: 10_000, max_files: 2000, cgroup_namespaces: true };

/// A specification of an item with these resources, changed by `change` before it is built.
fn spec_with(
    item: &str,
    attached: &Attached,
    change: impl for<'a> FnOnce(&mut Input<'a>),
) -> Result<Value, Error> {
    let (info, image) = (info(), image(item));
    let mut input = Input {
        info: &info,
        image: &image,
        attached,
        rootfs: Path::new("/b/rootfs"),
        namespace: Path::new("/n/id"),
        state: Some("/states/a".into()),
        storage: Some("/storages/a".into()),
        secret: None,
        cgroups_path: "/parent/id".into(),
        node: NODE,
        host_files: &[],
        users: None,
        seccomp: None,
        default_pids: None,
    };
    change(&mut input);
    build(&input)
}

fn spec_of(item: &str, attached: &Attached) -> Result<Value, Error> {
    spec_with(item, attached, |_| {})
}

// Every row of the table of specification values, one after the other; sheet 15 line 4.
#[test]
fn the_whole_specification_is_as_promised() {
    let item = r#"{"hostname":"h","sysctl":{"net.core.somaxconn":"99"},
        "quotas":{"cpuDMIPSLimit":2500,"ramLimit":1000,"pidsLimit":7,"noFileLimit":1500,"tmpLimit":4096}}"#;
    let attached = Attached { groups: vec![44], ..Attached::default() };
    let spec = spec_of(item, &attached).unwrap();
    let mut keys: Vec<&String> = spec.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["hostname", "linux", "mounts", "ociVersion", "process", "root"]);
    assert_eq!(spec["ociVersion"], "1.0.2");
    assert_eq!(spec["root"], json!({"path": "/b/rootfs", "readonly": true}));
    assert_eq!(spec["hostname"], "h");

    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let limit = |kind: &str, value: u64| json!({"type": kind, "soft": value, "hard": value});
    let id = info().id();
    assert_eq!(
        spec["process"],
        json!({
            "terminal": false,
            "user": {"uid": 5001, "gid": 5002, "additionalGids": [44]},
            "args": ["/run", "-x"],
            "env": ["PATH=/p", "TERM=xterm", "AOS_ITEM_ID=i", "AOS_SUBJECT_ID=s", "AOS_INSTANCE_INDEX=3",
                format!("AOS_INSTANCE_ID={id}"), "A=override"],
            "cwd": "/w",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [limit("RLIMIT_NOFILE", 1500), limit("RLIMIT_NPROC", 7)],
            "oomScoreAdj": 500,
        })
    );

    let linux = &spec["linux"];
    assert_eq!(
        linux["namespaces"],
        json!([{"type": "pid"}, {"type": "network", "path": "/n/id"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "mount"}, {"type": "cgroup"}])
    );
    assert_eq!(linux["cgroupsPath"], "/parent/id");
    assert_eq!(linux["sysctl"], json!({"net.core.somaxconn": "99"}));
    assert_eq!(linux["resources"]["cpu"], json!({"period": 100_000, "quota": 100_000}));
    assert_eq!(linux["resources"]["memory"], json!({"limit": 1000}));
    assert_eq!(linux["resources"]["pids"], json!({"limit": 7}));
    assert_eq!(linux["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    for masked in ["acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats"] {
        assert!(linux["maskedPaths"].as_array().unwrap().contains(&json!(format!("/proc/{masked}"))));
    }
    for masked in ["/proc/sched_debug", "/proc/scsi", "/sys/firmware"] {
        assert!(linux["maskedPaths"].as_array().unwrap().contains(&json!(masked)));
    }
    assert_eq!(
        linux["readonlyPaths"],
        json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
    );
    assert_eq!(linux["uidMappings"], Value::Null);
    assert_eq!(linux["seccomp"], Value::Null);
    assert_eq!(spec["hooks"], Value::Null);

    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let none = ["nosuid", "noexec", "nodev"];
    assert_eq!(
        spec["mounts"],
        json!([
            mount("/proc", "proc", "proc", &none),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
            ),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &none),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "strictatime", "mode=1777", "size=4096"]),
            mount("/state.dat", "bind", "/states/a", &["bind", "rw", "nosuid", "nodev"]),
            mount("/storage", "bind", "/storages/a", &["bind", "rw", "nosuid", "nodev"]),
        ])
    );
}

#[test]
fn without_any_wish_the_defaults_hold() {
    let spec = spec_with("{}", &Attached::default(), |input| {
        input.state = None;
        input.storage = None;
    })
    .unwrap();
    assert_eq!(spec["hostname"], "runc");
    assert_eq!(spec["process"]["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}]));
    for limit in ["memory", "pids", "cpu"] {
        assert_eq!(spec["linux"]["resources"][limit], Value::Null, "{limit}");
    }
    for place in ["/tmp", "/state.dat", "/storage", "/etc/ssl", "/etc/nsswitch.conf"] {
        assert!(!spec["mounts"].as_array().unwrap().iter().any(|mount| mount["destination"] == place));
    }
    let mut image = image("{}");
    image.config.config.working_dir = String::new();
    let image: &'static Image = Box::leak(Box::new(image));
    let no_folder = spec_with("{}", &Attached::default(), |input| input.image = image).unwrap();
    assert_eq!(no_folder["process"]["cwd"], "/");
    let limited = spec_with("{}", &Attached::default(), |input| input.default_pids = Some(64)).unwrap();
    assert_eq!(limited["linux"]["resources"]["pids"], json!({"limit": 64}));
    let own = r#"{"quotas":{"pidsLimit":7,"noFileLimit":9000}}"#;
    let own = spec_with(own, &Attached::default(), |input| input.default_pids = Some(64)).unwrap();
    assert_eq!(own["linux"]["resources"]["pids"], json!({"limit": 7}));
    assert_eq!(own["process"]["rlimits"][0]["hard"], 2000, "no more than this process may grant");
}

// SM-50
#[test]
fn later_sources_of_variables_win() {
    let attached = Attached {
        env: vec!["B=resource".into(), "AOS_ITEM_ID=r".into(), "A=r".into()],
        ..Attached::default()
    };
    let secret = crate::permissions::Secret::new("s3cret".into());
    let spec = spec_with("{}", &attached, |input| {
        // A copy that lives as long as the input.
        input.secret = Some(Box::leak(Box::new(secret)));
    })
    .unwrap();
    let env: Vec<&str> =
        spec["process"]["env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        env,
        [
            "PATH=/p",
            "TERM=xterm",
            "AOS_ITEM_ID=r",
            "AOS_SUBJECT_ID=s",
            "AOS_INSTANCE_INDEX=3",
            &format!("AOS_INSTANCE_ID={}", info().id()),
            "A=override",
            "AOS_SECRET=s3cret",
            "B=resource",
        ]
    );
}

#[test]
fn little_cpu_is_never_none() {
    let node = NodeFigures { cores: 1, max_dmips: 1_000_000, max_files: 1, cgroup_namespaces: false };
    assert_eq!(cpu_quota(1, &node), Some(1000));
    assert_eq!(cpu_quota(1, &NodeFigures { max_dmips: 0, ..node }), None);
    assert_eq!(cpu_quota(u64::MAX, &NodeFigures { max_dmips: 1, cores: 64, ..node }), Some(u64::MAX));
    // 3 of 7 DMIPS on 2 cores, cut to an integer.
    assert_eq!(cpu_quota(3, &NodeFigures { max_dmips: 7, cores: 2, ..node }), Some(85_714));
}

fn device(source: &str, path: &str) -> Device {
    Device {
        source: source.into(),
        path: path.into(),
        kind: 'c',
        major: 4,
        minor: 5,
        mode: 0o660,
        uid: 1,
        gid: 2,
        access: "rw".into(),
    }
}

fn resource_at(destination: &str) -> ResourceMount {
    ResourceMount {
        source: "/run".into(),
        destination: destination.into(),
        kind: String::new(),
        options: vec!["ro".into()],
    }
}

#[test]
fn resources_are_mounted_and_allowed_as_the_item_says() {
    let attached = Attached {
        devices: vec![device("/dev/host-x", "/dev/x"), device("/dev/host-y", "/outside/y")],
        mounts: vec![resource_at("/run/x"), resource_at("/storage")],
        ..Attached::default()
    };
    let spec = spec_of("{}", &attached).unwrap();
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(
        rules.last().unwrap(),
        &json!({"allow": true, "type": "c", "major": 4, "minor": 5, "access": "rw"})
    );
    assert_eq!(
        spec["linux"]["devices"],
        json!([{"path": "/dev/x", "type": "c", "major": 4, "minor": 5, "fileMode": 0o660, "uid": 1, "gid": 2}])
    );
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(mounts.iter().filter(|mount| mount["destination"] == "/storage").count(), 1);
    let storage = mounts.iter().find(|mount| mount["destination"] == "/storage").unwrap();
    assert_eq!(storage["source"], "/storages/a", "the later mount wins");
    assert!(mounts.iter().any(|mount| mount["destination"] == "/run/x" && mount["type"] == "bind"));
    assert!(
        mounts.iter().any(|mount| mount["destination"] == "/outside/y" && mount["source"] == "/dev/host-y"),
        "no node can be made in a root that is read-only"
    );
    for bad in ["relative", "/a/../../b", "/"] {
        let attached = Attached { mounts: vec![resource_at(bad)], ..Attached::default() };
        assert!(spec_of("{}", &attached).is_err(), "{bad}");
    }
}

#[test]
fn a_user_namespace_changes_what_has_to_change() {
    let attached =
        Attached { groups: vec![44], devices: vec![device("/dev/host-x", "/dev/x")], ..Attached::default() };
    let map = IdMap::of(&info(), &attached.groups).unwrap();
    let item = r#"{"sysctl":{"net.core.somaxconn":"99","kernel.msgmax":"1"}}"#;
    let map: &'static IdMap = Box::leak(Box::new(map));
    let spec = spec_with(item, &attached, |input| {
        input.users = Some(Users { map, sysfs: Path::new("/b/sys") });
    })
    .unwrap();
    let linux = &spec["linux"];
    assert_eq!(linux["namespaces"].as_array().unwrap().last().unwrap(), &json!({"type": "user"}));
    assert_eq!(linux["uidMappings"].as_array().unwrap().len(), 3);
    assert_eq!(linux["uidMappings"][1], json!({"containerID": 5001, "hostID": 5001, "size": 1}));
    assert_eq!(linux["gidMappings"][1], json!({"containerID": 44, "hostID": 44, "size": 1}));
    assert_eq!(linux["sysctl"], json!({"kernel.msgmax": "1"}));
    assert_eq!(linux["devices"], Value::Null);
    let mounts = spec["mounts"].as_array().unwrap();
    let of = |place: &str| mounts.iter().find(|mount| mount["destination"] == place).unwrap();
    assert_eq!((of("/sys")["type"].as_str(), of("/sys")["source"].as_str()), (Some("bind"), Some("/b/sys")));
    assert_eq!(of("/dev/x")["source"], "/dev/host-x");
    assert_eq!(spec["process"]["user"]["uid"], 5001);
    let root = InstanceInfo { uid: 0, ..info() };
    assert!(IdMap::of(&root, &[]).is_err(), "no instance is the host's root");
}

#[test]
fn the_filter_is_taken_as_it_is() {
    let filter: &'static Value = Box::leak(Box::new(seccomp::profile("x86_64").unwrap()));
    let spec = spec_with("{}", &Attached::default(), |input| input.seccomp = Some(filter)).unwrap();
    assert_eq!(&spec["linux"]["seccomp"], filter);
}

#[test]
fn files_of_the_host_are_for_images_without_them() {
    let layers = [PathBuf::from("/l/one"), PathBuf::from("/l/two")];
    let shown =
        |there: &[&str]| host_files(&layers, |path| there.iter().any(|known| path == Path::new(known)));
    let both = ["/etc/nsswitch.conf", "/etc/ssl"];
    assert_eq!(shown(&both), both.map(PathBuf::from));
    assert_eq!(shown(&["/etc/ssl"]), [PathBuf::from("/etc/ssl")], "what the host has not is left out");
    assert_eq!(shown(&["/etc/ssl", "/l/two/etc/ssl"]), Vec::<PathBuf>::new(), "the image has its own");
    let files = shown(&both);
    let files: &'static [PathBuf] = Box::leak(files.into_boxed_slice());
    let spec = spec_with("{}", &Attached::default(), |input| input.host_files = files).unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    let ssl = mounts.iter().find(|mount| mount["destination"] == "/etc/ssl").unwrap();
    assert_eq!(ssl["options"], json!(["bind", "ro", "nosuid", "nodev"]));
}

#[test]
fn an_image_without_a_process_is_refused() {
    let mut image = image("{}");
    image.config.config.entrypoint.clear();
    image.config.config.cmd.clear();
    let image: &'static Image = Box::leak(Box::new(image));
    let attached = Attached::default();
    assert!(spec_with("{}", &attached, |input| input.image = image).is_err());
}

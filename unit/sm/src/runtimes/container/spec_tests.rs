//! The specification, value by value.

use super::*;
use aos_ids::{Digest, InstanceIdent, ItemId, SubjectId};
use aos_item_format::{ImageConfig, ItemConfig};

fn image(item: &str) -> Image {
    Image {
        config: ImageConfig::read(
            br#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/run"],"Cmd":["-x"],"Env":["A=image","PATH=/p"],
                "WorkingDir":"/w"},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap(),
        item: ItemConfig::read(item.as_bytes()).unwrap(),
        layers: vec![],
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
        monitoring: None,
    }
}

fn spec_of(item: &str, attached: &Attached) -> Result<Value, Error> {
    build(&Input {
        info: &info(),
        image: &image(item),
        attached,
        rootfs: Path::new("/b/rootfs"),
        namespace: Path::new("/n/id"),
        state: Some("/states/a".into()),
        storage: Some("/storages/a".into()),
        secret: None,
        cgroups_path: "/parent/id".into(),
        node: NodeFigures { cores: 4, max_dmips: 10_000, max_files: 2000, cgroup_namespaces: true },
    })
}

#[test]
fn the_process_is_confined() {
    let spec = spec_of(r#"{"hostname":"h"}"#, &Attached { groups: vec![44], ..Attached::default() }).unwrap();
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["/run", "-x"]));
    assert_eq!(process["cwd"], "/w");
    assert_eq!(process["user"], json!({"uid": 5001, "gid": 5002, "additionalGids": [44]}));
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["terminal"], false);
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(
            process["capabilities"][set],
            json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"])
        );
    }
    assert_eq!(process["capabilities"]["ambient"], Value::Null);
    assert_eq!(spec["root"], json!({"path": "/b/rootfs", "readonly": true}));
    assert_eq!(spec["hostname"], "h");
    let kinds: Vec<&str> =
        spec["linux"]["namespaces"].as_array().unwrap().iter().filter_map(|n| n["type"].as_str()).collect();
    assert_eq!(kinds, ["pid", "network", "ipc", "uts", "mount", "cgroup"]);
    assert_eq!(spec["linux"]["namespaces"][1]["path"], "/n/id");
    assert_eq!(spec["linux"]["cgroupsPath"], "/parent/id");
    assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 10);
    assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    let text = spec.to_string();
    assert!(
        !text.contains("\"source\":\"/\"") && !text.contains("/etc/ssl"),
        "nothing of the host is mounted"
    );
}

// SM-50
#[test]
fn later_sources_of_variables_win() {
    let attached = Attached { env: vec!["B=resource".into(), "AOS_ITEM_ID=r".into()], ..Attached::default() };
    let spec = spec_of("{}", &attached).unwrap();
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
            "B=resource",
        ]
    );
}

#[test]
fn quotas_become_limits() {
    let item = r#"{"quotas":{"cpuDMIPSLimit":2500,"ramLimit":1000,"pidsLimit":7,"noFileLimit":9000,"tmpLimit":4096}}"#;
    let spec = spec_of(item, &Attached::default()).unwrap();
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["cpu"], json!({"period": 100_000, "quota": 100_000}));
    assert_eq!(resources["memory"], json!({"limit": 1000}));
    assert_eq!(resources["pids"], json!({"limit": 7}));
    assert_eq!(spec["process"]["rlimits"][0], json!({"type": "RLIMIT_NOFILE", "soft": 2000, "hard": 2000}));
    assert_eq!(spec["process"]["rlimits"][1]["type"], "RLIMIT_NPROC");
    let mounts = spec["mounts"].as_array().unwrap();
    let tmp = mounts.iter().find(|mount| mount["destination"] == "/tmp").unwrap();
    assert!(tmp["options"].as_array().unwrap().contains(&json!("size=4096")));
    let none = spec_of("{}", &Attached::default()).unwrap();
    assert!(none["linux"]["resources"]["memory"].is_null());
    assert!(!none["mounts"].as_array().unwrap().iter().any(|mount| mount["destination"] == "/tmp"));
}

#[test]
fn little_cpu_is_never_none() {
    let node = NodeFigures { cores: 1, max_dmips: 1_000_000, max_files: 1, cgroup_namespaces: false };
    assert_eq!(cpu_quota(1, &node), Some(1000));
    assert_eq!(cpu_quota(1, &NodeFigures { max_dmips: 0, ..node }), None);
    assert_eq!(cpu_quota(u64::MAX, &NodeFigures { max_dmips: 1, cores: 64, ..node }), Some(u64::MAX));
}

#[test]
fn resources_are_mounted_and_allowed_as_the_item_says() {
    let device = Device {
        path: "/dev/x".into(),
        kind: 'c',
        major: 4,
        minor: 5,
        mode: 0o660,
        uid: 1,
        gid: 2,
        access: "rw".into(),
    };
    let mount = |destination: &str| ResourceMount {
        source: "/run".into(),
        destination: destination.into(),
        kind: String::new(),
        options: vec!["ro".into()],
    };
    let attached = Attached {
        devices: vec![device],
        mounts: vec![mount("/run/x"), mount("/storage")],
        ..Attached::default()
    };
    let spec = spec_of("{}", &attached).unwrap();
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(
        rules.last().unwrap(),
        &json!({"allow": true, "type": "c", "major": 4, "minor": 5, "access": "rw"})
    );
    assert_eq!(spec["linux"]["devices"][0]["fileMode"], 0o660);
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(mounts.iter().filter(|mount| mount["destination"] == "/storage").count(), 1);
    let storage = mounts.iter().find(|mount| mount["destination"] == "/storage").unwrap();
    assert_eq!(storage["source"], "/storages/a", "the later mount wins");
    assert!(mounts.iter().any(|mount| mount["destination"] == "/run/x" && mount["type"] == "bind"));
    for bad in ["relative", "/a/../../b", "/"] {
        let attached = Attached { mounts: vec![mount(bad)], ..Attached::default() };
        assert!(spec_of("{}", &attached).is_err(), "{bad}");
    }
}

#[test]
fn an_image_without_a_process_is_refused() {
    let mut image = image("{}");
    image.config.config.entrypoint.clear();
    image.config.config.cmd.clear();
    let attached = Attached::default();
    let input = Input {
        info: &info(),
        image: &image,
        attached: &attached,
        rootfs: Path::new("/r"),
        namespace: Path::new("/n"),
        state: None,
        storage: None,
        secret: None,
        cgroups_path: "/c".into(),
        node: NodeFigures { cores: 1, max_dmips: 1, max_files: 1, cgroup_namespaces: false },
    };
    assert!(build(&input).is_err());
}

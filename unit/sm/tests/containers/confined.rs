//! What a container is shown and what it is refused, with crun and runc, with host ids and in a user namespace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use aos_item_format::ResourceMount;
use aos_sm::parts::{Attached, Device, Grace, Runtime};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

use crate::rig::{GID, Rig, UID, values};

// SM-05, SM-37, SM-49, REL-27
pub async fn crun_confines_what_it_runs() {
    confines("crun").await;
}

pub async fn runc_confines_what_it_runs() {
    confines("runc").await;
}

/// Prints one `NAME=value` line for each question.
const QUESTIONS: &str = r#"
b=/bin/busybox; cat() { $b cat "$@"; }
echo "root=$($b ls -A / | $b tr '\n' ' ')"
echo "user=$($b id -u):$($b id -g)"
echo "groups=$($b id -G)"
echo "map=$($b awk '{print $1 ">" $2}' /proc/self/uid_map | $b tr '\n' ' ')"
for field in CapEff CapPrm CapBnd CapAmb NoNewPrivs Seccomp; do
  echo "$field=$($b awk "/^$field:/ {print \$2}" /proc/self/status)"; done
echo "score=$(cat /proc/self/oom_score_adj)"
says() { name=$1; shift; out=$("$@" 2>&1) && echo "$name=allowed" || echo "$name=${out##*: }"; }
says write_root $b touch /x
says write_bin $b touch /bin/busybox
says write_sysctl $b sh -c 'echo 1 > /proc/sys/kernel/panic'
says sysrq $b sh -c 'echo h > /proc/sysrq-trigger'
says mount $b mount -t tmpfs none /storage
says unshare $b unshare -U true
says chroot $b chroot / /bin/busybox true
says hostname $b hostname other
says mknod $b mknod /storage/null c 1 3
says kill_host $b kill -9 -1
echo "kcore=$(cat /proc/kcore 2>/dev/null | $b head -c 1 | $b wc -c)"
echo "firmware=$($b ls -A /sys/firmware | $b wc -l)"
says shm $b dd if=/dev/zero of=/dev/shm/f bs=1M count=100
echo "shm_kept=$($b stat -c %s /dev/shm/f)"
says tmp $b dd if=/dev/zero of=/tmp/f bs=64k count=100
echo "tmp_kept=$($b stat -c %s /tmp/f)"
says storage $b sh -c 'echo s > /storage/f'
says state $b sh -c 'echo s >> /state.dat'
says listed $b sh -c ': < /dev/listed'
says outside $b sh -c ': < /outside/listed'
says unlisted $b sh -c ': < /dev/unlisted'
says null $b sh -c 'echo x > /dev/null'
says readonly $b touch /shown/x
echo "shown=$(cat /shown/file)"
echo "links=$($b ls /sys/class/net | $b tr '\n' ' ')"
echo "port=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)"
echo done
"#;

async fn confines(program: &str) {
    for users in [false, true] {
        let rig = Rig::new(program, users).await;
        let host_null = fs::metadata("/dev/null").unwrap();
        for (name, minor) in [("listed", 229), ("unlisted", 237)] {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&rig.path(name), SFlag::S_IFCHR, mode, makedev(10, minor)).unwrap();
            fs::set_permissions(rig.path(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        fs::create_dir(rig.path("shown")).unwrap();
        fs::write(rig.path("shown/file"), "visible").unwrap();
        let mut item = json!({"hostname": "box", "quotas": {"tmpLimit": 1_048_576},
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "80"}, "baseLayerIsNodeRootfs": true});
        item["quotas"]["pidsLimit"] = json!(50);
        let mut job = rig.job(0, QUESTIONS, item);
        let device = |name: &str, path: &str, minor, access: &str| Device {
            source: rig.path(name),
            path: path.into(),
            kind: 'c',
            major: 10,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: access.into(),
        };
        job.attached = Attached {
            groups: vec![6],
            mounts: vec![ResourceMount {
                source: rig.path("shown").to_string_lossy().into_owned(),
                destination: "/shown".into(),
                kind: String::new(),
                options: vec!["bind".into(), "ro".into()],
            }],
            devices: vec![
                device("listed", "/dev/listed", 229, "rw"),
                device("listed", "/outside/listed", 229, "rw"),
                // Its node is there, but nothing allows it.
                device("unlisted", "/dev/unlisted", 237, ""),
            ],
            ..Attached::default()
        };
        let text = rig.output_of(&job).await;
        let found = values(&text);
        let is = |name: &str, value: &str| {
            assert_eq!(found.get(name).copied(), Some(value), "{name}, users {users}:\n{text}");
        };
        let root: Vec<&str> = found["root"].split(' ').filter(|name| !name.is_empty()).collect();
        let known = ["bin", "dev", "etc", "outside", "proc", "shown", "state.dat", "storage", "sys", "tmp"];
        assert_eq!(root, known, "nothing of the host shows through");
        is("user", "5001:5002");
        is("groups", "5002 6");
        for (set, value) in [("CapEff", "0000000000000000"), ("CapPrm", "0000000000000000")] {
            is(set, value);
        }
        is("CapBnd", "0000000020000420");
        is("CapAmb", "0000000000000000");
        is("NoNewPrivs", "1");
        is("Seccomp", "2");
        is("score", "500");
        for name in ["write_root", "write_bin", "readonly"] {
            is(name, "Read-only file system");
        }
        for name in ["write_sysctl", "sysrq"] {
            assert_ne!(found[name], "allowed", "{name}:\n{text}");
        }
        is("mount", "permission denied (are you root?)");
        for name in ["unshare", "chroot", "hostname", "mknod", "unlisted"] {
            is(name, "Operation not permitted");
        }
        is("kcore", "0");
        is("firmware", "0");
        is("shm", "No space left on device");
        is("shm_kept", "67108864");
        is("tmp", "No space left on device");
        is("tmp_kept", "1048576");
        for name in ["storage", "state", "null", "listed", "outside"] {
            is(name, "allowed");
        }
        is("shown", "visible");
        is("links", "lo ");
        is("port", "80");
        if users {
            assert!(found["map"].starts_with("0>1") && found["map"].contains("5001>5001"), "{text}");
        } else {
            is("map", "0>0 ");
        }
        let owner = fs::metadata(rig.config.storage_dir.join("storage0/f")).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (UID, GID), "users {users}");
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!(
            (null.uid(), null.gid()),
            (host_null.uid(), host_null.gid()),
            "the host's /dev/null is kept"
        );
        assert_eq!(null.uid(), 0);
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), "1024\n");
        rig.assert_nothing_is_left(&job.info.id());
    }
}

// REL-27
pub async fn data_stays_the_instances_own_in_both_modes() {
    let folder = tempfile::Builder::new().prefix("aos-data-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let script = "b=/bin/busybox; echo x >> /state.dat && echo x >> /storage/f && $b mkdir -p /storage/d && \
        $b touch /storage/d/$($b ls /storage/d | $b wc -l) && $b chmod 600 /storage/f && echo good; echo done";
    for (round, users) in [false, true, true, false, true].into_iter().enumerate() {
        let rig = Rig::with("crun", users, |config| {
            config.storage_dir = folder.path().join("storages");
            config.state_dir = folder.path().join("states");
        })
        .await;
        let job = rig.job(0, script, json!({}));
        let text = rig.output_of(&job).await;
        assert!(text.contains("good"), "round {round}, users {users}: {text}");
        let at = |path: &str| folder.path().join(path);
        for path in
            [at("states/state0.dat"), at("storages/storage0/f"), at(&format!("storages/storage0/d/{round}"))]
        {
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (UID, GID), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(at("states/state0.dat")).unwrap().lines().count(), round + 1);
    }
}

pub async fn a_network_parameter_of_another_kind_is_refused() {
    let rig = Rig::new("crun", true).await;
    let before = fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    let other = if before.trim() == "7" { "8" } else { "7" };
    let job = rig.job(0, "echo done", json!({"sysctl": {"net/../kernel/panic": other}}));
    assert!(rig.runtime.start(&job).await.is_err());
    rig.assert_nothing_is_left(&job.info.id());
    assert_eq!(fs::read_to_string("/proc/sys/kernel/panic").unwrap(), before);
    // And an instance of root has no place in a user namespace.
    let mut job = rig.job(1, "echo done", json!({}));
    job.info.uid = 0;
    assert!(rig.runtime.start(&job).await.is_err());
    rig.assert_nothing_is_left(&job.info.id());
}

pub async fn a_profile_of_system_calls_can_be_chosen() {
    let profile = tempfile::NamedTempFile::new_in("/run").unwrap();
    let rules = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    fs::write(profile.path(), rules.to_string()).unwrap();
    let script = "b=/bin/busybox; $b awk '/^Seccomp:/ {print \"mode=\" $2}' /proc/self/status; $b mkdir /storage/d; echo done";
    for (choice, mode, made) in [("unconfined", "mode=0", true), ("file", "mode=2", false)] {
        let rig = Rig::with("crun", false, |config| {
            config.seccomp = match choice {
                "file" => aos_sm::parts::SeccompChoice::File(profile.path().to_owned()),
                _ => aos_sm::parts::SeccompChoice::Unconfined,
            };
        })
        .await;
        let text = rig.output_of(&rig.job(0, script, json!({}))).await;
        assert!(text.contains(mode), "{choice}: {text}");
        assert_eq!(text.contains("not supported"), !made, "{choice}: {text}");
    }
    let rig = Rig::with("crun", false, |config| {
        config.seccomp = aos_sm::parts::SeccompChoice::File(Path::new("/no/such/profile").to_owned());
    })
    .await;
    let job = rig.job(0, script, json!({}));
    let error = rig.runtime.start(&job).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/profile"), "{error}");
    rig.runtime.stop(&job.info.id(), Grace::Of(Duration::ZERO)).await.unwrap();
    rig.assert_nothing_is_left(&job.info.id());
}

//! Ordinary software of the distribution under our confinement: nginx and Python, from the host as base layer.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use aos_sm::parts::{Grace, Image, Runtime, SeccompChoice, StartJob};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use std::time::Duration;

use crate::rig::Rig;
use crate::rig::wait_for;

const NOW: Grace = Grace::Of(Duration::ZERO);

/// A rig whose instances may lie over the host's programs.
async fn over_the_host(program: &str, users: bool, seccomp: SeccompChoice) -> Rig {
    Rig::with(program, users, |config| {
        config.host_binds = Some(["bin", "sbin", "lib", "lib64", "usr"].map(str::to_owned).into());
        config.seccomp = seccomp;
    })
    .await
}

/// The job with an image of these layers.
fn with_layers(mut job: StartJob, layers: Vec<PathBuf>) -> StartJob {
    let image = Image { layers, ..Image::clone(&job.image) };
    job.image = Arc::new(image);
    job
}

const NGINX: &str = "daemon off; pid /tmp/pid; error_log stderr; worker_processes 2;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 127.0.0.1:8080; location / { return 200 \"hello from nginx\\n\"; } }
}";

pub async fn nginx_serves_in_both_modes() {
    for (program, users) in [("crun", true), ("runc", true), ("crun", false)] {
        let rig = over_the_host(program, users, SeccompChoice::Default).await;
        fs::create_dir_all(rig.path("web/etc")).unwrap();
        fs::write(rig.path("web/etc/nginx.conf"), NGINX).unwrap();
        let item = json!({"quotas": {"tmpLimit": 1_048_576}});
        let job = rig.job_of(0, &["/usr/sbin/nginx", "-c", "/etc/nginx.conf"], item);
        let job = with_layers(job, vec![rig.path("web")]);
        let (id, _) = rig.start(&job).await;
        let get = || {
            let output = Command::new("ip")
                .args(["netns", "exec", &id, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])
                .output()
                .unwrap();
            (output.stdout == b"hello from nginx\n").then_some(())
        };
        wait_for("nginx's answer", get).await;
        wait_for("the access log", || rig.log(&id).contains("GET / HTTP").then_some(())).await;
        rig.runtime.stop(&id, NOW).await.unwrap();
        rig.assert_nothing_is_left(&id);
    }
}

// REL-27
pub async fn the_host_is_the_base_only_where_asked() {
    let rig = over_the_host("crun", true, SeccompChoice::Default).await;
    for dir in ["one/usr/share/mine", "two/usr/bin", "two/opt"] {
        fs::create_dir_all(rig.path(dir)).unwrap();
    }
    fs::write(rig.path("one/usr/share/mine/file"), "of the image").unwrap();
    // The upper layer hides a program of the host.
    let hidden = rig.path("two/usr/bin/env");
    mknod(&hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    let script = "ls -A / | tr '\\n' ' '; echo; cat /usr/share/mine/file; echo; test -e /usr/bin/env || echo hidden; \
        test -e /usr/bin/tr && echo shown; ls -A /home /root /var /opt 2>&1; touch /usr/x 2>&1; echo done";
    let job = rig.job_of(0, &["/bin/sh", "-c", script], json!({"baseLayerIsNodeRootfs": true}));
    let job = with_layers(job, vec![rig.path("one"), rig.path("two")]);
    let text = rig.output_of(&job).await;
    let root: Vec<&str> = text.lines().next().unwrap().split(' ').filter(|name| !name.is_empty()).collect();
    let allowed =
        ["bin", "dev", "etc", "lib", "lib64", "opt", "proc", "sbin", "state.dat", "storage", "sys", "usr"];
    assert!(root.iter().all(|name| allowed.contains(name)), "the host shows through: {text}");
    for word in ["of the image", "hidden", "shown", "Read-only file system"] {
        assert!(text.contains(word), "'{word}' is not in {text}");
    }
    rig.assert_nothing_is_left(&job.info.id());

    // Without the item's wish there is nothing of the host, so no shell either.
    let job = rig.job_of(1, &["/bin/sh", "-c", "echo up"], json!({"baseLayerIsNodeRootfs": false}));
    let job = with_layers(job, vec![rig.path("one")]);
    assert!(rig.runtime.start(&job).await.is_err());
    rig.assert_nothing_is_left(&job.info.id());
    // And without the configuration's, which is the default.
    let rig = Rig::new("crun", true).await;
    let job = rig.job_of(2, &["/bin/sh", "-c", "echo up"], json!({"baseLayerIsNodeRootfs": true}));
    assert!(rig.runtime.start(&job).await.is_err());
    rig.assert_nothing_is_left(&job.info.id());
}

/// Makes the calls and prints the error numbers; 0 for none.
const CALLS: &str = r#"
import ctypes, json, os, platform, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
machines = {
  "x86_64": dict(mount=165, umount2=166, ptrace=101, kexec_load=246, bpf=321, keyctl=250, add_key=248,
    request_key=249, userfaultfd=323, unshare=272, setns=308, pivot_root=155, open_by_handle_at=304,
    perf_event_open=298, init_module=175, process_vm_readv=310, reboot=169, clone=56, getpid=39),
  "aarch64": dict(mount=40, umount2=39, ptrace=117, kexec_load=104, bpf=280, keyctl=219, add_key=217,
    request_key=218, userfaultfd=282, unshare=97, setns=268, pivot_root=41, open_by_handle_at=265,
    perf_event_open=241, init_module=105, process_vm_readv=270, reboot=142, clone=220, getpid=172),
}
numbers = machines[platform.machine()]
numbers.update(io_uring_setup=425, fsopen=430, clone3=435, pidfd_getfd=438, no_such=5000)
def call(number, *words):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(word) for word in words])
    return ctypes.get_errno() if result < 0 else 0
found = {name: call(number, 0, 0, 0, 0, 0, 0) for name, number in numbers.items() if name not in ("clone", "unshare", "ptrace")}
# Options of no process: nothing happens if it is allowed.
found["ptrace"] = call(numbers["ptrace"], 0x4200, 0, 0, 0)
def clone(flags):
    ctypes.set_errno(0)
    child = libc.syscall(ctypes.c_long(numbers["clone"]), ctypes.c_long(flags | 17), *[ctypes.c_long(0)] * 4)
    if child == 0: os._exit(0)
    if child > 0: os.waitpid(child, 0)
    return ctypes.get_errno() if child < 0 else 0
found["unshare"] = call(numbers["unshare"], 0x10000000)
for name, flags in [("plain", 0), ("user", 0x10000000), ("mount", 0x20000), ("cgroup", 0x2000000),
    ("uts", 0x4000000), ("ipc", 0x8000000), ("pid", 0x20000000), ("net", 0x40000000)]:
    found["clone_" + name] = clone(flags)
def family(number):
    try: socket.socket(number, socket.SOCK_STREAM).close(); return 0
    except OSError as error: return error.errno
for name, number in [("inet", 2), ("inet6", 10), ("unix", 1), ("vsock", 40)]: found["socket_" + name] = family(number)
def ioctl(request):
    ctypes.set_errno(0)
    fd = os.open("/storage", os.O_RDONLY)
    result = libc.ioctl(fd, ctypes.c_ulong(request), ctypes.create_string_buffer(4096))
    return ctypes.get_errno() if result < 0 else 0
found["ioctl_subvolume"] = ioctl(0x5000940e)
found["ioctl_high_bits"] = ioctl(0xdead00005000940e)
found["ioctl_project"] = ioctl(0x401c5820)
found["ioctl_flags"] = ioctl(0x80086601)
done = []
thread = threading.Thread(target=lambda: done.append(1)); thread.start(); thread.join()
found["thread"] = 0 if done else -1
found["child"] = subprocess.run([sys.executable, "-c", "import asyncio; asyncio.run(asyncio.sleep(0))"]).returncode
print(json.dumps(found))
print("done", flush=True)
"#;

async fn calls(program: &str, users: bool, seccomp: SeccompChoice) -> Value {
    let rig = over_the_host(program, users, seccomp).await;
    fs::create_dir_all(rig.path("script")).unwrap();
    fs::write(rig.path("script/calls.py"), CALLS).unwrap();
    let item = json!({"quotas": {"tmpLimit": 1_048_576}});
    let job = rig.job_of(0, &["/usr/bin/python3", "/calls.py"], item);
    let job = with_layers(job, vec![rig.path("script")]);
    let text = rig.output_of(&job).await;
    serde_json::from_str(text.lines().find(|line| line.starts_with('{')).expect(&text)).unwrap()
}

// REL-27
pub async fn python_runs_and_forbidden_calls_fail() {
    const EPERM: i64 = 1;
    const ENOSYS: i64 = 38;
    for (program, users) in [("crun", true), ("runc", false)] {
        let found = calls(program, users, SeccompChoice::Default).await;
        let is = |name: &str, error: i64| assert_eq!(found[name], error, "{name} with {program}: {found}");
        for name in [
            "mount",
            "umount2",
            "ptrace",
            "kexec_load",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "unshare",
            "setns",
            "pivot_root",
            "open_by_handle_at",
            "perf_event_open",
            "init_module",
            "process_vm_readv",
            "reboot",
            "io_uring_setup",
            "fsopen",
            "pidfd_getfd",
            "clone_user",
            "clone_mount",
            "clone_cgroup",
            "clone_uts",
            "clone_ipc",
            "clone_pid",
            "clone_net",
            "ioctl_subvolume",
            "ioctl_high_bits",
            "ioctl_project",
        ] {
            is(name, EPERM);
        }
        for name in ["clone3", "no_such", "socket_vsock"] {
            is(name, ENOSYS);
        }
        for name in ["getpid", "clone_plain", "socket_inet", "socket_inet6", "socket_unix", "thread", "child"]
        {
            is(name, 0);
        }
        assert_ne!(found["ioctl_flags"], EPERM, "{found}");
    }
    // It is the filter that says so: without it the kernel finds other words.
    let open = calls("crun", false, SeccompChoice::Unconfined).await;
    for name in ["keyctl", "process_vm_readv", "ptrace", "unshare", "clone3", "ioctl_project"] {
        assert_ne!(open[name], EPERM, "{name}: {open}");
        assert_ne!(open[name], ENOSYS, "{name}: {open}");
    }
}

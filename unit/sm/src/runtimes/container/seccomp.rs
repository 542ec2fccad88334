//! The system calls of an instance.
//!
//! What ordinary software uses is allowed. What reaches for the kernel itself, for other processes or for
//! namespaces fails with EPERM, as it would for want of privileges. Everything else, calls of future kernels
//! too, does not exist (ENOSYS), which makes libraries fall back. `clone3` is among the latter: its flags cannot
//! be looked at, and every C library then uses `clone`, whose flags can.
//!
//! Calls in the manner of another processor, 32-bit programs on a 64-bit kernel, end the process: a second table of
//! calls would make each start tens of milliseconds slower. Who needs it gives a profile of his own.

use serde_json::{Value, json};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Flags of `clone` that make namespaces: mount, cgroup, uts, ipc, user, pid, network.
const NEW_NAMESPACES: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// Address families: unix, IPv4, IPv6, netlink, CAN, Bluetooth. The others are rarely used code of the kernel.
const FAMILIES: [u64; 6] = [1, 2, 10, 16, 29, 31];
/// Execution domains: Linux, 32-bit machine names, each also without randomised addresses, and the question.
const PERSONALITIES: [u64; 6] = [0, 8, 0x0004_0000, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Kinds of `ioctl` that make subvolumes or change the project of a file: by them a service would leave its disk
/// quota. They are refused as a whole, with a few harmless ones of file systems.
const IOCTL_KINDS: [u64; 2] = [0x94, 0x58];
/// Where the kind is in the request. The kernel looks at the low 32 bits alone, and so do masked comparisons.
const IOCTL_SHIFT: u32 = 8;

/// Groups of allowed calls.
const ALLOWED: [&str; 10] = [FILES, PATHS, DESCRIPTORS, MEMORY, PROCESSES, SIGNALS, TIME, NETWORK, IPC, IDS];

const FILES: &str = "\
    open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv \
    pwritev preadv2 pwritev2 lseek _llseek truncate truncate64 ftruncate ftruncate64 fallocate \
    fadvise64 fadvise64_64 arm_fadvise64_64 readahead sync syncfs fsync fdatasync sync_file_range \
    sync_file_range2 arm_sync_file_range copy_file_range sendfile sendfile64 splice tee vmsplice flock \
    fcntl fcntl64 io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents \
    io_pgetevents_time64";

const PATHS: &str = "\
    stat stat64 lstat lstat64 fstat fstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs \
    fstatfs64 access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 lchown \
    lchown32 fchown fchown32 fchownat umask mkdir mkdirat rmdir mknod mknodat link linkat unlink \
    unlinkat symlink symlinkat readlink readlinkat rename renameat renameat2 chdir fchdir getcwd \
    getdents getdents64 readdir utime utimes utimensat utimensat_time64 futimesat getxattr lgetxattr \
    fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr \
    fremovexattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch";

const DESCRIPTORS: &str = "\
    dup dup2 dup3 pipe pipe2 poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 \
    epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd \
    signalfd4 timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64 \
    memfd_create pidfd_open pidfd_send_signal";

const MEMORY: &str = "\
    brk mmap mmap2 munmap mprotect pkey_mprotect pkey_alloc pkey_free mremap madvise msync mincore \
    mlock mlock2 mlockall munlock munlockall membarrier get_mempolicy set_mempolicy mbind \
    remap_file_pages cacheflush";

const PROCESSES: &str = "\
    fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid \
    getpgrp setpgid getsid setsid set_tid_address set_robust_list get_robust_list futex futex_time64 \
    futex_waitv rseq prctl arch_prctl set_thread_area get_thread_area set_tls breakpoint capget capset \
    getrlimit ugetrlimit setrlimit prlimit64 getrusage times getpriority setpriority nice sched_yield \
    sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_min \
    sched_get_priority_max sched_rr_get_interval sched_rr_get_interval_time64 sched_getaffinity \
    sched_setaffinity sched_getattr sched_setattr ioprio_get ioprio_set getcpu restart_syscall sysinfo \
    uname getrandom seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self";

const SIGNALS: &str = "\
    kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend rt_sigreturn sigaltstack signal sigaction \
    sigprocmask sigpending sigsuspend sigreturn pause alarm setitimer getitimer";

const TIME: &str = "\
    time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep \
    clock_nanosleep_time64 nanosleep timer_create timer_settime timer_settime64 timer_gettime \
    timer_gettime64 timer_getoverrun timer_delete adjtimex";

const NETWORK: &str = "\
    socketpair socketcall bind connect listen accept accept4 getsockname getpeername getsockopt \
    setsockopt shutdown sendto send sendmsg sendmmsg recvfrom recv recvmsg recvmmsg recvmmsg_time64";

const IPC: &str = "\
    shmget shmat shmctl shmdt semget semop semtimedop semtimedop_time64 semctl msgget msgsnd msgrcv \
    msgctl ipc mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive \
    mq_timedreceive_time64 mq_notify mq_getsetattr";

const IDS: &str = "\
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 \
    getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 \
    setregid setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid \
    setfsgid32 setgroups setgroups32";

/// Known calls that are refused for want of privileges: mounts and roots, namespaces (`clone` is below), other
/// processes, the kernel and its rarely used corners, the machine.
const DENIED: &str = "\
    mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick \
    mount_setattr name_to_handle_at open_by_handle_at quotactl quotactl_fd swapon swapoff sysfs ustat \
    unshare setns ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd \
    move_pages migrate_pages kexec_load kexec_file_load init_module finit_module delete_module bpf \
    perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register keyctl add_key \
    request_key fanotify_init lookup_dcookie syslog acct uselib vhangup reboot settimeofday \
    clock_settime clock_adjtime stime sethostname setdomainname iopl ioperm modify_ldt vm86 vm86old";

/// The `seccomp` part of a specification for a processor as Rust calls it; none when no filter is known for it.
pub fn profile(architecture: &str) -> Option<Value> {
    let native = match architecture {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        _ => return None,
    };
    let allow = |names: &[&str]| json!({"names": names, "action": "SCMP_ACT_ALLOW"});
    let refuse =
        |names: &[&str], errno: u32| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
    let mut rules = vec![allow(&allowed()), refuse(&denied(), EPERM), refuse(&["clone3"], ENOSYS)];
    let mut with = |mut rule: Value, index: u32, op: &str, value: u64, other: u64| {
        if let Some(fields) = rule.as_object_mut() {
            fields.insert(
                "args".into(),
                json!([{"index": index, "value": value, "valueTwo": other, "op": op}]),
            );
        }
        rules.push(rule);
    };
    with(allow(&["clone"]), 0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES.iter().sum(), 0);
    for flag in NEW_NAMESPACES {
        with(refuse(&["clone"], EPERM), 0, "SCMP_CMP_MASKED_EQ", flag, flag);
    }
    for (mask, value) in other_bytes(&IOCTL_KINDS) {
        with(allow(&["ioctl"]), 1, "SCMP_CMP_MASKED_EQ", mask << IOCTL_SHIFT, value << IOCTL_SHIFT);
    }
    for kind in IOCTL_KINDS {
        let (mask, value) = (0xff << IOCTL_SHIFT, kind << IOCTL_SHIFT);
        with(refuse(&["ioctl"], EPERM), 1, "SCMP_CMP_MASKED_EQ", mask, value);
    }
    for family in FAMILIES {
        with(allow(&["socket"]), 0, "SCMP_CMP_EQ", family, 0);
    }
    for personality in PERSONALITIES {
        with(allow(&["personality"]), 0, "SCMP_CMP_EQ", personality, 0);
    }
    Some(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": [native],
        "syscalls": rules,
    }))
}

fn allowed() -> Vec<&'static str> {
    ALLOWED.iter().flat_map(|group| group.split_whitespace()).collect()
}

fn denied() -> Vec<&'static str> {
    DENIED.split_whitespace().collect()
}

/// All bytes but `these`, as masks and values: rules can say "is" of some bits, but not "is none of".
fn other_bytes(these: &[u64]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut open = vec![(0, 0)];
    while let Some((mask, value)) = open.pop() {
        if these.iter().all(|byte| byte & mask != value) {
            found.push((mask, value));
        } else if mask != 0xff {
            let bit = 0x80 >> mask.count_ones();
            open.extend([(mask | bit, value), (mask | bit, value | bit)]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_call_has_one_verdict() {
        let mut seen = BTreeSet::new();
        let single = ["clone", "clone3", "socket", "personality", "ioctl"];
        for name in allowed().iter().chain(&denied()).chain(&single) {
            assert!(seen.insert(*name), "{name} is there twice");
        }
    }

    #[test]
    fn what_reaches_for_the_host_is_not_allowed() {
        let (allowed, denied) = (allowed(), denied());
        for name in ["mount", "ptrace", "kexec_load", "bpf", "keyctl", "userfaultfd", "unshare", "setns"] {
            assert!(!allowed.contains(&name) && denied.contains(&name), "{name}");
        }
        // Not decided anywhere else: by the default.
        assert!(!allowed.contains(&"clone3") && !allowed.contains(&"clone"));
    }

    #[test]
    fn every_other_byte_is_matched_once() {
        let rules = other_bytes(&IOCTL_KINDS);
        for byte in 0..=0xff {
            let matches = rules.iter().filter(|(mask, value)| byte & mask == *value).count();
            assert_eq!(matches, usize::from(!IOCTL_KINDS.contains(&byte)), "{byte:x}");
        }
    }

    #[test]
    fn both_processors_have_a_filter_and_unknown_ones_none() {
        for (name, native) in [("x86_64", "SCMP_ARCH_X86_64"), ("aarch64", "SCMP_ARCH_AARCH64")] {
            let profile = profile(name).unwrap();
            assert_eq!(profile["architectures"], json!([native]));
            assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
            let clone = profile["syscalls"].as_array().unwrap().iter().find(|r| r["names"][0] == "clone");
            assert_eq!(clone.unwrap()["args"][0]["value"], 0x7E02_0000);
        }
        assert_eq!(profile("pdp11"), None);
    }
}

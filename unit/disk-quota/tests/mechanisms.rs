//! Each mechanism on a real file system: a limit that is exceeded, changed, counted, ended and found again.
//!
//! Mounts are made in a mount namespace of the test's own thread, so nothing of them outlives it. User quotas are
//! tested on another kernel, because not every machine's has them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aos_disk_quota::{
    Limits, Mechanism, Policy, QuotaError, Unlimited, Usage, apply, detach, prepare_folder, reconcile,
};
use aos_testbed::uml;
use aos_testbed::wait_for_or_last;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::Builder;

const UID: u32 = 5001;
const GID: u32 = 5002;
const MIB: u64 = 1024 * 1024;

/// A folder whose mounts end with this thread.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        Self {
            dir: Builder::new()
                .permissions(fs::Permissions::from_mode(0o755))
                .tempdir_in("/var/tmp")
                .unwrap(),
        }
    }

    /// A file system of its own on `disk`.
    fn disk(&self, mib: u64, make: &[&str], options: &str) -> PathBuf {
        let (image, place) = (self.dir.path().join("disk.img"), self.dir.path().join("disk"));
        File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        let (program, rest) = make.split_first().unwrap();
        run(Command::new(program).args(rest).arg(&image));
        fs::create_dir(&place).unwrap();
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(&place));
        place
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(self.dir.path().join("disk")).status();
        for path in below(self.dir.path()) {
            let _ = detach(&path);
        }
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .flat_map(|path| {
            let mut all = below(&path);
            all.push(path);
            all
        })
        .collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes as the instance's user until it may not any more; answers how much that was and why.
fn fill(file: &Path) -> (u64, Errno) {
    let size = || fs::metadata(file).map_or(0, |meta| meta.len());
    let before = size();
    let output = Command::new("setpriv")
        .args(["--reuid", &UID.to_string(), "--regid", &GID.to_string(), "--clear-groups", "dd"])
        .args(["if=/dev/zero", "bs=64k", "count=4096", "oflag=append", "conv=notrunc,fsync"])
        .arg(format!("of={}", file.display()))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = [("Disk quota exceeded", Errno::EDQUOT), ("No space left on device", Errno::ENOSPC)];
    let why = why.into_iter().find(|(words, _)| text.contains(words)).map(|(_, errno)| errno);
    (size() - before, why.unwrap_or_else(|| panic!("{text}")))
}

fn limits(storage: &Path, mib: u64) -> Limits {
    Limits { uid: UID, gid: GID, storage: Some((storage.to_owned(), mib * MIB)), state: None }
}

fn storage_of(limits: &Limits) -> Usage {
    let storage = limits.storage.as_ref().map(|(folder, _)| folder.as_path());
    let state = limits.state.as_ref().map(|(file, _)| file.as_path());
    aos_disk_quota::usage(UID, storage, state)
}

fn has_loops(image: &Path) -> bool {
    let output = Command::new("losetup").arg("-j").arg(image).output().unwrap();
    !output.stdout.is_empty()
}

#[test]
fn btrfs_folders_are_limited_by_quota_groups() {
    let ground = Ground::new();
    let disk = ground.disk(256, &["mkfs.btrfs", "-q", "-f"], "loop");
    let storage = disk.join("item/subject/0");
    let state = disk.join("states/item/state.dat");
    let limits = Limits {
        uid: UID,
        gid: GID,
        storage: Some((storage.clone(), 8 * MIB)),
        state: Some((state.clone(), MIB)),
    };
    // Made before, with something in it and by whoever has no idea of quotas.
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    fs::write(&state, "kept").unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&state, Some(UID), Some(GID)).unwrap();

    let applied = apply(&limits, Policy::Required).unwrap();
    assert_eq!(applied.storage, Some(Ok(Mechanism::Subvolume)));
    assert_eq!(applied.state, Some(Ok(Mechanism::Subvolume)));
    assert_eq!(fs::read_to_string(&state).unwrap(), "kept");
    let meta = fs::metadata(&storage).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.ino()), (UID, GID, 256));

    let (written, why) = fill(&storage.join("big"));
    assert_eq!(why, Errno::EDQUOT);
    assert!((6 * MIB..=8 * MIB).contains(&written), "{written}");
    let (written, why) = fill(&state);
    assert_eq!(why, Errno::EDQUOT);
    assert!(written <= MIB, "{written}");
    let used = counted(&limits, |usage| usage.storage.is_some_and(|used| used > 6 * MIB));
    assert!(used.storage.unwrap() <= 8 * MIB && used.state.unwrap() <= MIB, "{used:?}");

    // More, at run time, with the file open; the same again is no change.
    let more = self::limits(&storage, 16);
    apply(&more, Policy::Required).unwrap();
    apply(&more, Policy::Required).unwrap();
    assert!(fill(&storage.join("big")).0 > 6 * MIB);
    // Less than what is there takes nothing away and lets nothing in.
    apply(&self::limits(&storage, 4), Policy::Required).unwrap();
    let size = fs::metadata(storage.join("big")).unwrap().len();
    assert!(size > 12 * MIB);
    assert_eq!(fill(&storage.join("other")), (0, Errno::EDQUOT));
    // Another folder has its own limit.
    let neighbour = self::limits(&disk.join("item/subject/1"), 4);
    apply(&neighbour, Policy::Auto).unwrap();
    assert!(fill(&disk.join("item/subject/1/f")).0 > 2 * MIB);
    // Removed as any folder is.
    aos_disk_quota::remove(&neighbour).unwrap();
    fs::remove_dir_all(disk.join("item")).unwrap();
}

/// The kernel counts when it writes; a condition is waited for.
fn counted(limits: &Limits, good: impl Fn(&Usage) -> bool) -> Usage {
    wait_for_or_last("the kernel's count", Duration::from_secs(30), || {
        nix::unistd::sync();
        let usage = storage_of(limits);
        if good(&usage) { Ok(usage) } else { Err(format!("{usage:?}")) }
    })
    .unwrap()
}

#[test]
fn a_folder_becomes_a_subvolume_with_all_that_is_in_it() {
    let ground = Ground::new();
    let disk = ground.disk(256, &["mkfs.btrfs", "-q", "-f"], "loop");
    let folder = disk.join("a/b");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("deep/file"), "content").unwrap();
    std::os::unix::fs::symlink("deep/file", folder.join("link")).unwrap();
    std::os::unix::fs::chown(folder.join("deep/file"), Some(UID), Some(GID)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o751)).unwrap();
    // What a crash in an earlier try left.
    fs::create_dir_all(disk.join("a/b.aos-new/half")).unwrap();
    prepare_folder(&folder).unwrap();
    prepare_folder(&folder).unwrap();
    let meta = fs::metadata(&folder).unwrap();
    assert_eq!((meta.ino(), meta.mode() & 0o7777), (256, 0o751));
    assert_eq!(fs::read_to_string(folder.join("link")).unwrap(), "content");
    assert_eq!(fs::metadata(folder.join("deep/file")).unwrap().uid(), UID);
    assert_eq!(fs::read_dir(disk.join("a")).unwrap().count(), 1);
}

#[test]
fn a_sized_image_is_full_at_its_limit() {
    let ground = Ground::new();
    let root = ground.dir.path().join("storages");
    let storage = root.join("item/subject/0");
    fs::create_dir_all(storage.join("deep")).unwrap();
    fs::write(storage.join("deep/file"), "from before").unwrap();
    let limits = limits(&storage, 8);
    let applied = apply(&limits, Policy::Required).unwrap();
    assert_eq!(applied.storage, Some(Ok(Mechanism::Image)));
    assert_eq!(fs::read_to_string(storage.join("deep/file")).unwrap(), "from before");
    assert_eq!(fs::read_dir(&storage).unwrap().count(), 1, "nothing of ours is seen");
    let meta = fs::metadata(&storage).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (UID, GID, 0o700));
    let (written, why) = fill(&storage.join("big"));
    assert_eq!(why, Errno::ENOSPC);
    assert!((8 * MIB - 65536..=9 * MIB).contains(&written), "{written}");
    let used = storage_of(&limits).storage.unwrap();
    assert!((written..10 * MIB).contains(&used), "{used}");

    // Applied again while mounted, as after a restart of ours: nothing changes.
    apply(&limits, Policy::Required).unwrap();
    let image = storage.join(".aos-storage.img");
    let elsewhere = apply(&self::limits(&storage, 32), Policy::InPlace).unwrap().storage;
    assert_eq!(elsewhere, Some(Err(Unlimited::Elsewhere)), "only one program changes it");
    // Unmounted, as after a reboot: it is found again, even where images are not asked for any more.
    detach(&storage).unwrap();
    assert!(image.exists() && !storage.join("big").exists() && !has_loops(&image));
    assert_eq!(apply(&limits, Policy::Auto).unwrap().storage, Some(Ok(Mechanism::Image)));
    assert_eq!(fs::metadata(storage.join("big")).unwrap().len(), written);

    // More: it grows. Less than what is in it: it stays as large as it has to.
    let more = self::limits(&storage, 16);
    apply(&more, Policy::Required).unwrap();
    let (written, why) = fill(&storage.join("big"));
    assert_eq!(why, Errno::ENOSPC);
    assert!((7 * MIB..=9 * MIB).contains(&written), "{written}");
    apply(&self::limits(&storage, 4), Policy::Required).unwrap();
    assert!(fs::metadata(storage.join("big")).unwrap().len() > 15 * MIB);
    fs::remove_file(storage.join("big")).unwrap();
    detach(&storage).unwrap();
    apply(&self::limits(&storage, 4), Policy::Required).unwrap();
    assert!(fill(&storage.join("big")).0 < 5 * MIB);

    // While somebody uses it its size cannot change.
    let open = File::open(storage.join("big")).unwrap();
    assert!(matches!(apply(&self::limits(&storage, 6), Policy::Required), Err(QuotaError::Io { .. })));
    drop(open);
    aos_disk_quota::remove(&limits).unwrap();
    assert!(!has_loops(&image));
    assert_eq!(fs::read_dir(&storage).unwrap().count(), 1, "only the image");
}

#[test]
fn what_a_crash_leaves_is_taken_up() {
    let ground = Ground::new();
    let root = ground.dir.path().join("storages");
    let folder = |name: &str| root.join(name).join("0");
    for name in ["wanted", "gone"] {
        apply(&limits(&folder(name), 2), Policy::Images).unwrap();
    }
    assert_eq!(reconcile(&root, &[folder("wanted")]).unwrap(), 1);
    assert_eq!(reconcile(&root, &[folder("wanted")]).unwrap(), 0);
    assert!(folder("gone").join(".aos-storage.img").exists());
    assert!(!folder("wanted").join(".aos-storage.img").exists());

    // In the middle of making one: the half image is made anew, the data is still there.
    let half = folder("half");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("data"), "precious").unwrap();
    fs::write(root.join("half/0.aos-storage.new"), "not whole").unwrap();
    apply(&limits(&half, 16), Policy::Images).unwrap();
    assert_eq!(fs::read_to_string(half.join("data")).unwrap(), "precious");
    assert_eq!(fs::read_dir(root.join("half")).unwrap().count(), 1);

    // A power cut: the file system in the image is not clean.
    detach(&half).unwrap();
    let image = half.join(".aos-storage.img");
    // After it was put in place, before what it was made of was removed.
    fs::write(half.join("data"), "old").unwrap();
    run(Command::new("debugfs").args(["-w", "-R", "ssv state 0"]).arg(&image));
    apply(&limits(&half, 16), Policy::Images).unwrap();
    assert_eq!(fs::read_to_string(half.join("data")).unwrap(), "precious");

    // Broken beyond mounting, as far as it can be mended it is.
    detach(&half).unwrap();
    run(Command::new("dd")
        .args(["if=/dev/zero", "bs=1024", "seek=1", "count=1", "conv=notrunc"])
        .arg(format!("of={}", image.display())));
    apply(&limits(&half, 16), Policy::Images).unwrap();
    File::create(half.join("writable")).unwrap().write_all(b"x").unwrap();
}

#[test]
fn where_nothing_can_keep_a_limit_the_policy_decides() {
    let ground = Ground::new();
    // Without quota feature.
    let disk = ground.disk(16, &["mkfs.ext4", "-q", "-F"], "loop");
    let storage = disk.join("storages/0");
    let limits = Limits { state: Some((disk.join("states/0/state.dat"), MIB)), ..limits(&storage, 2) };
    let applied = apply(&limits, Policy::Auto).unwrap();
    for reason in [applied.storage.unwrap().unwrap_err(), applied.state.unwrap().unwrap_err()] {
        assert!(matches!(reason, Unlimited::NoQuotas { .. } | Unlimited::NotMounted), "{reason}");
    }
    assert!(storage.is_dir() && disk.join("states/0").is_dir());
    assert_eq!(storage_of(&limits).storage, None);
    let off = apply(&limits, Policy::Off).unwrap();
    assert_eq!(off.storage, Some(Err(Unlimited::Off)));
    let error = apply(&limits, Policy::Required).unwrap_err();
    assert!(matches!(error, QuotaError::Unavailable { path, .. } if path == disk.join("states/0")));
    // Not enough room for what is promised: told at once, and nothing is left.
    let other = disk.join("storages/1");
    let error = apply(&self::limits(&other, 100), Policy::Images).unwrap_err();
    assert!(matches!(&error, QuotaError::Io { source, .. } if source.raw_os_error() == Some(28)), "{error}");
    assert_eq!(fs::read_dir(disk.join("storages")).unwrap().count(), 2);
    aos_disk_quota::remove(&limits).unwrap();
}

#[test]
fn users_are_limited_by_their_quota() {
    let program = std::env::current_exe().unwrap();
    let words = ["--ignored", "--exact", "on_a_kernel_with_user_quota", "--nocapture"];
    let argv: Vec<&str> = std::iter::once(program.to_str().unwrap()).chain(words).collect();
    let outcome = uml::run(&argv, &uml::Options::default()).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(outcome.output.contains("1 passed"), "{}", outcome.output);
}

#[test]
#[ignore = "a part of users_are_limited_by_their_quota"]
fn on_a_kernel_with_user_quota() {
    let ground = Ground::new();
    let make = ["mkfs.ext4", "-q", "-F", "-O", "quota", "-E", "quotatype=usrquota"];
    let disk = ground.disk(96, &make, "loop,usrquota");
    let (storage, state) = (disk.join("storages/i/s/0"), disk.join("states/i/s/0/state.dat"));
    let limits = Limits {
        uid: UID,
        gid: GID,
        storage: Some((storage.clone(), 4 * MIB)),
        state: Some((state.clone(), MIB)),
    };
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    File::create(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(UID), Some(GID)).unwrap();
    let applied = apply(&limits, Policy::Required).unwrap();
    assert_eq!(applied.storage, Some(Ok(Mechanism::UserQuota)));
    assert_eq!(applied.state, Some(Ok(Mechanism::UserQuota)));
    // One user on one file system: both have the sum.
    let (in_state, why) = fill(&state);
    assert_eq!(why, Errno::EDQUOT);
    assert!((4 * MIB..=5 * MIB).contains(&in_state), "{in_state}");
    File::options().write(true).open(&state).unwrap().set_len(65536).unwrap();
    let (in_storage, why) = fill(&storage.join("big"));
    assert_eq!(why, Errno::EDQUOT);
    assert!((4 * MIB..5 * MIB).contains(&in_storage), "{in_storage}");
    let usage = storage_of(&limits);
    assert!((65536..70_000).contains(&usage.state.unwrap()), "{usage:?}");
    assert!((in_storage..=5 * MIB).contains(&usage.storage.unwrap()), "{usage:?}");
    // More at run time, then less than what is there.
    apply(&self::limits(&storage, 16), Policy::Required).unwrap();
    assert!(fill(&storage.join("big")).0 > 10 * MIB);
    apply(&self::limits(&storage, 1), Policy::Required).unwrap();
    assert_eq!(fill(&storage.join("other")), (0, Errno::EDQUOT));
    // Any number of empty files is no way to take the disk from others.
    fs::remove_file(storage.join("big")).unwrap();
    let script = "i=0; while [ $i -lt 5000 ]; do : > $1/e$i || exit 3; i=$((i+1)); done";
    let status = Command::new("setpriv")
        .args([
            "--reuid",
            &UID.to_string(),
            "--regid",
            &GID.to_string(),
            "--clear-groups",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&storage)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    let files = fs::read_dir(&storage).unwrap().count();
    assert!((1000..1400).contains(&files), "{files}");
    // Somebody else has no limit, and after the end nobody has.
    aos_disk_quota::remove(&limits).unwrap();
    assert!(fill(&storage.join("e0")).0 > 20 * MIB);
    // Mounted so that it only counts, a limit would be a promise that nobody keeps.
    run(Command::new("quotaoff").arg("-u").arg(&disk));
    let applied = apply(&limits, Policy::Auto).unwrap();
    let reason = applied.storage.unwrap().unwrap_err();
    assert!(matches!(reason, Unlimited::NoQuotas { .. } | Unlimited::NotMounted), "{reason}");
}

//! A disk that is too small: a tmpfs of its own, in a mount namespace of the test's thread.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::world::*;
use super::*;

/// Runs the test on a small disk, which goes with its last thread.
fn on_a_disk_of(megabytes: u32, test: impl AsyncFnOnce(&Path)) {
    unshare(CloneFlags::CLONE_NEWNS).expect("root is needed");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let folder = folder();
    let options = format!("size={megabytes}M");
    mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
    // Threads made from here on see the same.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(folder.path()));
    runtime.shutdown_timeout(Duration::from_secs(30));
    nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}

fn row(item: &str, version: &str, wanted: bool) -> (String, String, bool) {
    (item.to_owned(), version.to_owned(), wanted)
}

fn megabytes(cm: &Cm, seed: u64, count: usize) -> Published {
    cm.service(&[tar(&[("content", &noise(seed, count << 20))])])
}

async fn unwanted(manager: &Manager, item: &str, since: i64) {
    let rows = manager.database.items().await.unwrap();
    let mut row = rows.into_iter().find(|row| row.item == item).unwrap();
    row.removed_at = Some(since);
    manager.database.put_item(row).await.unwrap();
}

// SM-03: of what nobody wants the oldest goes first, and no more than is needed.
#[test]
fn outdated_items_make_room_oldest_first() {
    on_a_disk_of(80, async |folder| {
        let cm = Cm::start().await;
        let (oldest, older, wanted, new) =
            (megabytes(&cm, 1, 12), megabytes(&cm, 2, 12), megabytes(&cm, 3, 12), megabytes(&cm, 4, 14));
        let manager = Manager::open(folder, &cm, RETENTION);
        for (item, service) in [("oldest", &oldest), ("older", &older), ("wanted", &wanted)] {
            manager.install(item, "1.0.0", service.manifest).await.unwrap();
        }
        unwanted(&manager, "older", 2000).await;
        unwanted(&manager, "oldest", 1000).await;
        manager.install("new", "1.0.0", new.manifest).await.unwrap();
        assert_eq!(
            manager.versions().await,
            [row("new", "1.0.0", true), row("older", "1.0.0", false), row("wanted", "1.0.0", true)]
        );
        assert_eq!((manager.contents()["layers/sha256"], manager.contents()["tmp"]), (3, 0));
    });
}

// SM-03: the share that imagesPartLimit names, on a disk with room to spare.
#[test]
fn the_share_of_the_disk_is_kept_to() {
    on_a_disk_of(200, async |folder| {
        let cm = Cm::start().await;
        let (old, new, much) = (megabytes(&cm, 1, 12), megabytes(&cm, 2, 12), megabytes(&cm, 3, 30));
        let manager = Manager::open(folder, &cm, Retention { part_limit: 10, ..RETENTION });
        manager.install("old", "1.0.0", old.manifest).await.unwrap();
        let error = manager.install("new", "1.0.0", new.manifest).await.unwrap_err();
        assert!(error.info().message.contains("not enough space"), "{}", error.info().message);
        unwanted(&manager, "old", 1000).await;
        manager.install("new", "1.0.0", new.manifest).await.unwrap();
        assert_eq!(manager.versions().await, [row("new", "1.0.0", true)]);
        manager.install("much", "1.0.0", much.manifest).await.unwrap_err();
    });
}

// A full disk: a clear reason, nothing left, others unharmed, and it works once there is room.
#[test]
fn a_disk_that_fills_up_half_way_breaks_nothing() {
    on_a_disk_of(70, async |folder| {
        let cm = Cm::start().await;
        let small = megabytes(&cm, 1, 4);
        // Packed it is small: only unpacking finds out.
        let zeros = vec![0u8; 60 << 20];
        let large = cm.service(&[tar(&[("a", b"A")]), tar(&[("zeros", &zeros)])]);
        let manager = Manager::open(folder, &cm, RETENTION);
        manager.install("small", "1.0.0", small.manifest).await.unwrap();
        let error = manager.install("large", "1.0.0", large.manifest).await.unwrap_err();
        let info = error.info();
        assert_eq!(info.code(), aos_status::AosCode::NoMemory, "{}", info.message);
        assert!(info.message.contains("not enough space"), "{}", info.message);
        assert_eq!(manager.contents()["tmp"], 0);
        assert_eq!(manager.versions().await, [row("small", "1.0.0", true)]);
        manager.use_only(&[("small", "1.0.0")]);
        manager.wait_contents([4, 1, 0, 0]).await;
        manager.install("small", "1.0.0", small.manifest).await.unwrap();

        // Without the reserve left it is the kernel that says no, for a document as for a layer.
        let ballast = folder.join("ballast");
        let free = rustix::fs::statvfs(folder).unwrap();
        let free = free.f_bavail * free.f_frsize;
        let file = std::fs::File::create(&ballast).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free).unwrap();
        let other = cm.service(&[tar(&[("b", b"B")])]);
        let error = manager.install("other", "1.0.0", other.manifest).await.unwrap_err();
        assert_eq!(error.info().code(), aos_status::AosCode::NoMemory, "{}", error.info().message);
        drop(file);
        std::fs::remove_file(ballast).unwrap();
        manager.install("other", "1.0.0", other.manifest).await.unwrap();
    });
}

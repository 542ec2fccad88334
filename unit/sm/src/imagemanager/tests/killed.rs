//! kill -9 at every step of an installation. The program under test is this test's binary, run once more.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use super::world::*;
use super::*;

const FOLDER: &str = "AOS_KILLED_FOLDER";
const WEB: &str = "AOS_KILLED_CM";
const MANIFEST: &str = "AOS_KILLED_MANIFEST";
/// Calls that change what another process would find.
const STEPS: &str = "rename,renameat,renameat2,fsync,fdatasync,syncfs,mkdir,mkdirat,unlink,unlinkat,pwrite64";
/// Most steps an installation may have before the test takes it for endless.
const MOST: usize = 400;

/// Not a test: what the test runs and kills.
#[test]
#[ignore = "run by another test, as the process to be killed"]
fn install_to_be_killed() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let folder = PathBuf::from(variable(FOLDER));
    // Steps are counted for each thread: with one for all that blocks, every step on the disk has its turn.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let channel = aos_tls::plain_grpc_channel(&variable(WEB)).unwrap();
        let (_sender, channel) = tokio::sync::watch::channel(Some(channel));
        let database = Database::open(&folder.join("sm.db")).unwrap();
        let (images, task) = ImageManager::open(
            folder.join("images"),
            RETENTION,
            database,
            CmCalls::new(channel),
            Dialer::default(),
        )
        .unwrap();
        tokio::spawn(task);
        images.install("item".into(), "1.0.0".into(), variable(MANIFEST).parse().unwrap()).await.unwrap();
    });
}

/// Runs the installation and has it killed at the given step; true when it got to its end before.
fn run(folder: &Path, cm: &Cm, manifest: &Digest, step: usize) -> bool {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={STEPS}")])
        .args(["-e", &format!("inject={STEPS}:signal=KILL:when={step}")])
        .arg(program)
        .args(["--exact", "imagemanager::tests::killed::install_to_be_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(WEB, cm.grpc_address())
        .env(MANIFEST, manifest.to_string())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("strace is needed");
    let killed = status.signal() == Some(9) || status.code() == Some(137);
    assert!(killed || status.success(), "{status}");
    !killed
}

// SM-03
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_killed_at_any_step_leaves_no_rubbish() {
    let cm = Cm::start().await;
    let service = cm.service(&[tar(&[("a", b"A"), ("d/b", b"B")]), tar(&[("c", b"C"), (".wh.x", b"")])]);
    for step in 1.. {
        assert!(step < MOST, "the installation does not end");
        let folder = folder();
        let (worker_cm, path, manifest) = (cm.clone(), folder.path().to_owned(), service.manifest);
        let ended =
            tokio::task::spawn_blocking(move || run(&path, &worker_cm, &manifest, step)).await.unwrap();
        let manager = Manager::open(folder.path(), &cm, RETENTION);
        assert_eq!(manager.contents()["tmp"], 0, "step {step}");
        for layer in manager.layers().list().unwrap() {
            let found = manager.layers().check(&layer, Depth::Full).unwrap();
            assert_eq!(found, Condition::Whole, "step {step}");
        }
        if step % 2 == 0 {
            // Nobody asks for it any more.
            let rows = manager.database.items().await.unwrap();
            for row in rows {
                manager.database.drop_item(row.item, row.version).await.unwrap();
            }
            manager.use_only(&[]);
            manager.wait_contents([0, 0, 0, 0]).await;
        } else {
            manager.install("item", "1.0.0", service.manifest).await.unwrap();
            manager.use_only(&[("item", "1.0.0")]);
            manager.wait_contents([5, 2, 0, 0]).await;
            assert!(manager.images.present(&service.manifest).is_some());
        }
        manager.close().await;
        if ended {
            assert!(step > 10, "only {step} steps were seen");
            return;
        }
    }
}

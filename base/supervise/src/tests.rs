use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn tasks_stop_in_reverse_order_one_after_the_other() {
    let shutdown = Shutdown::new();
    let (sender, events) = mpsc::channel();
    let mut tree = TaskTree::new(shutdown.clone());
    for name in ["store", "modules", "server"] {
        let sender = sender.clone();
        tree.spawn(name, move |stop| async move {
            stop.wait().await;
            sender.send(format!("{name} stopping")).unwrap();
            // Something the others could overtake if they were stopped at the same time.
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            sender.send(format!("{name} stopped")).unwrap();
        });
    }
    shutdown.trigger();
    tree.run(LONG).await.unwrap();
    assert_eq!(
        events.try_iter().collect::<Vec<_>>(),
        [
            "server stopping",
            "server stopped",
            "modules stopping",
            "modules stopped",
            "store stopping",
            "store stopped"
        ]
    );
}

#[tokio::test]
async fn a_failing_task_ends_the_program_with_its_name_and_cause() {
    let shutdown = Shutdown::new();
    let mut tree = TaskTree::new(shutdown.clone());
    let (sender, stopped) = mpsc::channel();
    tree.spawn("store", move |stop| async move {
        stop.wait().await;
        sender.send(()).unwrap();
    });
    tree.spawn("downloader", |_| async { Err::<(), _>(io::Error::other("disk gone")) });
    let error = tree.run(LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "task downloader failed: disk gone");
    assert!(shutdown.is_triggered());
    stopped.try_recv().unwrap();
}

#[tokio::test]
async fn a_task_must_not_end_or_panic_by_itself() {
    let mut tree = TaskTree::new(Shutdown::new());
    tree.spawn("launcher", |_| async {});
    assert_eq!(tree.run(LONG).await, Err(TaskError::Ended { name: "launcher" }));

    let mut tree = TaskTree::new(Shutdown::new());
    tree.spawn("launcher", |_| async {
        assert_eq!(std::process::id(), 0, "broken invariant");
    });
    let error = tree.run(LONG).await.unwrap_err();
    assert!(
        matches!(&error, TaskError::Panicked { name: "launcher", reason } if reason.contains("broken invariant")),
        "{error}"
    );
}

#[tokio::test]
async fn a_finite_task_may_end_and_its_error_still_counts() {
    let shutdown = Shutdown::new();
    let mut tree = TaskTree::new(shutdown.clone());
    let trigger = shutdown.clone();
    tree.spawn_finite("migration", |_| async {});
    tree.spawn_finite("last", move |_| async move { trigger.trigger() });
    tree.run(LONG).await.unwrap();

    let mut tree = TaskTree::new(Shutdown::new());
    tree.spawn_finite("migration", |_| async { Err::<(), _>(io::Error::other("no")) });
    assert!(matches!(tree.run(LONG).await, Err(TaskError::Failed { name: "migration", .. })));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stop_in_time_is_named_and_dropped() {
    let shutdown = Shutdown::new();
    let mut tree = TaskTree::new(shutdown.clone());
    tree.spawn("good", |stop| async move { stop.wait().await });
    tree.spawn("stuck", |_| std::future::pending::<()>());
    shutdown.trigger();
    let error = tree.run(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, TaskError::Deadline { names: vec!["stuck", "good"] });
}

#[tokio::test]
async fn children_stop_with_their_parent_and_alone() {
    let parent = Shutdown::new();
    let (one, two) = (parent.child(), parent.child());
    one.trigger();
    assert!(one.is_triggered() && !parent.is_triggered() && !two.is_triggered());
    parent.trigger();
    two.wait().await;
}

#[test]
fn readiness_reaches_path_and_abstract_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let by_path = UnixDatagram::bind(&path).unwrap();
    let name = format!("aos-supervise-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let by_name = UnixDatagram::bind_addr(&address).unwrap();
    notify::send(path.as_os_str(), "READY=1\n").unwrap();
    notify::send(format!("@{name}").as_ref(), "STOPPING=1\n").unwrap();
    let receive = |socket: &UnixDatagram| {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!((receive(&by_path), receive(&by_name)), ("READY=1\n".into(), "STOPPING=1\n".into()));
    assert!(notify::send(dir.path().join("nobody").as_os_str(), "READY=1\n").is_err());
}

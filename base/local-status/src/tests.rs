use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;

/// Reads off the runtime until the component answers.
async fn read_soon(dir: &Path, component: &'static str) -> Value {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match read(&dir, component) {
                Ok(value) => return value,
                Err(StatusError::NotRunning { .. }) if std::time::Instant::now() < end => {
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e}"),
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn each_client_gets_a_fresh_document() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let count = AtomicU64::new(0);
    let served = serve(&run, "cm", || async { json!({"n": count.fetch_add(1, Ordering::Relaxed)}) });
    let read_both = async {
        assert_eq!(read_soon(&run, "cm").await, json!({"n": 0}));
        assert_eq!(read_soon(&run, "cm").await, json!({"n": 1}));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&run), mode(&run.join("cm.sock"))), (0o700, 0o600));
    };
    tokio::select! {
        ended = served => panic!("{ended:?}"),
        () = read_both => {}
    }
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0, "the socket is removed at the end");
    assert!(matches!(read(&run, "cm"), Err(StatusError::NotRunning { .. })));
}

#[tokio::test]
async fn the_socket_of_a_dead_predecessor_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sm.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(read(dir.path(), "sm"), Err(StatusError::NotRunning { .. })));
    tokio::select! {
        ended = serve(dir.path(), "sm", || async { json!("new") }) => panic!("{ended:?}"),
        () = async { assert_eq!(read_soon(dir.path(), "sm").await, json!("new")) } => {}
    }
}

#[tokio::test]
async fn a_successor_takes_over_and_keeps_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let owned = dir.path().to_owned();
    let first = tokio::spawn(async move { serve(&owned, "iam", || async { json!(1) }).await });
    assert_eq!(read_soon(dir.path(), "iam").await, json!(1));
    let second = serve(dir.path(), "iam", || async { json!(2) });
    let check = async {
        while read_soon(dir.path(), "iam").await != json!(2) {}
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(read_soon(dir.path(), "iam").await, json!(2));
    };
    tokio::select! {
        ended = second => panic!("{ended:?}"),
        () = check => {}
    }
}

#[tokio::test]
async fn a_document_without_bounds_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let provider = || async { Value::String("x".repeat(MAX_DOCUMENT + 1)) };
    tokio::select! {
        ended = serve(dir.path(), "cm", provider) => panic!("{ended:?}"),
        () = async { assert!(read_soon(dir.path(), "cm").await["error"].is_string()) } => {}
    }
}

#[tokio::test]
async fn a_socket_that_cannot_be_made_is_an_error() {
    let error = serve(Path::new("/proc/nowhere"), "cm", || async { Value::Null }).await.unwrap_err();
    assert!(error.to_string().contains("/proc/nowhere/cm.sock"), "{error}");
}

#[test]
fn a_server_that_sends_rubbish_or_too_much_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    for (component, answer) in [("a", vec![b'x'; 10]), ("b", vec![b'1'; MAX_DOCUMENT + 10])] {
        let listener = std::os::unix::net::UnixListener::bind(socket_path(dir.path(), component)).unwrap();
        let server = std::thread::spawn(move || {
            use std::io::Write;
            let _ = listener.accept().unwrap().0.write_all(&answer);
        });
        let error = read(dir.path(), component).unwrap_err();
        match component {
            "a" => assert!(matches!(error, StatusError::NotJson { .. })),
            _ => assert!(matches!(error, StatusError::TooLarge { .. })),
        }
        server.join().unwrap();
    }
}

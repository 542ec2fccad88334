//! Every request is answered, whatever there is to answer with.

use std::path::Path;
use std::time::Duration;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    folder: tempfile::TempDir,
    provider: LogProvider,
    commands: mpsc::Receiver<Command>,
    queue: (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>),
}

fn world(limits: Limits) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (launcher, commands) = mpsc::channel(64);
    let provider = LogProvider::new(launcher, folder.path().into(), folder.path().join("none"), limits);
    World { folder, provider, commands, queue: mpsc::channel(64) }
}

fn request(id: &str, crash: bool) -> Request {
    let (correlation_id, filter) =
        (id.to_owned(), Some(InstanceFilter { instance: -1, ..Default::default() }));
    if crash {
        wire::InstanceCrashLogRequest { correlation_id, filter, from: None, till: None }.into()
    } else {
        wire::InstanceLogRequest { correlation_id, filter, from: None, till: None }.into()
    }
}

impl World {
    fn ask(&self, request: Request) {
        tokio::spawn(self.provider.clone().answer(request, self.queue.0.clone()));
    }

    /// The launcher answers one question with these logs.
    async fn launcher(&mut self, logs: &[&Path]) {
        let command = tokio::time::timeout(LIMIT, self.commands.recv()).await.unwrap().unwrap();
        let Command::Logs(_, _, _, answer) = command else { panic!("another command") };
        answer.send(logs.iter().map(|log| log.to_path_buf()).collect()).unwrap();
    }

    async fn answer(&mut self) -> wire::LogData {
        match tokio::time::timeout(LIMIT, self.queue.1.recv()).await.unwrap().unwrap() {
            Outgoing::Message(Wire::Log(log)) => log,
            other => panic!("{other:?}"),
        }
    }
}

/// Status, part, number of parts, code and message.
fn parts(log: &wire::LogData) -> (&str, u64, u64, i32, &str) {
    let error = log.error.as_ref();
    let message = error.map_or("", |error| error.message.as_str());
    (&log.status, log.part, log.part_count, error.map_or(0, |error| error.aos_code), message)
}

// SM-40, SM-41, SM-59, PRO-85: no instance, none that crashed, no line, and a launcher that is no more (or never was,
// without a container runtime) each have their answer.
#[tokio::test]
async fn each_request_has_an_answer() {
    let mut world = world(Limits::new(1 << 18, 4));
    let log = world.folder.path().join("a.log");
    std::fs::write(&log, "").unwrap();
    world.ask(request("nobody", false));
    world.launcher(&[]).await;
    assert_eq!(parts(&world.answer().await), ("absent", 1, 1, 0, "no service instance found"));
    world.ask(request("calm", true));
    world.launcher(&[&log]).await;
    assert_eq!(parts(&world.answer().await), ("absent", 1, 1, 0, "no instance crash found"));
    world.ask(request("silent", false));
    world.launcher(&[&log]).await;
    let silent = world.answer().await;
    assert_eq!(parts(&silent), ("empty", 1, 1, 0, ""));
    assert!(silent.data.is_empty() && silent.correlation_id == "silent");
    world.commands.close();
    world.ask(request("late", false));
    let late = world.answer().await;
    assert_eq!(late.status, "error");
    assert_ne!(parts(&late).3, 0);
    assert!(!parts(&late).4.is_empty());
}

// SM-59, PRO-91: parts are numbered from 1, each unpacks by itself, and more than allowed are an error, not a piece.
#[tokio::test]
async fn parts_are_numbered_and_unpack_one_by_one() {
    let mut world = world(Limits::new(256, 3));
    let log = world.folder.path().join("a.log");
    let line = "x".repeat(100);
    std::fs::write(&log, format!("{line}\n").repeat(6)).unwrap();
    world.ask(request("some", false));
    world.launcher(&[&log]).await;
    for number in 1..=3 {
        let part = world.answer().await;
        assert_eq!(parts(&part), ("ok", number, 3, 0, ""));
        let mut text = String::new();
        let mut packed = flate2::read::GzDecoder::new(part.data.as_slice());
        std::io::Read::read_to_string(&mut packed, &mut text).unwrap();
        assert_eq!(text.lines().filter(|one| one.ends_with(&line)).count(), 2, "{text}");
    }
    std::fs::write(&log, format!("{line}\n").repeat(7)).unwrap();
    world.ask(request("too many", false));
    world.launcher(&[&log]).await;
    let error = world.answer().await;
    assert_eq!((error.status.as_str(), error.data.len()), ("error", 0));
    assert!(parts(&error).4.contains("limited to 3"), "{error:?}");
}

// SM-59: requests wait, but not any number of them.
#[tokio::test]
async fn too_many_requests_are_refused_and_the_others_answered() {
    let mut world = world(Limits::new(1 << 18, 4));
    for number in 0..=MAX_REQUESTS {
        world.ask(request(&number.to_string(), false));
    }
    let refused = world.answer().await;
    assert_eq!((refused.status.as_str(), parts(&refused).3), ("error", AosCode::NoMemory.number()));
    for _ in 0..MAX_REQUESTS {
        world.launcher(&[]).await;
        assert_eq!(world.answer().await.status, "absent");
    }
}

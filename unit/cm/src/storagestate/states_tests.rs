use std::os::unix::fs::MetadataExt;

use super::*;

const QUIET: Duration = Duration::from_millis(300);

fn ident(number: u64) -> InstanceIdent {
    InstanceIdent::service("i".parse().unwrap(), "s".parse().unwrap(), number)
}

struct World {
    dir: tempfile::TempDir,
    db: Connection,
    states: States,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = crate::database::open(&dir.path().join("cm.db")).unwrap();
        let states = States::load(&db, dir.path(), QUIET).unwrap();
        Self { dir, db, states }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("state.dat")
    }
}

// PRO-99: a write is seen when the file has been quiet, and only once.
#[tokio::test]
async fn a_write_is_looked_at_when_the_file_is_quiet() {
    let mut world = World::new();
    std::fs::write(world.file(), "").unwrap();
    assert!(world.states.follow(&ident(0), "state.dat", 100));
    assert!(!world.states.follow(&ident(0), "state.dat", 100), "it is followed already");
    assert_eq!(world.states.deadline(), None);
    std::fs::write(world.file(), "one").unwrap();
    world.states.written().await;
    let look = world.states.deadline().unwrap();
    assert!(world.states.due(look.checked_sub(Duration::from_millis(1)).unwrap()).is_empty());
    std::fs::write(world.file(), "two").unwrap();
    assert!(world.states.due(look).is_empty(), "it was written to just now");
    let later = world.states.deadline().unwrap();
    assert!(later > look);
    tokio::time::sleep_until((later + QUIET).into()).await;
    assert_eq!(world.states.due(Instant::now()), [ident(0)]);
    assert_eq!(world.states.look(&ident(0)).unwrap(), Some(Look::New(b"two".to_vec())));
    let sum = exchange::checksum(b"two");
    world.states.change(&world.db, &ident(0), |known| known.reported = Some(sum)).unwrap();
    assert_eq!(world.states.look(&ident(0)).unwrap(), Some(Look::Known));
    world.states.leave(&ident(0));
    assert_eq!(world.states.look(&ident(0)).unwrap(), None);
}

// PRO-100: the file stays the same file, with its owner and mode; what was not written before a crash is
// written after it.
#[tokio::test]
async fn a_state_of_the_cloud_is_written_in_place_and_survives_a_crash() {
    let mut world = World::new();
    std::fs::write(world.file(), "a long old state").unwrap();
    std::os::unix::fs::chown(world.file(), Some(5000), Some(5001)).unwrap();
    let before = std::fs::metadata(world.file()).unwrap();
    world.states.follow(&ident(0), "state.dat", 100);
    world.states.change(&world.db, &ident(0), |known| known.replace(b"new")).unwrap();

    let mut states = States::load(&world.db, world.dir.path(), QUIET).unwrap();
    assert!(states.pending().is_empty(), "nothing is followed yet");
    states.follow(&ident(0), "state.dat", 100);
    assert_eq!(states.pending(), [ident(0)]);
    states.write(&world.db, &ident(0)).unwrap().unwrap();
    assert!(states.pending().is_empty());
    assert_eq!(std::fs::read(world.file()).unwrap(), b"new");
    let after = std::fs::metadata(world.file()).unwrap();
    let same = |meta: &std::fs::Metadata| (meta.ino(), meta.mode(), meta.uid(), meta.gid());
    assert_eq!(same(&before), same(&after));
    assert_eq!(states.look(&ident(0)).unwrap(), Some(Look::Known), "our own write is nothing new");

    std::fs::remove_file(world.file()).unwrap();
    states.change(&world.db, &ident(0), |known| known.replace(b"x")).unwrap();
    assert!(states.write(&world.db, &ident(0)).unwrap().is_err());
    assert_eq!(states.pending(), [ident(0)], "it is kept");
    states.forget(&world.db, &ident(0)).unwrap();
    assert!(States::load(&world.db, world.dir.path(), QUIET).unwrap().known.is_empty());
}

// A service that never rests does not keep its state from the cloud.
#[tokio::test]
async fn a_state_that_never_rests_is_sent_all_the_same() {
    let mut world = World::new();
    std::fs::write(world.file(), "").unwrap();
    world.states.follow(&ident(0), "state.dat", 100);
    let start = Instant::now();
    world.states.look_at(&ident(0), start, start);
    let mut now = start;
    let mut looks = 0;
    loop {
        std::fs::write(world.file(), "busy").unwrap();
        if !world.states.due(now).is_empty() {
            break;
        }
        looks += 1;
        now = world.states.deadline().unwrap();
    }
    assert!((1..=PATIENCE).contains(&looks), "{looks}");
}

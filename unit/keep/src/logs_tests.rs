//! Logs under their cap, step by step.

use super::*;

#[test]
fn a_file_past_its_cap_becomes_the_old_generation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.log");
    let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let mut logs = Logs::new().unwrap();
    let start = Instant::now();
    logs.add("a", Log { path: path.clone(), max_bytes: 100 }, start);
    logs.look(start);
    assert_eq!(logs.next_look(), None, "a quiet log asks for no look");

    writer.write_all(&[b'x'; 150]).unwrap();
    logs.on_written(start);
    assert_eq!(logs.next_look(), Some(start + LOOK_AFTER));
    logs.look(start + LOOK_AFTER);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(fs::metadata(old_generation(&path)).unwrap().len(), 100);

    writer.write_all(b"more").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"more", "the writer goes on at the new start");
}

/// Time of every byte of a log, by its index.
fn dated(path: &Path) -> Vec<u64> {
    let mut times = Vec::new();
    for record in crate::index::Records::new(fs::read(index_of(path)).unwrap_or_default().as_slice()) {
        times.resize(usize::try_from(record.offset).unwrap(), record.at);
    }
    times
}

proptest::proptest! {
    // Each byte written is the second of its writing; both generations must agree with their index.
    #[test]
    fn times_stay_right_over_cuts(writes in proptest::collection::vec((0usize..60, 0u8..3), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("l"), max_bytes: 100 };
        let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
        let mut at = 1;
        for (size, later) in writes {
            at += later;
            writer.write_all(&vec![at; size]).unwrap();
            proptest::prop_assert!(!matches!(look(&log, Some(u64::from(at)), true).unwrap(), Look::Read));
            for path in [old_generation(&log.path), log.path.clone()] {
                let bytes: Vec<u64> = fs::read(&path).unwrap_or_default().into_iter().map(u64::from).collect();
                proptest::prop_assert!(bytes.len() <= 100);
                proptest::prop_assert_eq!(dated(&path), bytes);
            }
        }
    }
}

// Each byte written is its second. A keeper that dies within a cut leaves times that are right or none, and
// the next one goes on from there: at worst with the time of the file, which is `LATE`.
#[test]
fn a_cut_that_is_broken_off_leaves_no_wrong_time() {
    const LATE: u64 = 250;
    let none_wrong = |log: &Log, step| {
        let mut exact = 0;
        for path in [old_generation(&log.path), log.path.clone()] {
            let bytes = fs::read(&path).unwrap();
            for (at, byte) in dated(&path).into_iter().zip(bytes) {
                assert!(at == u64::from(byte) || at == LATE, "{byte} told as {at} after step {step}");
                exact += usize::from(at != LATE);
            }
        }
        exact
    };
    for (step, late) in (1..=5).flat_map(|step| [(step, 5), (step, 300)]) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("l"), max_bytes: 100 };
        let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
        let mut write = |times: std::ops::Range<u8>| {
            for at in times {
                writer.write_all(&[at; 10]).unwrap();
                look(&log, Some(u64::from(at)), true).unwrap();
            }
        };
        write(1..20);
        assert!(fs::metadata(old_generation(&log.path)).unwrap().len() == 100, "cut once before");
        writer.write_all(&[20; 60]).unwrap();
        let size = fs::metadata(&log.path).unwrap().len();
        assert!(size > log.max_bytes);
        let mut index = Index::open(&log.path).unwrap();
        index.grown(size, 20).unwrap();
        let mut left = step;
        let broken = rotate(&log, &mut index, size, || {
            left -= 1;
            if left == 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        assert!(broken.is_err(), "step {step} exists");
        none_wrong(&log, step);
        // Written while no keeper is there; the next one looks.
        writer.write_all(&vec![250; late]).unwrap();
        look(&log, Some(LATE), true).unwrap();
        let exact = none_wrong(&log, step);
        assert!(exact >= 95 || step == 5 || late > 5, "{exact} times are kept after step {step}");
        assert_eq!(fs::metadata(&log.path).unwrap().len(), 0, "the cut is made up for");
    }
}

#[test]
fn an_index_may_not_outgrow_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log { path: folder.path().join("l"), max_bytes: 4096 };
    let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
    for at in 1..1000 {
        writer.write_all(b"x").unwrap();
        look(&log, Some(at), true).unwrap();
        assert!(fs::metadata(index_of(&log.path)).unwrap().len() <= 2048);
    }
    assert_eq!(dated(&log.path).last(), Some(&999));
    assert_eq!(fs::metadata(old_generation(&log.path)).unwrap().len(), 128);
}

#[test]
fn a_log_is_not_cut_under_its_reader_unless_it_floods() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log { path: folder.path().join("l"), max_bytes: 100 };
    fs::write(&log.path, [b'x'; 150]).unwrap();
    Index::open(&log.path).unwrap();
    let reader = File::open(index_of(&log.path)).unwrap();
    reader.lock_shared().unwrap();
    assert!(matches!(look(&log, Some(1), true).unwrap(), Look::Read));
    assert_eq!(fs::metadata(&log.path).unwrap().len(), 150);
    fs::write(&log.path, [b'x'; 201]).unwrap();
    assert!(matches!(look(&log, Some(2), true).unwrap(), Look::Calm | Look::Cut { .. }));
    fs::write(&log.path, [b'x'; 150]).unwrap();
    assert!(matches!(look(&log, Some(3), true).unwrap(), Look::Read));
    drop(reader);
    assert!(matches!(look(&log, Some(4), true).unwrap(), Look::Calm | Look::Cut { .. }));
    assert_eq!(fs::metadata(&log.path).unwrap().len(), 0);
}

#[test]
fn ends_are_noted_once_and_as_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log { path: folder.path().join("l"), max_bytes: 100 };
    let (mut logs, now) = (Logs::new().unwrap(), Instant::now());
    let mut run = |asked: Option<Instant>, event| {
        Logs::begin(&log);
        fs::write(&log.path, "words").unwrap();
        logs.add("a", log.clone(), now);
        if let Some(asked) = asked {
            logs.stopping("a", asked);
        }
        logs.end("a", event, now + STOP_TIME);
        logs.end("a", event, now + STOP_TIME);
    };
    run(None, Event::Exited(7));
    run(Some(now), Event::Killed(15));
    run(Some(now.checked_sub(Duration::from_secs(1)).unwrap()), Event::Killed(9));
    Logs::end_unseen(&log);
    Logs::begin(&log);
    Logs::end_unseen(&log);
    let bytes = fs::read(index_of(&log.path)).unwrap();
    let events: Vec<Event> = crate::index::Records::new(bytes.as_slice()).map(|r| r.event).collect();
    let (begin, words) = (Event::Started, Event::Written);
    let ends = [
        begin,
        words,
        Event::Exited(7),
        begin,
        Event::Stopped,
        begin,
        Event::Killed(9),
        begin,
        Event::Vanished,
    ];
    assert_eq!(events, ends);
}

#[test]
fn of_a_flood_one_file_a_second_is_kept_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flood.log");
    let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let mut logs = Logs::new().unwrap();
    let start = Instant::now();
    logs.add("a", Log { path: path.clone(), max_bytes: 100 }, start);
    assert_eq!(logs.look(start), []);
    let mut told = Vec::new();
    let mut kept = 0;
    for round in 0..200u32 {
        writer.write_all(&[b'a'; 1000]).unwrap();
        let now = start + FLOOD_LOOK * round;
        if round == 0 {
            logs.on_written(now);
        }
        let before = fs::metadata(old_generation(&path)).ok().and_then(|meta| meta.modified().ok());
        // The first look is due a while after the write, the following ones one after the other.
        told.extend(logs.look(logs.next_look().unwrap()));
        assert!(fs::metadata(&path).unwrap().len() < 100, "the file is cut at every look");
        let after = fs::metadata(old_generation(&path)).ok().and_then(|meta| meta.modified().ok());
        kept += usize::from(before != after);
    }
    // Two hundred looks take four seconds.
    assert!((2..=6).contains(&kept), "kept {kept} times");
    assert_eq!(told.len(), 1, "once a minute: {told:?}");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("bytes of this log were thrown away"), "{text}");
    let lost: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(lost > 190_000, "{lost}");

    // Calm again: nothing is due, and the next flood is counted anew.
    let calm = logs.next_look().unwrap();
    logs.look(calm);
    assert_eq!(logs.next_look(), None);
    writer.write_all(&[b'a'; 1000]).unwrap();
    logs.on_written(calm + KEEP_EVERY);
    logs.look(logs.next_look().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("[aos] ") && lost > text.split(' ').nth(1).unwrap().parse().unwrap(), "{text}");
}

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const FIRST: Migrations = Migrations::new(&["CREATE TABLE item (id TEXT PRIMARY KEY) STRICT"]);
const SECOND: Migrations = Migrations::new(&[
    "CREATE TABLE item (id TEXT PRIMARY KEY) STRICT",
    "ALTER TABLE item ADD COLUMN version TEXT NOT NULL DEFAULT ''",
]);

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_as_a_whole_with_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    write_atomic(&path, b"one", 0o644).unwrap();
    assert_eq!((mode(&path), read_bounded(&path, 3).unwrap().unwrap()), (0o644, b"one".to_vec()));
    write_atomic(&path, b"", 0o600).unwrap();
    assert_eq!((mode(&path), read_bounded(&path, 3).unwrap().unwrap()), (0o600, Vec::new()));
    assert_eq!(names(dir.path()), ["state"]);
}

#[test]
fn a_failed_replacement_leaves_the_old_content_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::fs::create_dir(&path).unwrap();
    let error = write_atomic(&path, b"new", 0o600).unwrap_err();
    assert!(error.to_string().contains("cannot write") && error.to_string().contains("state"), "{error}");
    assert_eq!(names(dir.path()), ["state"]);
    assert!(write_atomic(&dir.path().join("no/such/dir"), b"", 0o600).is_err());
}

#[test]
fn what_a_killed_writer_left_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::fs::write(dir.path().join(".state.tmp"), "a longer half of something").unwrap();
    write_atomic(&path, b"new", 0o600).unwrap();
    assert_eq!((mode(&path), std::fs::read(&path).unwrap()), (0o600, b"new".to_vec()));
    assert_eq!(names(dir.path()), ["state"]);
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join(".state.tmp")).unwrap();
    assert!(write_atomic(&path, b"x", 0o600).is_err());
    assert!(!elsewhere.exists());
}

#[test]
fn writers_of_one_file_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write_atomic(path, &vec![writer; 3000 + usize::from(writer)], 0o600).unwrap();
                }
            });
        }
    });
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found, vec![found[0]; 3000 + usize::from(found[0])]);
    assert_eq!(names(dir.path()), ["state"]);
}

#[test]
fn readers_see_the_old_or_the_new_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let contents = [vec![b'a'; 5000], vec![b'b'; 9000]];
    write_atomic(&path, &contents[0], 0o600).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..50 {
                write_atomic(&path, &contents[n % 2], 0o600).unwrap();
            }
        });
        while !writer.is_finished() {
            let found = read_bounded(&path, 10_000).unwrap().unwrap();
            assert!(contents.contains(&found));
        }
    });
    assert_eq!(names(dir.path()), ["state"]);
}

#[test]
fn reading_is_bounded_and_a_missing_file_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    assert!(read_bounded(&path, 10).unwrap().is_none());
    write_atomic(&path, b"12345", 0o600).unwrap();
    assert!(matches!(read_bounded(&path, 4), Err(DurableError::TooLarge { size: 5, max: 4, .. })));
    // A file whose size says nothing is bounded too.
    assert!(matches!(read_bounded(Path::new("/dev/zero"), 100), Err(DurableError::TooLarge { .. })));
}

#[test]
fn removing_appending_renaming_and_making_directories() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    create_dir(&deep, 0o710).unwrap();
    create_dir(&deep, 0o755).unwrap();
    assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o710, 0o710));
    let log = deep.join("log");
    append_synced(&log, b"one\n", 0o640).unwrap();
    append_synced(&log, b"two\n", 0o640).unwrap();
    assert_eq!(read_bounded(&log, 100).unwrap().unwrap(), b"one\ntwo\n");
    let moved = dir.path().join("moved");
    rename_durably(&log, &moved).unwrap();
    remove_durably(&moved).unwrap();
    remove_durably(&moved).unwrap();
    assert!(!moved.exists() && !log.exists());
    std::fs::write(&moved, "").unwrap();
    assert!(create_dir(&moved, 0o700).is_err());
}

#[test]
fn a_database_keeps_its_rows_and_gets_new_columns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db/cm.db");
    let connection = Database::open(&path, &FIRST).unwrap();
    connection.execute("INSERT INTO item (id) VALUES ('a')", []).unwrap();
    let pragma = |name| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap();
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    let (synchronous, foreign_keys): (i64, i64) = (pragma("synchronous"), pragma("foreign_keys"));
    assert_eq!((journal.as_str(), synchronous, foreign_keys), ("wal", 2, 1));
    drop(connection);
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let connection = Database::open(&path, &SECOND).unwrap();
    let row: (String, String) = connection
        .query_row("SELECT id, version FROM item", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(row, ("a".to_owned(), String::new()));
}

// What does not fit into the small cache goes to the WAL before its end, and is all there or not at all.
#[test]
fn a_transaction_larger_than_the_cache_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.db");
    let mut connection = Database::open(&path, &FIRST).unwrap();
    let count = |connection: &rusqlite::Connection| -> (i64, i64) {
        let query = "SELECT count(*), coalesce(sum(length(id)), 0) FROM item";
        connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let fill = |connection: &rusqlite::Connection| {
        for number in 0..1000 {
            connection.execute("INSERT INTO item (id) VALUES (?1)", [format!("{number:0>1000}")]).unwrap();
        }
    };
    let given_up = connection.transaction().unwrap();
    fill(&given_up);
    drop(given_up);
    assert_eq!(count(&connection), (0, 0));
    let done = connection.transaction().unwrap();
    fill(&done);
    done.commit().unwrap();
    Database::shrink(&connection).unwrap();
    assert_eq!(count(&connection), (1000, 1_000_000));
    // As after a kill: another process sees what was committed, though nobody has closed the first connection.
    let second = dir.path().join("copy.db");
    for ending in ["", "-wal"] {
        std::fs::copy(dir.path().join(format!("large.db{ending}")), format!("{}{ending}", second.display()))
            .unwrap();
    }
    assert_eq!(count(&Database::open(&second, &FIRST).unwrap()), (1000, 1_000_000));
}

#[test]
fn a_database_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cm.db");
    drop(Database::open(&path, &SECOND).unwrap());
    assert!(matches!(Database::open(&path, &FIRST), Err(DurableError::Migration { .. })));
}

#[test]
fn a_damaged_database_is_left_alone_unless_the_caller_opts_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cm.db");
    let garbage = vec![0x5a; 8192];
    for n in 1..=2 {
        std::fs::write(&path, &garbage).unwrap();
        let error = Database::open(&path, &FIRST).unwrap_err();
        assert!(matches!(&error, DurableError::Corrupt { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
        let opened = Database::open_or_set_aside(&path, &FIRST).unwrap();
        let aside = dir.path().join(format!("cm.db.corrupt-{n}"));
        assert_eq!(opened.set_aside.as_deref(), Some(aside.as_path()));
        assert_eq!(std::fs::read(aside).unwrap(), garbage);
        opened.connection.execute("INSERT INTO item (id) VALUES ('a')", []).unwrap();
    }
    assert!(Database::open_or_set_aside(&path, &FIRST).unwrap().set_aside.is_none());
}

#[test]
fn a_page_damaged_in_the_middle_is_found_when_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cm.db");
    let connection = Database::open(&path, &FIRST).unwrap();
    for n in 0..500 {
        connection.execute("INSERT INTO item (id) VALUES (?1)", [format!("{n:0100}")]).unwrap();
    }
    connection.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(Database::open(&path, &FIRST), Err(DurableError::Corrupt { .. })));
}

#[test]
fn in_memory_has_the_same_schema() {
    let connection = Database::in_memory(&SECOND).unwrap();
    connection.execute("INSERT INTO item (id, version) VALUES ('a', '1')", []).unwrap();
}

//! Following logs while they grow, are cut and renamed. The cuts here are played; `in_box` has those of a keeper.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aos_keep::index::{begin, encode_begin, index_of};

use super::super::local::print_log;
use super::*;

/// Hands on what is printed; fails once nobody wants it any more, which ends the following.
struct Pipe(Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.send(text.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe.into()).map(|()| text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const LIMIT: Duration = Duration::from_secs(30);

struct Follower {
    lines: Receiver<Vec<u8>>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Follower {
    fn of(shown: Shown) -> Self {
        let (sender, lines) = channel();
        let thread = std::thread::spawn(move || print_log(&shown, 0, true, &mut Pipe(sender)));
        Self { lines, thread }
    }

    /// The next line without its time.
    fn next(&self) -> String {
        let text = self.lines.recv_timeout(LIMIT).unwrap();
        String::from_utf8(text).unwrap().split_once(' ').unwrap().1.trim_end().to_owned()
    }

    /// Once more is written, following ends.
    fn end(self, write: impl FnOnce()) {
        drop(self.lines);
        write();
        assert!(self.thread.join().unwrap().is_err());
    }
}

fn append(path: &Path, text: &str) {
    File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

// CLO-23: what is there is shown, and then what comes, over a cut of the file.
#[test]
fn a_log_is_shown_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a.log");
    std::fs::write(&log, "one\ntwo\nthr").unwrap();
    let follower = Follower::of(Shown::Instances(vec![log.clone()]));
    assert_eq!([follower.next(), follower.next()], ["one", "two"]);
    append(&log, "ee\nfour\n");
    assert_eq!([follower.next(), follower.next()], ["three", "four"]);
    std::fs::write(&log, "anew\n").unwrap();
    assert_eq!(follower.next(), "anew");
    follower.end(|| append(&log, "nobody listens\n"));
}

/// Cuts a log as the keeper does; `keep` as in a calm, else as in a flood.
fn cut(log: &Path, keep: bool) {
    let text = std::fs::read(log).unwrap();
    let begin = File::open(index_of(log)).map_or(0, |index| begin(&index));
    let half = text.len() / 2;
    if keep {
        let old = old_generation(log);
        std::fs::write(&old, &text[half..]).unwrap();
        std::fs::write(index_of(&old), encode_begin(begin + half as u64)).unwrap();
    }
    std::fs::write(index_of(log), encode_begin(begin + text.len() as u64)).unwrap();
    File::options().write(true).open(log).unwrap().set_len(0).unwrap();
}

// CLO-23, SM-59: a line is missing from what is followed only when it is missing from the log, and then that is told;
// nothing is shown twice.
#[test]
fn a_cut_takes_nothing_away_from_who_follows() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a.log");
    // A follower that is behind when the log is cut: between its looks, or since its beginning.
    for (before, after) in [(0, 10), (6, 4), (10, 0)] {
        for path in aos_keep::files_of(&log) {
            let _ = std::fs::remove_file(path);
        }
        let line = |number: usize| format!("line {number}\n");
        let text = |range: std::ops::Range<usize>| range.map(line).collect::<String>();
        append(&log, &text(0..before));
        cut(&log, true);
        let mut place = 0;
        let mut read = Vec::new();
        let mut lost = 0;
        let mut follow = |read: &mut Vec<u8>| loop {
            match files::following(&log, &mut place, 5).unwrap() {
                Following::Bytes(bytes) => read.extend(bytes),
                Following::Lost(bytes) => lost += usize::try_from(bytes).unwrap(),
                Following::Nothing => return lost,
                Following::Anew => panic!("nobody made it anew"),
            }
        };
        follow(&mut read);
        append(&log, &text(before..before + after));
        follow(&mut read);
        // Twice cut in one go: the second cut's first half is gone for good.
        append(&log, &text(10..20));
        cut(&log, true);
        append(&log, &text(20..30));
        assert_eq!(follow(&mut read) + read.len(), text(0..30).len());
        append(&log, &text(30..40));
        cut(&log, false);
        append(&log, &text(40..50));
        let lost = follow(&mut read);
        assert_eq!(lost + read.len(), text(0..50).len());
        assert!(read.ends_with(text(40..50).as_bytes()));
        let shown = String::from_utf8(read).unwrap();
        let whole: Vec<&str> = shown.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(whole.len(), whole.iter().collect::<BTreeSet<_>>().len(), "shown twice: {whole:?}");
        assert!(lost >= text(30..40).len(), "thrown away, and told");
    }
}

// SM-39, PRO-85: components' logs go on in another file when theirs is renamed.
#[test]
fn a_renamed_file_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("cm.log");
    append(&log, "one\n");
    let follower = Follower::of(Shown::Components(folder.path().to_owned()));
    assert_eq!(follower.next(), "aos-cm one");
    append(&log, "two\nthr");
    std::fs::rename(&log, old_generation(&log)).unwrap();
    append(&old_generation(&log), "ee\n");
    append(&log, "four\n");
    assert_eq!(
        [follower.next(), follower.next(), follower.next()],
        ["aos-cm two", "aos-cm three", "aos-cm four"]
    );
    follower.end(|| append(&log, "nobody listens\n"));
}

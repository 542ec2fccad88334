//! Logs for whoever sits at the node (`aos logs`): the same files, without asking anybody.
//!
//! Following reads what is new whenever the kernel tells of a write; a line is then dated when it is read.
//! What is written in the moment in which the keeper cuts a log may be missing from what is followed, not from
//! the log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aos_keep::index::seconds;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::lines::Window;
use super::merge::{MAX_SOURCES, Next, merged};
use super::{files, own, parts};
use crate::Error;
use crate::alerts::Core;
use crate::ownlog;

/// Longest line in one piece, bytes.
const LONGEST: usize = 8192;

/// What is shown.
#[derive(Debug, Clone)]
pub enum Shown {
    /// What instances wrote; the log files as the local status names them.
    Instances(Vec<PathBuf>),
    /// What the core components wrote, on a node without journal; the folder of their log files.
    Components(PathBuf),
}

/// Prints every line written since `since` (seconds since 1970), oldest first; with `follow` goes on with what
/// is written, for ever.
pub fn print_log(shown: &Shown, since: u64, follow: bool, out: &mut dyn Write) -> Result<(), Error> {
    // Watched before it is read: nothing is missed in between.
    let watch = follow.then(|| Watch::start(shown)).transpose()?;
    let window = Window { from: since, till: u64::MAX };
    let sources: Vec<Next<'_>> = match shown {
        Shown::Instances(logs) if logs.len() > MAX_SOURCES => {
            let what = "the number of logs that are put together (name an instance)".to_owned();
            return Err(Error::Limit { what, limit: MAX_SOURCES as u64 });
        }
        Shown::Instances(logs) => {
            logs.iter().map(|log| files::instance(log, LONGEST)).collect::<Result<_, _>>()?
        }
        Shown::Components(dir) => own::sources(dir, LONGEST),
    };
    merged(sources, window, |at, line| print(out, at, line))?;
    out.flush().map_err(Error::system("print a log"))?;
    watch.map_or(Ok(()), |watch| watch.run(out))
}

/// A time given as RFC 3339 or as a duration before now, such as `30m`: seconds since 1970.
pub fn since(text: &str) -> Result<u64, Error> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(u64::try_from(time.as_second()).unwrap_or(0));
    }
    let length = aos_duration_text::parse(text).map_err(|_| {
        let reason = "it is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 30m";
        Error::invalid(format!("'{text}'"), reason)
    })?;
    Ok(seconds(SystemTime::now()).saturating_sub(length.as_secs()))
}

/// True when the folder has log files of core components.
pub fn has_components(dir: &Path) -> bool {
    !ownlog::present(dir).is_empty()
}

fn print(out: &mut dyn Write, at: u64, line: &[u8]) -> Result<(), Error> {
    let mut text = parts::stamp(at).into_bytes();
    text.push(b' ');
    text.extend_from_slice(line);
    text.push(b'\n');
    out.write_all(&text).map_err(Error::system("print a log"))
}

/// Files whose growth is shown.
struct Watch {
    notices: OwnedFd,
    /// Each file with the component it belongs to and how far it has been shown.
    files: BTreeMap<PathBuf, (Option<Core>, u64)>,
}

impl Watch {
    fn start(shown: &Shown) -> Result<Self, Error> {
        let notices = inotify::init(CreateFlags::CLOEXEC).map_err(Error::system("watch log files"))?;
        let files: BTreeMap<PathBuf, (Option<Core>, u64)> = match shown {
            Shown::Instances(logs) => logs.iter().map(|log| (log.clone(), (None, size(log)))).collect(),
            Shown::Components(dir) => ownlog::FILES
                .iter()
                .map(|(name, core)| (dir.join(name), (Some(*core), size(&dir.join(name)))))
                .collect(),
        };
        // Folders: a file may be made, or made anew, later.
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        for path in files.keys() {
            let dir = path.parent().unwrap_or(path);
            inotify::add_watch(&notices, dir, flags)
                .map_err(|error| Error::file("watch", dir)(error.into()))?;
        }
        Ok(Self { notices, files })
    }

    fn run(mut self, out: &mut dyn Write) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            self.show(out)?;
            let failed = || Error::system("wait for more of a log");
            match poll(&mut [PollFd::new(&self.notices, PollFlags::IN)], None) {
                Ok(_) => {
                    rustix::io::read(&self.notices, &mut buffer).map_err(failed())?;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed()(error)),
            }
        }
    }

    /// Whole lines that are new.
    fn show(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        let mut line = Vec::new();
        for (path, (core, offset)) in &mut self.files {
            let Ok(mut file) = File::open(path) else { continue };
            let end = file.metadata().map_err(Error::file("look at", path))?.len();
            if end < *offset {
                *offset = 0;
            }
            file.seek(SeekFrom::Start(*offset)).map_err(Error::file("read", path))?;
            let mut file = BufReader::new(file.take(end - *offset));
            loop {
                line.clear();
                let read = file.by_ref().take(LONGEST as u64).read_until(b'\n', &mut line);
                let count = read.map_err(Error::file("read", path))?;
                let whole = line.last() == Some(&b'\n');
                if count == 0 || (!whole && count < LONGEST) {
                    break;
                }
                *offset += count as u64;
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                match (*core, ownlog::parse(text)) {
                    (None, _) => print(out, seconds(SystemTime::now()), text)?,
                    (Some(core), Some(ours)) => print(out, ours.at, &own::named(core, ours.text.as_bytes()))?,
                    (Some(core), None) => print(out, seconds(SystemTime::now()), &own::named(core, text))?,
                }
            }
        }
        out.flush().map_err(Error::system("print a log"))
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

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

    // CLO-23: what is there is shown, and then what comes, over a cut of the file.
    #[test]
    fn a_log_is_shown_and_followed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        std::fs::write(&log, "one\ntwo\n").unwrap();
        let (sender, lines) = channel();
        let shown = Shown::Instances(vec![log.clone()]);
        let following = std::thread::spawn(move || print_log(&shown, 0, true, &mut Pipe(sender)));
        let next = || {
            let text = lines.recv_timeout(Duration::from_secs(30)).unwrap();
            String::from_utf8(text).unwrap().split_once(' ').unwrap().1.to_owned()
        };
        assert_eq!((next().as_str(), next().as_str()), ("one\n", "two\n"));
        let append = |text: &str| {
            File::options().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
        };
        append("thr");
        append("ee\nfour\n");
        assert_eq!((next().as_str(), next().as_str()), ("three\n", "four\n"));
        std::fs::write(&log, "anew\n").unwrap();
        assert_eq!(next(), "anew\n");
        drop(lines);
        append("nobody listens\n");
        assert!(following.join().unwrap().is_err());

        assert_eq!(since("1970-01-02T00:00:01Z").unwrap(), 86_401);
        let minute = seconds(SystemTime::now()) - since("1m").unwrap();
        assert!((60..=61).contains(&minute), "{minute}");
        assert!(since("soon").unwrap_err().to_string().contains("30m"));
        let mut out = Vec::new();
        print_log(&Shown::Instances(vec![log]), u64::MAX, false, &mut out).unwrap();
        assert_eq!(out, b"", "nothing that late");
    }
}

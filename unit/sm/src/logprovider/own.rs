//! The system's log of a node without journal: the log files of its core components.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Take};
use std::path::{Path, PathBuf};

use super::merge::Next;
use crate::Error;
use crate::alerts::Core;
use crate::ownlog;

/// The lines of each component. A line that is none of ours (what a library printed, a panic) has the time of
/// the one before.
pub fn sources(dir: &Path, longest: usize) -> Vec<Next<'static>> {
    sources_until(dir, longest, |_| u64::MAX)
}

/// The same, of each file so many bytes.
pub fn sources_until(dir: &Path, longest: usize, end: impl Fn(&Path) -> u64) -> Vec<Next<'static>> {
    let bounded = |paths: Vec<PathBuf>| paths.into_iter().map(|path| (end(&path), path)).collect();
    ownlog::present(dir).into_iter().map(|(core, paths)| lines(core, bounded(paths), longest)).collect()
}

/// A line with the name of its component before it.
pub fn named(core: Core, text: &[u8]) -> Vec<u8> {
    let mut line = format!("aos-{} ", core.word().to_ascii_lowercase()).into_bytes();
    line.extend_from_slice(text);
    line
}

/// Longest name of a component with the blank after it, bytes.
const NAME: usize = 8;

fn lines(core: Core, mut paths: VecDeque<(u64, PathBuf)>, longest: usize) -> Next<'static> {
    let longest = longest.saturating_sub(NAME).max(1) as u64;
    let mut reading: Option<(PathBuf, BufReader<Take<File>>)> = None;
    let mut at = 0;
    let mut text = Vec::new();
    Box::new(move |line| {
        loop {
            if let Some((path, file)) = &mut reading {
                text.clear();
                let read = file.by_ref().take(longest).read_until(b'\n', &mut text);
                if read.map_err(Error::file("read", path.clone()))? > 0 {
                    if text.last() == Some(&b'\n') {
                        text.pop();
                    }
                    let ours = ownlog::parse(&text);
                    at = ours.map_or(at, |ours| ours.at);
                    *line = named(core, ours.map_or(text.as_slice(), |ours| ours.text.as_bytes()));
                    return Ok(Some(at));
                }
            }
            let Some((end, path)) = paths.pop_front() else { return Ok(None) };
            reading = match File::open(&path) {
                Ok(file) => Some((path, BufReader::new(file.take(end)))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(Error::file("open", path)(error)),
            };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines::Window;
    use super::super::merge::merge;
    use super::super::parts::{Limits, Parts};
    use super::*;

    // SM-39, PRO-85: without a journal.
    #[test]
    fn components_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("cm.log.1", "04.03.26 07:25:01.000 [INF] (cm) early\n");
        write(
            "cm.log",
            "04.03.26 07:25:05.000 [INF] (cm) five\npanic\n04.03.26 07:25:09.000 [ERR] (cm) late\n",
        );
        write("sm.log", "04.03.26 07:25:04.999 [WRN] (sm) four");
        let mut parts = Parts::new(folder.path(), Limits::new(1 << 18, 1)).unwrap();
        let window = Window { from: 1_772_609_102, till: 1_772_609_109 };
        merge(sources(folder.path(), parts.limits().longest()), window, &mut parts).unwrap();
        let mut text = String::new();
        let data = parts.finish().unwrap().part(0).unwrap();
        flate2::read::GzDecoder::new(data.as_slice()).read_to_string(&mut text).unwrap();
        let expected = "20260304072504Z aos-sm [WRN] (sm) four\n20260304072505Z aos-cm [INF] (cm) five\n\
            20260304072505Z aos-cm panic\n";
        assert_eq!(text, expected);
        assert!(sources(Path::new("/no/such/folder"), 100).is_empty());
    }
}

//! Alerts of core components on a node without a journal: errors in their log files.
//!
//! The kernel tells when a file of the folder grows; then what is new is read, at most once a second. Reading
//! begins at the end of what is there at the first start, and where it was left at later ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_unit_api::servicemanager::v5::alert::AlertItem;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::judge::Settings;
use super::{Core, core_item};
use crate::Error;
use crate::ownlog::{self, FILES};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest line that is looked at, bytes.
const MAX_LINE: u64 = 16 * 1024;
/// Most that is read of one file at a look; the rest follows with the next.
const MAX_LOOK: u64 = 1024 * 1024;

/// How far a file has been read: its inode and the offset.
type Places = BTreeMap<String, (u64, u64)>;

/// Follows the log files of core components.
pub struct OwnLogs {
    dir: PathBuf,
    notices: AsyncFd<OwnedFd>,
    places: Places,
    look_at: Option<tokio::time::Instant>,
}

impl OwnLogs {
    /// From where `stored` says. Fails when the folder is not there.
    pub fn open(dir: PathBuf, stored: Option<&str>) -> Result<Self, Error> {
        let failed = || Error::system::<rustix::io::Errno>(format!("watch {}", dir.display()));
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed())?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, &dir, flags).map_err(failed())?;
        #[allow(
            deprecated,
            reason = "an OwnedFd is always the same open file, which is all that is asked for"
        )]
        let notices = AsyncFd::new(inotify).map_err(Error::file("watch", &dir))?;
        let mut logs = Self { dir, notices, places: Places::new(), look_at: None };
        match stored.and_then(|text| serde_json::from_str(text).ok()) {
            Some(places) => {
                logs.places = places;
                logs.look_at = Some(tokio::time::Instant::now());
            }
            None => {
                for (name, _) in FILES {
                    if let Ok(meta) = std::fs::metadata(logs.dir.join(name)) {
                        logs.places.insert(name.to_owned(), (meta.ino(), meta.len()));
                    }
                }
            }
        }
        Ok(logs)
    }

    /// How far everything has been read, to be stored.
    pub fn places(&self) -> String {
        serde_json::to_string(&self.places).unwrap_or_default()
    }

    /// The next new errors, with their times in microseconds; may be given up and asked again.
    pub async fn next(&mut self, settings: &Settings) -> Vec<(u64, AlertItem)> {
        loop {
            if let Some(at) = self.look_at {
                tokio::time::sleep_until(at).await;
                self.look_at = None;
                let (found, more) = self.look(settings);
                if more {
                    self.look_at = Some(tokio::time::Instant::now() + PAUSE);
                }
                if !found.is_empty() {
                    return found;
                }
                continue;
            }
            match self.notices.readable().await {
                Ok(mut ready) => {
                    // What has changed is looked at anyway.
                    let mut notices = [0; 4096];
                    while rustix::io::read(self.notices.get_ref(), &mut notices).is_ok_and(|size| size > 0) {}
                    ready.clear_ready();
                    self.look_at = Some(tokio::time::Instant::now() + PAUSE);
                }
                Err(error) => {
                    tracing::info!("log files of components are not watched any more: {error}");
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Reads what is new; true when there is more.
    fn look(&mut self, settings: &Settings) -> (Vec<(u64, AlertItem)>, bool) {
        let (mut found, mut more) = (Vec::new(), false);
        for (name, core) in FILES {
            match self.look_into(name, core, settings, &mut found) {
                Ok(left) => more |= left,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::debug!("the log file {name} is not read: {error}"),
            }
        }
        (found, more)
    }

    fn look_into(
        &mut self,
        name: &str,
        core: Core,
        settings: &Settings,
        found: &mut Vec<(u64, AlertItem)>,
    ) -> std::io::Result<bool> {
        let path = self.dir.join(name);
        let meta = std::fs::metadata(&path)?;
        let mut offset = 0;
        match self.places.get(name) {
            Some((inode, known)) if *inode == meta.ino() => offset = *known,
            Some((inode, known)) => {
                // The end of the file that was there before.
                let old = aos_keep::old_generation(&path);
                if std::fs::metadata(&old).is_ok_and(|old| old.ino() == *inode) {
                    read(&old, *known, core, settings, found)?;
                }
            }
            None => {}
        }
        let (offset, more) = read(&path, offset, core, settings, found)?;
        self.places.insert(name.to_owned(), (meta.ino(), offset));
        Ok(more)
    }
}

/// Reads whole lines from `offset` on, or from the start when the file was cut; answers how far it came and
/// whether there is more.
fn read(
    path: &Path,
    offset: u64,
    core: Core,
    settings: &Settings,
    found: &mut Vec<(u64, AlertItem)>,
) -> std::io::Result<(u64, bool)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut offset = if offset > size { 0 } else { offset };
    let until = size.min(offset.saturating_add(MAX_LOOK));
    file.seek(SeekFrom::Start(offset))?;
    let mut file = BufReader::new(file.take(size - offset));
    let mut line = Vec::new();
    while offset < until {
        line.clear();
        let count = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
        let whole = line.last() == Some(&b'\n');
        if count == 0 || (!whole && count < MAX_LINE) {
            break;
        }
        offset += count;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(ours) = ownlog::parse(line).filter(|ours| ours.is_error && !settings.drops(ours.text)) {
            let text = ours.text.strip_prefix("[ERR] ").unwrap_or(ours.text);
            found.push((ours.at.saturating_mul(1_000_000), core_item(core, text)));
        }
    }
    Ok((offset, offset >= until && until < size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_lite::Regex;

    async fn next(logs: &mut OwnLogs) -> Vec<String> {
        let settings = Settings { filter: vec![Regex::new("noise").unwrap()], ..Settings::default() };
        let found = tokio::time::timeout(Duration::from_secs(30), logs.next(&settings)).await.unwrap();
        let text = |(at, item): (u64, AlertItem)| match item {
            AlertItem::CoreAlert(alert) => {
                format!("{} {} {}", at / 1_000_000, alert.core_component, alert.message)
            }
            other => panic!("{other:?}"),
        };
        found.into_iter().map(text).collect()
    }

    // SM-08, SM-65: on a node without journal, over a restart and over a change of files.
    #[tokio::test]
    async fn errors_of_components_become_alerts_once() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        let append = |name: &str, text: &str| {
            let mut file = File::options().append(true).create(true).open(dir.join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("cm.log", "04.03.26 07:25:00.000 [ERR] (cm) before our first start\n");
        let mut logs = OwnLogs::open(dir.clone(), None).unwrap();
        append("cm.log", "04.03.26 07:25:01.000 [WRN] (cm) odd\n04.03.26 07:25:02.000 [ERR] (cm) noise\n");
        append("cm.log", "04.03.26 07:25:03.000 [ERR] (cm) broken\n04.03.26 07:25:04.000 [ERR] (cm) ha");
        append("other.log", "04.03.26 07:25:03.000 [ERR] (x) nobody's\n");
        assert_eq!(next(&mut logs).await, ["1772609103 CM (cm) broken"]);
        append("cm.log", "lf\n");
        assert_eq!(next(&mut logs).await, ["1772609104 CM (cm) half"]);
        let places = logs.places();
        drop(logs);

        append("cm.log", "04.03.26 07:25:05.000 [ERR] (cm) while we were away\n");
        std::fs::rename(dir.join("cm.log"), dir.join("cm.log.1")).unwrap();
        append("cm.log", "04.03.26 07:25:06.000 [ERR] (cm) in the next file\n");
        append("iam.log", "04.03.26 07:25:07.000 [ERR] (iam) a new one\n");
        let mut logs = OwnLogs::open(dir.clone(), Some(&places)).unwrap();
        let expected = [
            "1772609105 CM (cm) while we were away",
            "1772609106 CM (cm) in the next file",
            "1772609107 IAM (iam) a new one",
        ];
        assert_eq!(next(&mut logs).await, expected);
        std::fs::write(dir.join("cm.log"), "04.03.26 07:25:08.000 [ERR] (cm) cut\n").unwrap();
        assert_eq!(next(&mut logs).await, ["1772609108 CM (cm) cut"]);
        assert!(OwnLogs::open("/no/such/folder".into(), None).is_err());
    }
}

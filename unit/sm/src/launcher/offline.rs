//! Since when the cloud is away, kept over restarts of this program and of the machine.
//!
//! Within one boot the kernel's clock counts, which nobody sets. After a reboot only the wall clock can tell;
//! one that goes back gives no time away at all.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::database::Database;

const FACT: &str = "offline";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The moment the cloud went away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    /// Which boot of the machine.
    boot: String,
    /// Milliseconds since that boot, sleep included.
    uptime: u64,
    /// Milliseconds since 1970.
    wall: u64,
}

impl Moment {
    fn now() -> Self {
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let uptime = Duration::try_from(uptime).unwrap_or_default();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { boot, uptime: millis(uptime), wall: millis(wall) }
    }

    /// Time from here to `later`.
    fn until(&self, later: &Self) -> Duration {
        let millis = if self.boot == later.boot && !self.boot.is_empty() {
            later.uptime.saturating_sub(self.uptime)
        } else {
            later.wall.saturating_sub(self.wall)
        };
        Duration::from_millis(millis)
    }
}

/// Since when the cloud has been away; from now on when nothing else is known.
pub async fn since(database: &Database) -> Instant {
    let stored = database.fact(FACT).await.ok().flatten();
    let stored = stored.and_then(|text| serde_json::from_slice::<Moment>(&text).ok());
    let now = Instant::now();
    if let Some(moment) = stored {
        // The subtraction fails for times longer than any machine's life only.
        return now.checked_sub(moment.until(&Moment::now())).unwrap_or(now);
    }
    remember(database, true).await;
    now
}

/// Remembers that the cloud is away from now on, or that it is there.
pub async fn remember(database: &Database, away: bool) {
    let value = if away { serde_json::to_vec(&Moment::now()).unwrap_or_default() } else { Vec::new() };
    if let Err(error) = database.set_fact(FACT, value).await {
        tracing::error!("a restart will not know since when the cloud is away: {}", error.info().message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, uptime: u64, wall: u64) -> Moment {
        Moment { boot: boot.into(), uptime, wall }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let away = moment("a", 1000, 50_000);
        assert_eq!(away.until(&moment("a", 4000, 10)), Duration::from_secs(3));
        assert_eq!(away.until(&moment("b", 10, 60_000)), Duration::from_secs(10));
        assert_eq!(away.until(&moment("b", 10, 0)), Duration::ZERO, "a clock that went back");
    }

    // SM-74: a restart does not begin the time anew, a connection ends it.
    #[tokio::test]
    async fn the_time_goes_on_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sm.db");
        let before = Moment::now();
        let earlier =
            Moment { uptime: before.uptime.saturating_sub(5000), wall: before.wall - 5000, ..before };
        {
            let database = Database::open(&path).unwrap();
            database.set_fact(FACT, serde_json::to_vec(&earlier).unwrap()).await.unwrap();
        }
        let database = Database::open(&path).unwrap();
        let away = since(&database).await.elapsed();
        assert!(away >= Duration::from_secs(4), "{away:?}");
        remember(&database, false).await;
        assert!(since(&database).await.elapsed() < Duration::from_secs(4));
        assert!(since(&database).await.elapsed() < Duration::from_secs(4), "and is remembered from now on");
        let stored = database.fact(FACT).await.unwrap().unwrap();
        assert!(serde_json::from_slice::<Moment>(&stored).is_ok());
    }
}

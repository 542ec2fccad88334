//! The alerts that wait: bounded, the newest kept, none twice. Pure.

use std::collections::VecDeque;

use aos_unit_api::servicemanager::v5 as wire;

/// Most alerts that wait.
const MAX_WAITING: usize = 64;

/// Alerts in the order they came, each with the place in the journal it was read at.
#[derive(Debug, Default)]
pub struct Waiting {
    alerts: VecDeque<(wire::Alert, Option<String>)>,
    dropped: u64,
}

impl Waiting {
    /// Adds one, unless one that differs in the time alone waits already. The oldest goes when there is no
    /// room.
    pub fn add(&mut self, alert: wire::Alert, cursor: Option<String>) {
        if let Some((_, known)) =
            self.alerts.iter_mut().find(|(known, _)| known.alert_item == alert.alert_item)
        {
            *known = cursor.or(known.take());
            return;
        }
        if self.alerts.len() >= MAX_WAITING {
            self.alerts.pop_front();
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::info!("too many alerts wait for CM, {} dropped so far", self.dropped);
            }
        }
        self.alerts.push_back((alert, cursor));
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    /// The oldest, which waits no longer.
    pub fn take(&mut self) -> Option<(wire::Alert, Option<String>)> {
        self.alerts.pop_front()
    }

    /// True when none that waits was read from the journal.
    pub fn none_of_journal(&self) -> bool {
        self.alerts.iter().all(|(_, cursor)| cursor.is_none())
    }
}

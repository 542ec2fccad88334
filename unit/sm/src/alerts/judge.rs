//! Which entries of the journal are alerts, and of whom. Pure.
//!
//! An entry of systemd about a unit counts as one of that unit. Units of core components give core alerts,
//! processes in the cgroup of an instance give alerts of that instance, everything else is the system's.

use aos_unit_api::servicemanager::v5::alert::AlertItem;
use regex_lite::Regex;

use super::{Core, core_item, instance_item, system_item};
use crate::config::JournalAlerts;
use crate::journal::{Entry, bytes, text};
use crate::launcher::Watched;

/// Most of a message that filters look at, bytes.
const MAX_FILTERED: usize = 4096;
const INIT: &str = "init.scope";

/// Units of core components, ours and those of earlier releases.
const UNITS: [(&str, Core); 11] = [
    ("aos-cm.service", Core::Cm),
    ("aos-sm.service", Core::Sm),
    ("aos-iam.service", Core::Iam),
    ("aos-mp.service", Core::Mp),
    ("aos-communicationmanager.service", Core::Cm),
    ("aos-servicemanager.service", Core::Sm),
    ("aos-iamanager.service", Core::Iam),
    ("aos-messageproxy.service", Core::Mp),
    ("aos-message-proxy.service", Core::Mp),
    ("aos-iam-prov.service", Core::Iam),
    ("aos-iam-provisioning.service", Core::Iam),
];

/// Which entries give alerts.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Entries whose message matches one of these give none.
    pub filter: Vec<Regex>,
    /// Least urgent priority of entries about units, and of instances, 0..=7.
    pub service: u8,
    /// Least urgent priority of all others, 0..=7.
    pub system: u8,
}

impl Settings {
    /// From the configuration; an expression that is none is told and left out.
    pub fn new(config: &JournalAlerts) -> Self {
        let compiled = config.filter.iter().filter_map(|text| match Regex::new(text) {
            Ok(regex) => Some(regex),
            Err(error) => {
                tracing::warn!("journalAlerts.filter: '{text}' is left out: {error}");
                None
            }
        });
        Self { filter: compiled.collect(), service: config.service_priority, system: config.system_priority }
    }

    /// Least urgent priority that can give an alert of anybody but systemd.
    pub fn least(&self) -> u8 {
        self.service.max(self.system)
    }

    /// Whether a message is filtered out.
    pub fn drops(&self, message: &str) -> bool {
        let message = &message[..message.floor_char_boundary(MAX_FILTERED)];
        self.filter.iter().any(|filter| filter.is_match(message))
    }
}

/// What an entry is an alert about; `None` when it is none.
pub fn judge(entry: &Entry, settings: &Settings, instances: &[Watched]) -> Option<AlertItem> {
    if bytes(&entry.message).is_empty() {
        return None;
    }
    let message = text(&entry.message);
    // An entry without a priority may be of any.
    let priority = text(&entry.priority).parse::<u8>().unwrap_or(0);
    if settings.drops(&message) {
        return None;
    }
    let unit = text(&entry.unit);
    let cgroup = text(&entry.cgroup);
    let (unit, limit) =
        if unit == INIT { (text(&entry.about), settings.service) } else { (unit, settings.system) };
    if let Some(one) = instances.iter().find(|one| cgroup.contains(&one.id) || unit.contains(&one.id)) {
        let item = || instance_item((&one.ident).into(), &one.version, &message);
        return (priority <= settings.service).then(item);
    }
    if priority > limit {
        return None;
    }
    let place = if unit.is_empty() { &cgroup } else { &unit };
    let core = UNITS.iter().find(|(name, _)| place.contains(name));
    Some(core.map_or_else(|| system_item(&message), |(_, core)| core_item(*core, &message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::CgroupPaths;
    use aos_status::InstanceState;
    use aos_unit_api::common::v2;
    use serde_json::json;

    fn entry(value: &serde_json::Value) -> Entry {
        let mut value = value.clone();
        value["__REALTIME_TIMESTAMP"] = json!("1000000");
        serde_json::from_value(value).unwrap()
    }

    fn instance() -> Watched {
        let ident = v2::InstanceIdent { item_id: "i".into(), subject_id: "s".into(), ..Default::default() };
        let ident: aos_ids::InstanceIdent = ident.try_into().unwrap();
        Watched {
            id: ident.instance_id(),
            ident,
            version: "1.2.3".into(),
            runtime: String::new(),
            state: InstanceState::Active,
            pid: None,
            cgroups: CgroupPaths::default(),
            params: None,
            storage: None,
            state_file: None,
            storage_limit: None,
            state_limit: None,
            uid: 0,
            log: "/none".into(),
        }
    }

    // SM-08, SM-64, SM-65, SM-66, DIS-25, PRO-72, PRO-73: who speaks and how urgent it is decides.
    #[test]
    fn entries_become_alerts_of_whom_they_are_about() {
        let settings = Settings { filter: vec![Regex::new("^usb .* reset").unwrap()], service: 4, system: 3 };
        let known = instance();
        let cgroup = format!("/system.slice/aos/{}", known.id);
        let of =
            |value: serde_json::Value| match judge(&entry(&value), &settings, std::slice::from_ref(&known)) {
                None => "none".to_owned(),
                Some(AlertItem::SystemAlert(alert)) => format!("system {}", alert.message),
                Some(AlertItem::CoreAlert(alert)) => format!("{} {}", alert.core_component, alert.message),
                Some(AlertItem::InstanceAlert(alert)) => {
                    format!("instance {} {}", alert.service_version, alert.message)
                }
                Some(other) => panic!("{other:?}"),
            };
        let unit = |unit: &str, priority: &str| {
            of(json!({"MESSAGE": "text", "PRIORITY": priority, "_SYSTEMD_UNIT": unit}))
        };
        assert_eq!(unit("cron.service", "3"), "system text");
        assert_eq!(unit("cron.service", "4"), "none");
        for (name, core) in [("cm", "CM"), ("sm", "SM"), ("iam", "IAM"), ("mp", "MP")] {
            assert_eq!(unit(&format!("aos-{name}.service"), "3"), format!("{core} text"));
            assert_eq!(unit(&format!("aos-{name}.service"), "4"), "none");
        }
        let init = |about: &str, priority: &str| {
            let (unit, message) = ("init.scope", "failed");
            of(json!({"MESSAGE": message, "PRIORITY": priority, "_SYSTEMD_UNIT": unit, "UNIT": about}))
        };
        assert_eq!(init("aos-iam.service", "4"), "IAM failed");
        assert_eq!(init("cron.service", "4"), "system failed");
        assert_eq!(init("cron.service", "5"), "none");
        assert_eq!(
            of(json!({"MESSAGE": "x", "_SYSTEMD_UNIT": "init.scope", "_SYSTEMD_CGROUP": "/a"})),
            "system x"
        );
        // Of an instance, by its cgroup or by a unit named after it.
        let spoken = |priority: &str| {
            of(
                json!({"MESSAGE": "oh", "PRIORITY": priority, "_SYSTEMD_CGROUP": cgroup, "_SYSTEMD_UNIT": "aos-sm.service"}),
            )
        };
        assert_eq!((spoken("4").as_str(), spoken("5").as_str()), ("instance 1.2.3 oh", "none"));
        assert_eq!(init(&format!("crun-{}.scope", known.id), "4"), "instance 1.2.3 failed");
        // Filters, messages that are no text, or none at all.
        assert_eq!(of(json!({"MESSAGE": "usb 1-1 reset", "PRIORITY": "0"})), "none");
        assert_eq!(of(json!({"MESSAGE": "the usb 1-1 reset", "PRIORITY": "0"})), "system the usb 1-1 reset");
        assert_eq!(of(json!({"MESSAGE": [104, 255], "PRIORITY": "0"})), "system h\u{fffd}");
        assert_eq!(of(json!({"PRIORITY": "0"})), "none");
        assert_eq!(of(json!({"MESSAGE": null, "PRIORITY": "0"})), "none");
        let long = of(json!({"MESSAGE": "ä".repeat(500), "PRIORITY": "0"}));
        assert_eq!(long, format!("system {}", "ä".repeat(127)), "cut at a character to 255 bytes");
    }
}

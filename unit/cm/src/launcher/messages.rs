//! What a node is told, as its Service Manager reads it.

use aos_ids::ItemKind;
use aos_unit_api::servicemanager::v5;

use super::core::Command;
use super::records::{AlertRules, Key, Record, Threshold};
use crate::storagestate::StorageState;

/// The message for a command.
pub fn update(command: &Command) -> v5::UpdateInstances {
    v5::UpdateInstances {
        start_instances: command.start.iter().map(|(key, record)| instance(key, record)).collect(),
        stop_instances: command.stop.iter().map(Into::into).collect(),
    }
}

fn instance((ident, version): &Key, record: &Record) -> v5::InstanceInfo {
    let paths = StorageState::paths(ident, record);
    v5::InstanceInfo {
        instance: Some(ident.into()),
        version: version.clone(),
        manifest_digest: record.manifest.map(|digest| digest.to_string()).unwrap_or_default(),
        owner_id: record.owner.to_string(),
        runtime_id: record.runtime.as_ref().map(ToString::to_string).unwrap_or_default(),
        uid: record.uid,
        gid: record.gid,
        priority: record.priority,
        storage_path: paths.storage,
        state_path: paths.state,
        env_vars: record
            .environment
            .iter()
            .map(|(name, value)| v5::EnvVarInfo { name: name.clone(), value: value.clone() })
            .collect(),
        // Also without rules: a node measures those that have parameters.
        monitoring_parameters: (ident.kind == ItemKind::Service).then(|| v5::MonitoringParameters {
            alert_rules: record.extras.alerts.as_ref().map(alert_rules),
        }),
    }
}

fn alert_rules(rules: &AlertRules) -> v5::AlertRules {
    let percents = |rule: &Threshold| v5::AlertRulePercents {
        duration: Some(duration(rule)),
        min_threshold: rule.min,
        max_threshold: rule.max,
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "they were whole numbers of bytes"
    )]
    let points = |rule: &Threshold| v5::AlertRulePoints {
        duration: Some(duration(rule)),
        min_threshold: rule.min as u64,
        max_threshold: rule.max as u64,
    };
    v5::AlertRules {
        ram: rules.ram.as_ref().map(percents),
        cpu: rules.cpu.as_ref().map(percents),
        partitions: rules
            .partitions
            .iter()
            .map(|rule| v5::PartitionAlertRule {
                name: rule.name.clone(),
                duration: Some(duration(rule)),
                min_threshold: rule.min,
                max_threshold: rule.max,
            })
            .collect(),
        download: rules.download.as_ref().map(points),
        upload: rules.upload.as_ref().map(points),
    }
}

fn duration(rule: &Threshold) -> prost_types::Duration {
    let nanos = i32::try_from(rule.millis % 1000 * 1_000_000).unwrap_or(0);
    prost_types::Duration { seconds: i64::try_from(rule.millis / 1000).unwrap_or(i64::MAX), nanos }
}

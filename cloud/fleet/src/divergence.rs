//! Comparing what a Unit is with what it shall be.

use std::collections::BTreeMap;

use aos_cloud_protocol::{AosIdentity, DesiredStatus, InstanceState, ItemState};

use crate::state::UnitState;

/// What a full status tells about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The Unit is what it shall be.
    Same,
    /// It is not, and nothing is under way to change that.
    Lost,
    /// An update is under way, or a node is away and its instances are unknown: wait for another status.
    Unclear,
}

/// Compares a Unit with its target. What came with the Unit does not count.
pub fn compare(desired: &DesiredStatus, state: &UnitState) -> Comparison {
    let nodes_known = !state.nodes.is_empty() && state.nodes.iter().all(|node| node.value.is_connected);
    if !items_differ(desired, state) && !instances_differ(desired, state) {
        Comparison::Same
    } else if nodes_known && is_settled(state) {
        Comparison::Lost
    } else {
        Comparison::Unclear
    }
}

/// True when no update is under way on the Unit, as far as its status tells.
fn is_settled(state: &UnitState) -> bool {
    let busy_item = state.items.iter().any(|item| {
        matches!(
            item.value.state,
            ItemState::Downloading | ItemState::Pending | ItemState::Installing | ItemState::Removing
        )
    });
    let busy_instance =
        state.instances.iter().any(|instance| instance.value.info.state == InstanceState::Activating);
    !busy_item && !busy_instance
}

fn items_differ(desired: &DesiredStatus, state: &UnitState) -> bool {
    let Some(wanted) = &desired.items else { return false };
    let mut installed: Vec<(&str, &str)> = state
        .items
        .iter()
        .filter(|item| item.value.state == ItemState::Installed)
        .filter_map(|item| Some((delivered(&item.value.item)?, item.value.version.as_str())))
        .collect();
    let mut wanted: Vec<(&str, &str)> =
        wanted.iter().filter_map(|item| Some((item.item.id.as_deref()?, item.version.as_str()))).collect();
    installed.sort_unstable();
    wanted.sort_unstable();
    installed != wanted
}

fn instances_differ(desired: &DesiredStatus, state: &UnitState) -> bool {
    let Some(wanted) = &desired.instances else { return false };
    let versions: BTreeMap<&str, &str> = desired
        .items
        .iter()
        .flatten()
        .filter_map(|item| Some((item.item.id.as_deref()?, item.version.as_str())))
        .collect();
    let mut running: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for instance in &state.instances {
        let instance = &instance.value;
        // An inactive instance is one that was stopped; it may have been of an item removed since.
        if instance.info.state == InstanceState::Inactive {
            continue;
        }
        if let (Some(item), Some(subject)) = (delivered(&instance.item), delivered(&instance.subject)) {
            *running.entry((item, subject, &instance.version)).or_default() += 1;
        }
    }
    let mut expected: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for instance in wanted.iter().filter(|instance| instance.num_instances > 0) {
        if let (Some(item), Some(subject)) = (instance.item.id.as_deref(), instance.subject.id.as_deref()) {
            let version = versions.get(item).copied().unwrap_or_default();
            *expected.entry((item, subject, version)).or_default() += u64::from(instance.num_instances);
        }
    }
    running != expected
}

/// The id of something that the cloud delivered.
fn delivered(identity: &AosIdentity) -> Option<&str> {
    identity.id.as_deref()
}

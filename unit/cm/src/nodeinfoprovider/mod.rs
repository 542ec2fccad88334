//! Nodes of the Unit: what IAM knows of them joined with what their Service Managers say.
//!
//! Pure. A node that should have a Service Manager is connected while that one is; one whose Service Manager
//! is silent for too long counts as broken until it speaks again. A node without one is connected when IAM
//! knows it. Up to 16 nodes.

mod wire_form;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aos_cloud_protocol as wire;
use aos_ids::{NodeId, RuntimeId};
use aos_status::{AosCode, ErrorInfo, NodeState};
use aos_unit_api::convert::error_from_wire;
use aos_unit_api::iamanager::v6;
use aos_unit_api::servicemanager::v5::SmInfo;

use self::wire_form::{cpu, os_info, partition, platform, runtime};
use crate::launcher::placement;

/// Most nodes of a Unit.
const MAX_NODES: usize = 16;

#[derive(Debug, Default)]
struct Entry {
    iam: Option<v6::NodeInfo>,
    sm: Option<SmInfo>,
    linked: bool,
    reported: bool,
    /// Since when its Service Manager is missing.
    missing: Option<Instant>,
    /// Since when it is waited for, until it has told about its instances.
    awaited: Option<Instant>,
    /// Why pausing or resuming failed; told once.
    remembered: Option<ErrorInfo>,
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    entries: BTreeMap<NodeId, Entry>,
    timeout: Duration,
}

impl Nodes {
    /// No nodes yet. A Service Manager may be silent for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { entries: BTreeMap::new(), timeout }
    }

    fn entry(&mut self, id: &NodeId) -> Option<&mut Entry> {
        if !self.entries.contains_key(id) {
            if self.entries.len() >= MAX_NODES {
                tracing::error!("node {id} is one too many and ignored");
                return None;
            }
            self.entries.insert(id.clone(), Entry::default());
        }
        self.entries.get_mut(id)
    }

    /// Takes IAM's word; an unreadable node is logged and ignored.
    pub fn iam_says(&mut self, info: v6::NodeInfo, now: Instant) {
        let Ok(id) = NodeId::new(info.node_id.clone()) else {
            tracing::warn!("IAM names a node without a usable identifier");
            return;
        };
        if let Some(entry) = self.entry(&id) {
            entry.iam = Some(info);
            if entry.expects_sm() && !entry.linked {
                entry.missing.get_or_insert(now);
            }
            if entry.expects_sm() && !entry.reported {
                entry.awaited.get_or_insert(now);
            }
        }
    }

    /// The node's Service Manager is there.
    pub fn sm_says(&mut self, id: &NodeId, info: SmInfo) {
        if let Some(entry) = self.entry(id) {
            if !entry.linked {
                entry.reported = false;
            }
            (entry.sm, entry.linked, entry.missing) = (Some(info), true, None);
        }
    }

    /// The node's Service Manager is gone.
    pub fn sm_gone(&mut self, id: &NodeId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            (entry.linked, entry.reported) = (false, false);
            (entry.missing, entry.awaited) = (Some(now), Some(now));
        }
    }

    /// The node has told about all its instances since it connected.
    pub fn reported(&mut self, id: &NodeId) {
        if let Some(entry) = self.entries.get_mut(id) {
            (entry.reported, entry.awaited) = (true, None);
        }
    }

    /// Remembers why a node could not be paused or resumed, for the next full status.
    pub fn remember(&mut self, id: &NodeId, error: ErrorInfo) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.remembered = Some(error);
        }
    }

    /// Forgets those errors.
    pub fn forget_errors(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.remembered = None);
    }

    /// When a silent node becomes a broken one.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.entries.values().filter_map(|entry| Some(entry.missing? + self.timeout));
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Whether IAM says that the node is paused; `None` when it is neither that nor provisioned.
    pub fn is_paused(&self, id: &NodeId) -> Option<bool> {
        match self.entries.get(id)?.iam_state() {
            NodeState::Paused => Some(true),
            NodeState::Provisioned => Some(false),
            _ => None,
        }
    }

    /// True when IAM knows the node but it cannot have instances now, or has been silent for too long.
    pub fn is_lost(&self, id: &NodeId, now: Instant) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| entry.iam.is_some() && self.state(entry, now) != NodeState::Provisioned)
    }

    /// Nodes that IAM knows.
    pub fn known(&self) -> impl Iterator<Item = &NodeId> {
        self.entries.iter().filter(|(_, entry)| entry.iam.is_some()).map(|(id, _)| id)
    }

    /// Nodes whose link stands though IAM says that they are not in service.
    pub fn withdrawn(&self) -> std::collections::BTreeSet<NodeId> {
        let withdrawn = self.entries.iter().filter(|(_, entry)| {
            entry.linked && entry.iam.is_some() && entry.iam_state() != NodeState::Provisioned
        });
        withdrawn.map(|(id, _)| id.clone()).collect()
    }

    /// Nodes whose link stands.
    pub fn connected(&self) -> impl Iterator<Item = &NodeId> {
        self.entries.iter().filter(|(_, entry)| entry.linked).map(|(id, _)| id)
    }

    /// Nodes with their types whose link stands.
    pub fn connected_with_types(&self) -> Vec<(NodeId, String)> {
        let linked = self.entries.iter().filter(|(_, entry)| entry.linked);
        linked.map(|(id, entry)| (id.clone(), entry.kind().to_owned())).collect()
    }

    /// True when every provisioned node has told about its instances, or was waited for as long as `patience`.
    /// False while IAM has told of no node at all.
    pub fn ready(&self, now: Instant, patience: Duration) -> bool {
        let mut expected = self.entries.values().filter(|entry| entry.expects_sm());
        self.entries.values().any(|entry| entry.iam.is_some())
            && expected.all(|entry| {
                entry.reported || entry.awaited.is_some_and(|since| now.duration_since(since) >= patience)
            })
    }

    /// When the wait of [`Nodes::ready`] is to be looked at again.
    pub fn ready_deadline(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let deadlines = self.entries.values().filter_map(|entry| Some(entry.awaited? + patience));
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Partitions of the node `id` that hold `kind` of data: their path and size in bytes.
    pub fn partition(&self, id: &NodeId, kind: &str) -> Option<(String, u64)> {
        let info = self.entries.get(id)?.iam.as_ref()?;
        let found =
            info.partitions.iter().find(|partition| partition.types.iter().any(|known| known == kind))?;
        Some((found.name.clone(), found.total_size))
    }

    /// Nodes that instances can be placed on, with what `config` says of each (by identifier and type).
    pub fn for_placement(
        &self,
        now: Instant,
        config: impl Fn(&NodeId, &str) -> aos_item_format::NodeConfig,
    ) -> Vec<placement::Node> {
        let usable =
            self.entries.iter().filter(|(_, entry)| self.state(entry, now) == NodeState::Provisioned);
        usable
            .filter_map(|(id, entry)| {
                let (sm, iam) = (entry.sm.as_ref()?, entry.iam.as_ref()?);
                let config = config(id, entry.kind());
                let ratios = config.resource_ratios.unwrap_or_default();
                Some(placement::Node {
                    id: id.clone(),
                    priority: config.priority,
                    labels: config.labels,
                    ratios: placement::Ratios {
                        cpu: ratios.cpu,
                        ram: ratios.ram,
                        storage: ratios.storage,
                        state: ratios.state,
                    },
                    cpu: iam.max_dmips,
                    ram: iam.total_ram,
                    resources: sm.resources.iter().map(|one| (one.name.clone(), one.shared_count)).collect(),
                    runtimes: sm
                        .runtimes
                        .iter()
                        .filter_map(|runtime| {
                            let given = |amount: u64| (amount > 0).then_some(amount);
                            Some(placement::Runtime {
                                id: RuntimeId::new(runtime.runtime_id.clone()).ok()?,
                                kind: runtime.r#type.clone(),
                                cpu: given(runtime.allowed_dmips),
                                ram: given(runtime.allowed_ram),
                                max_instances: runtime.max_instances,
                                platform: platform(runtime.arch_info.as_ref(), runtime.os_info.as_ref()),
                            })
                        })
                        .collect(),
                })
            })
            .collect()
    }

    fn state(&self, entry: &Entry, now: Instant) -> NodeState {
        let state = entry.iam_state();
        let silent = entry.missing.is_some_and(|since| now.duration_since(since) >= self.timeout);
        if state == NodeState::Provisioned && entry.expects_sm() && silent { NodeState::Error } else { state }
    }

    /// All nodes that IAM knows, as the cloud is told.
    pub fn statuses(&self, now: Instant) -> Vec<wire::NodeInfo> {
        let known = self.entries.iter().filter_map(|(id, entry)| Some((id, entry, entry.iam.as_ref()?)));
        known
            .map(|(id, entry, iam)| {
                let state = self.state(entry, now);
                let silent = (state == NodeState::Error && entry.iam_state() == NodeState::Provisioned)
                    .then(|| ErrorInfo::new(AosCode::Timeout, "Service Manager does not answer"));
                let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
                wire::NodeInfo {
                    identity: wire::AosIdentity::by_codename(id.as_str()).with_title(&iam.title),
                    node_group_subject: wire::AosIdentity::by_codename(&iam.node_type),
                    max_dmips: iam.max_dmips,
                    physical_ram: (iam.physical_ram > 0).then_some(iam.physical_ram),
                    total_ram: iam.total_ram,
                    os_info: os_info(iam.os_info.as_ref()),
                    cpus: Some(iam.cpus.iter().map(cpu).collect()),
                    attrs: Some(
                        iam.attrs.iter().map(|attr| (attr.name.clone(), attr.value.clone())).collect(),
                    ),
                    partitions: Some(iam.partitions.iter().map(partition).collect()),
                    runtimes: entry
                        .sm
                        .as_ref()
                        .and_then(|sm| some(sm.runtimes.iter().map(runtime).collect())),
                    resources: entry.sm.as_ref().map(|sm| {
                        let resource = |one: &aos_unit_api::servicemanager::v5::ResourceInfo| {
                            wire::ResourceInfo { name: one.name.clone(), shared_count: one.shared_count }
                        };
                        sm.resources.iter().map(resource).collect()
                    }),
                    is_connected: entry.is_connected(),
                    state,
                    error_info: error_from_wire(iam.error.clone())
                        .or(silent)
                        .or_else(|| entry.remembered.clone()),
                }
            })
            .collect()
    }
}

impl Entry {
    fn iam_state(&self) -> NodeState {
        let word = self.iam.as_ref().map_or("", |iam| iam.state.as_str());
        word.parse().unwrap_or(NodeState::Unprovisioned)
    }

    fn kind(&self) -> &str {
        self.iam.as_ref().map_or("", |iam| iam.node_type.as_str())
    }

    /// Provisioned, and a Service Manager is among its components.
    fn expects_sm(&self) -> bool {
        self.iam_state() == NodeState::Provisioned
            && self.iam.iter().flat_map(|iam| &iam.attrs).any(|attr| {
                attr.name.eq_ignore_ascii_case("AosComponents")
                    && attr.value.split(',').any(|name| name.trim().eq_ignore_ascii_case("sm"))
            })
    }

    fn is_connected(&self) -> bool {
        self.iam.is_some() && (self.linked || !self.expects_sm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn info(state: &str, components: &str) -> v6::NodeInfo {
        let attrs = vec![v6::NodeAttribute { name: "AosComponents".into(), value: components.into() }];
        v6::NodeInfo { node_id: "main".into(), state: state.into(), attrs, ..Default::default() }
    }

    fn id() -> NodeId {
        NodeId::new("main").unwrap()
    }

    fn status(nodes: &Nodes, now: Instant) -> (NodeState, bool) {
        let status = nodes.statuses(now).remove(0);
        (status.state, status.is_connected)
    }

    // CM-19: joining, silence, return.
    #[test]
    fn a_node_with_a_service_manager() {
        let (mut nodes, start) = (Nodes::new(MINUTE), Instant::now());
        nodes.iam_says(info("provisioned", "iam,cm,sm"), start);
        assert_eq!(status(&nodes, start), (NodeState::Provisioned, false));
        assert_eq!(nodes.next_deadline(start), Some(start + MINUTE));
        assert_eq!(status(&nodes, start + MINUTE), (NodeState::Error, false));
        assert!(!nodes.ready(start, 10 * MINUTE));
        assert!(nodes.ready(start + 10 * MINUTE, 10 * MINUTE));

        nodes.sm_says(&id(), SmInfo::default());
        assert_eq!(status(&nodes, start + MINUTE), (NodeState::Provisioned, true));
        assert!(!nodes.ready(start, 10 * MINUTE), "it has not told about its instances");
        nodes.reported(&id());
        assert!(nodes.ready(start, 10 * MINUTE));
        nodes.sm_gone(&id(), start);
        assert_eq!(status(&nodes, start), (NodeState::Provisioned, false));
    }

    #[test]
    fn nodes_without_one_and_before_iam() {
        let (mut nodes, now) = (Nodes::new(MINUTE), Instant::now());
        assert!(!nodes.ready(now, MINUTE));
        nodes.sm_says(&id(), SmInfo::default());
        assert!(nodes.statuses(now).is_empty());
        nodes.iam_says(info("unprovisioned", "iam"), now);
        assert_eq!(status(&nodes, now), (NodeState::Unprovisioned, true));
        let mut nodes = Nodes::new(MINUTE);
        nodes.iam_says(info("provisioned", "iam"), now);
        assert_eq!(status(&nodes, now + 2 * MINUTE), (NodeState::Provisioned, true));
        assert!(nodes.ready(now, MINUTE));
    }
}

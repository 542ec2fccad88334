//! Samples and state changes of nodes and instances on their way to the cloud.
//!
//! Of every node and instance the latest 16 samples and the latest 16 changes of state are kept and sent each
//! period; without a link they wait here. A state that is as it was last told is not told again. At most 16
//! nodes and 256 instances are followed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    AosIdentity, InstanceMonitoring, InstanceStateSample, MonitoringData, NodeMonitoring, NodeStateSample,
    PartitionUsage, Sample,
};
use aos_ids::{InstanceIdent, NodeId};
use aos_status::{InstanceState, NodeState};
use aos_unit_api::servicemanager::v5;

use crate::alerts::time;

/// Samples, and changes of state, kept of one node or instance.
const MAX_EACH: usize = 16;
/// Nodes that are followed.
const MAX_NODES: usize = 16;
/// Instances that are followed.
const MAX_INSTANCES: usize = 256;

/// An instance on a node.
type Placed = (InstanceIdent, NodeId);

/// What waits of one node or instance.
#[derive(Debug)]
struct Series<S> {
    states: VecDeque<S>,
    samples: VecDeque<Sample>,
}

impl<S> Default for Series<S> {
    fn default() -> Self {
        Self { states: VecDeque::new(), samples: VecDeque::new() }
    }
}

/// The waiting samples and changes.
#[derive(Debug)]
pub struct Waiting {
    period: Duration,
    since: Option<Instant>,
    nodes: BTreeMap<NodeId, Series<NodeStateSample>>,
    instances: BTreeMap<Placed, Series<InstanceStateSample>>,
    /// States as they were last noted.
    node_states: BTreeMap<NodeId, (NodeState, bool)>,
    instance_states: BTreeMap<Placed, InstanceState>,
}

impl Waiting {
    /// None yet; those that come are due after `period`.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            since: None,
            nodes: BTreeMap::new(),
            instances: BTreeMap::new(),
            node_states: BTreeMap::new(),
            instance_states: BTreeMap::new(),
        }
    }

    /// Takes the samples of a node.
    pub fn push(&mut self, node: &NodeId, samples: v5::InstantMonitoring, now: Instant) {
        if let (Some(data), Some(series)) = (samples.node_monitoring, place(&mut self.nodes, node, MAX_NODES))
        {
            add(&mut series.samples, sample(data));
        }
        for one in samples.instances_monitoring {
            let Some(ident) = one.instance.and_then(|ident| InstanceIdent::try_from(ident).ok()) else {
                continue;
            };
            let key = (ident, node.clone());
            if let (Some(data), Some(series)) =
                (one.monitoring_data, place(&mut self.instances, &key, MAX_INSTANCES))
            {
                add(&mut series.samples, sample(data));
            }
        }
        self.since.get_or_insert(now);
    }

    /// Notes the states of all nodes, with whether they are connected, as far as they have changed.
    pub fn nodes(&mut self, states: impl IntoIterator<Item = (NodeId, NodeState, bool)>, now: Instant) {
        let timestamp = jiff::Timestamp::now();
        let mut before = std::mem::take(&mut self.node_states);
        for (node, state, connected) in states.into_iter().take(MAX_NODES) {
            if before.remove(&node) != Some((state, connected))
                && let Some(series) = place(&mut self.nodes, &node, MAX_NODES)
            {
                add(&mut series.states, NodeStateSample { timestamp, connected, state });
                self.since.get_or_insert(now);
            }
            self.node_states.insert(node, (state, connected));
        }
    }

    /// Notes the states of all instances that have a node, as far as they have changed.
    pub fn instances(&mut self, states: impl IntoIterator<Item = (Placed, InstanceState)>, now: Instant) {
        let timestamp = jiff::Timestamp::now();
        let mut before = std::mem::take(&mut self.instance_states);
        for (key, state) in states.into_iter().take(MAX_INSTANCES) {
            if before.remove(&key) != Some(state)
                && let Some(series) = place(&mut self.instances, &key, MAX_INSTANCES)
            {
                add(&mut series.states, InstanceStateSample { timestamp, state });
                self.since.get_or_insert(now);
            }
            self.instance_states.insert(key, state);
        }
    }

    /// When the waiting ones are due.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.since? + self.period)
    }

    /// All waiting ones.
    pub fn take(&mut self) -> MonitoringData {
        self.since = None;
        let nodes = std::mem::take(&mut self.nodes).into_iter().map(|(node, series)| NodeMonitoring {
            node: AosIdentity::by_codename(node.as_str()),
            node_states: series.states.into(),
            items: series.samples.into(),
        });
        let instances = std::mem::take(&mut self.instances).into_iter().map(|((ident, node), series)| {
            let named = |name: &str| {
                if ident.preinstalled { AosIdentity::by_codename(name) } else { AosIdentity::by_id(name) }
            };
            InstanceMonitoring {
                item: named(ident.item.as_str()),
                subject: named(ident.subject.as_str()),
                instance: ident.instance,
                node: AosIdentity::by_codename(node.as_str()),
                item_states: series.states.into(),
                items: series.samples.into(),
            }
        });
        MonitoringData { nodes: nodes.collect(), instances: instances.collect() }
    }
}

/// The series of `key`, while there is room for it.
fn place<'a, K: Ord + Clone, S>(
    all: &'a mut BTreeMap<K, Series<S>>,
    key: &K,
    most: usize,
) -> Option<&'a mut Series<S>> {
    if all.len() >= most && !all.contains_key(key) {
        return None;
    }
    Some(all.entry(key.clone()).or_default())
}

fn add<T>(series: &mut VecDeque<T>, one: T) {
    if series.len() >= MAX_EACH {
        series.pop_front();
    }
    series.push_back(one);
}

fn sample(data: v5::MonitoringData) -> Sample {
    Sample {
        timestamp: time(data.timestamp),
        ram: data.ram,
        cpu: data.cpu,
        download: Some(data.download),
        upload: Some(data.upload),
        partitions: data
            .partitions
            .into_iter()
            .map(|one| PartitionUsage { name: one.name, used_size: one.used_size })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_mins(1);

    // CM-16, CM-28: the latest samples are kept whole, the rest is forgotten.
    #[test]
    fn the_latest_samples_are_kept() {
        let (node, now) = (NodeId::new("n").unwrap(), Instant::now());
        let mut waiting = Waiting::new(PERIOD);
        for ram in 0..20 {
            let partitions = vec![v5::PartitionUsage { name: "storages".into(), used_size: 3 * ram }];
            let data = v5::MonitoringData { ram, cpu: 2 * ram, partitions, ..Default::default() };
            let samples = v5::InstantMonitoring { node_monitoring: Some(data), instances_monitoring: vec![] };
            waiting.push(&node, samples, now);
        }
        let data = waiting.take();
        let rams: Vec<u64> = data.nodes[0].items.iter().map(|sample| sample.ram).collect();
        assert_eq!(rams, (4..20).collect::<Vec<u64>>());
        let last = data.nodes[0].items.last().unwrap();
        assert_eq!((last.cpu, last.partitions[0].name.as_str()), (38, "storages"));
        assert_eq!(last.partitions[0].used_size, 57);
        assert_eq!(waiting.deadline(), None);
    }

    #[test]
    fn changes_of_state_are_told_once_and_the_latest_are_kept() {
        let (node, now) = (NodeId::new("n").unwrap(), Instant::now());
        let mut waiting = Waiting::new(PERIOD);
        let note = |waiting: &mut Waiting, connected| {
            waiting.nodes([(node.clone(), NodeState::Provisioned, connected)], now);
        };
        note(&mut waiting, true);
        note(&mut waiting, true);
        assert_eq!(waiting.deadline(), Some(now + PERIOD));
        let told = waiting.take().nodes.remove(0);
        assert_eq!((told.node_states.len(), told.items.len()), (1, 0));
        assert_eq!(
            (told.node_states[0].connected, told.node_states[0].state),
            (true, NodeState::Provisioned)
        );
        note(&mut waiting, true);
        assert_eq!(waiting.deadline(), None, "it is known already");

        let ident: InstanceIdent = aos_unit_api::common::v2::InstanceIdent {
            item_id: "item".into(),
            subject_id: "subject".into(),
            instance: 3,
            ..Default::default()
        }
        .try_into()
        .unwrap();
        for n in 0..21 {
            let state = if n % 2 == 0 { InstanceState::Active } else { InstanceState::Failed };
            note(&mut waiting, n % 2 == 0);
            waiting.instances([((ident.clone(), node.clone()), state)], now);
        }
        let told = waiting.take();
        let connected: Vec<bool> = told.nodes[0].node_states.iter().map(|sample| sample.connected).collect();
        assert_eq!(connected, (5..21).map(|n| n % 2 == 0).collect::<Vec<_>>());
        assert_eq!((told.instances[0].instance, told.instances[0].item_states.len()), (3, 16));
        assert_eq!(told.instances[0].item_states[15].state, InstanceState::Active);
        // What is gone and comes back is a change.
        waiting.instances([], now);
        waiting.instances([((ident, node.clone()), InstanceState::Active)], now);
        assert_eq!(waiting.take().instances.len(), 1);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let now = Instant::now();
        let mut waiting = Waiting::new(PERIOD);
        let nodes = (0..20).map(|n| (NodeId::new(format!("n{n}")).unwrap(), NodeState::Provisioned, true));
        waiting.nodes(nodes, now);
        assert_eq!(waiting.take().nodes.len(), MAX_NODES);
    }
}

//! Samples of the nodes on their way to the cloud: the latest 16 of every node and instance, sent each period.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    AosIdentity, InstanceMonitoring, MonitoringData, NodeMonitoring, PartitionUsage, Sample,
};
use aos_ids::{InstanceIdent, NodeId};
use aos_unit_api::servicemanager::v5;

use crate::alerts::time;

/// Samples kept of one node or instance.
const MAX_SAMPLES: usize = 16;
/// Instances that samples are kept of.
const MAX_INSTANCES: usize = 256;

/// The waiting samples.
#[derive(Debug)]
pub struct Waiting {
    period: Duration,
    since: Option<Instant>,
    nodes: BTreeMap<NodeId, Vec<Sample>>,
    instances: BTreeMap<(InstanceIdent, NodeId), Vec<Sample>>,
}

impl Waiting {
    /// None yet; those that come are due after `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, since: None, nodes: BTreeMap::new(), instances: BTreeMap::new() }
    }

    /// Takes the samples of a node.
    pub fn push(&mut self, node: &NodeId, samples: v5::InstantMonitoring, now: Instant) {
        if let Some(data) = samples.node_monitoring {
            add(self.nodes.entry(node.clone()).or_default(), data);
        }
        for one in samples.instances_monitoring {
            let Some(ident) = one.instance.and_then(|ident| InstanceIdent::try_from(ident).ok()) else {
                continue;
            };
            let key = (ident, node.clone());
            if let Some(data) = one.monitoring_data
                && (self.instances.len() < MAX_INSTANCES || self.instances.contains_key(&key))
            {
                add(self.instances.entry(key).or_default(), data);
            }
        }
        self.since.get_or_insert(now);
    }

    /// When the waiting ones are due.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.since? + self.period)
    }

    /// All waiting ones.
    pub fn take(&mut self) -> MonitoringData {
        self.since = None;
        let nodes = std::mem::take(&mut self.nodes).into_iter().map(|(node, items)| NodeMonitoring {
            node: AosIdentity::by_codename(node.as_str()),
            node_states: vec![],
            items,
        });
        let instances = std::mem::take(&mut self.instances).into_iter().map(|((ident, node), items)| {
            InstanceMonitoring {
                item: AosIdentity::by_id(ident.item.as_str()),
                subject: AosIdentity::by_id(ident.subject.as_str()),
                instance: ident.instance,
                node: AosIdentity::by_codename(node.as_str()),
                item_states: vec![],
                items,
            }
        });
        MonitoringData { nodes: nodes.collect(), instances: instances.collect() }
    }
}

fn add(samples: &mut Vec<Sample>, data: v5::MonitoringData) {
    if samples.len() >= MAX_SAMPLES {
        samples.remove(0);
    }
    samples.push(Sample {
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
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    // CM-28: the latest samples are kept, the rest is forgotten.
    #[test]
    fn the_latest_samples_are_kept() {
        let (node, now) = (NodeId::new("n").unwrap(), Instant::now());
        let mut waiting = Waiting::new(Duration::from_mins(1));
        for ram in 0..20 {
            let data = v5::MonitoringData { ram, ..Default::default() };
            let samples = v5::InstantMonitoring { node_monitoring: Some(data), instances_monitoring: vec![] };
            waiting.push(&node, samples, now);
        }
        let data = waiting.take();
        let rams: Vec<u64> = data.nodes[0].items.iter().map(|sample| sample.ram).collect();
        assert_eq!(rams, (4..20).collect::<Vec<u64>>());
        assert_eq!(waiting.deadline(), None);
    }
}

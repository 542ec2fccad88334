//! Load figures of this node: memory, CPU and used space. Instances and traffic are not measured yet.
//!
//! A sample goes out every poll period, an average when it is asked for. Both tell the CPU time since the one
//! of their kind before: the kernel counts it anyway, so nothing has to wake up in between.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

/// Most partitions told; peers have room for no more.
const MAX_PARTITIONS: usize = 4;

/// Reads the node's figures.
pub struct Monitoring {
    max_dmips: u64,
    partitions: Vec<(String, PathBuf)>,
    averaged: Option<Ticks>,
    sampled: Option<Ticks>,
}

#[derive(Clone, Copy)]
struct Ticks {
    idle: u64,
    total: u64,
}

impl Monitoring {
    /// For a node of this computing power with these partitions, each with a folder in it.
    pub fn new(max_dmips: u64, mut partitions: Vec<(String, PathBuf)>) -> Self {
        partitions.truncate(MAX_PARTITIONS);
        Self { max_dmips, partitions, averaged: None, sampled: None }
    }

    /// Answer to a request for the average.
    pub fn average(&mut self) -> Wire {
        let (node, now) = self.figures(self.averaged);
        self.averaged = now;
        Wire::AverageMonitoring(wire::AverageMonitoring {
            node_monitoring: Some(node),
            instances_monitoring: vec![],
        })
    }

    /// The present sample.
    pub fn sample(&mut self) -> Wire {
        let (node, now) = self.figures(self.sampled);
        self.sampled = now;
        Wire::InstantMonitoring(wire::InstantMonitoring {
            node_monitoring: Some(node),
            instances_monitoring: vec![],
        })
    }

    fn figures(&self, before: Option<Ticks>) -> (wire::MonitoringData, Option<Ticks>) {
        let now = fs::read_to_string("/proc/stat").ok().and_then(|text| ticks(&text));
        let cpu = now.map_or(0, |now| {
            let before = before.unwrap_or(Ticks { idle: 0, total: 0 });
            let total = now.total.saturating_sub(before.total).max(1);
            let idle = now.idle.saturating_sub(before.idle).min(total);
            self.max_dmips.saturating_mul(total - idle) / total
        });
        let ram = fs::read_to_string("/proc/meminfo").ok().map_or(0, |text| used_memory(&text));
        let partitions = self.partitions.iter().filter_map(|(name, path)| {
            let used_size = used_space(path)?;
            Some(wire::PartitionUsage { name: name.clone(), used_size })
        });
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = prost_types::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        };
        let data = wire::MonitoringData {
            timestamp: Some(timestamp),
            ram,
            cpu,
            partitions: partitions.collect(),
            ..Default::default()
        };
        (data, now)
    }
}

/// Bytes that are in use on the file system of `path`; `None` when it cannot be asked.
fn used_space(path: &PathBuf) -> Option<u64> {
    let facts = rustix::fs::statvfs(path).ok()?;
    Some(facts.f_blocks.saturating_sub(facts.f_bfree).saturating_mul(facts.f_frsize))
}

fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some(Ticks { idle: *numbers.get(3)?, total: numbers.iter().sum() })
}

fn used_memory(meminfo: &str) -> u64 {
    let value = |name: &str| {
        let line = meminfo.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let free = ["MemFree", "Buffers", "Cached", "SReclaimable"].iter().filter_map(|name| value(name)).sum();
    value("MemTotal").unwrap_or(0).saturating_sub(free).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let ticks = ticks("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1\n").unwrap();
        assert_eq!((ticks.idle, ticks.total), (70, 100));
        let text = "MemTotal: 1000 kB\nMemFree: 200 kB\nBuffers: 50 kB\nCached: 100 kB\nSwapCached: 5 kB\nSReclaimable: 50 kB\n";
        assert_eq!(used_memory(text), 600 * 1024);
    }

    // SM-42, SM-57
    #[test]
    fn a_request_is_answered_with_real_figures() {
        let mut monitoring = Monitoring::new(10_000, vec![]);
        let Wire::AverageMonitoring(answer) = monitoring.average() else { panic!("no average") };
        let node = answer.node_monitoring.unwrap();
        assert!(node.ram > 0);
        assert!(node.cpu <= 10_000);
    }

    #[test]
    fn a_sample_has_its_time_and_the_used_space() {
        let gone = ("gone".to_owned(), PathBuf::from("/no/such/folder"));
        let mut monitoring = Monitoring::new(10_000, vec![("root".to_owned(), PathBuf::from("/")), gone]);
        let Wire::InstantMonitoring(sample) = monitoring.sample() else { panic!("no sample") };
        let node = sample.node_monitoring.unwrap();
        assert!(node.timestamp.unwrap().seconds > 1_700_000_000);
        let [root] = node.partitions.as_slice() else { panic!("{:?}", node.partitions) };
        assert!(root.name == "root" && root.used_size > 0, "{root:?}");
    }
}

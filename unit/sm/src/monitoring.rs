//! Load figures of this node: memory and CPU. Instances, partitions and traffic are not measured yet, and no
//! periodic message is sent; a request for the average is answered.
//!
//! The average goes over the time since the request before, at most the configured window: the kernel counts
//! CPU time anyway, so nothing has to wake up in between.

use std::fs;

use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

/// Reads the node's figures.
pub struct Monitoring {
    max_dmips: u64,
    before: Option<Ticks>,
}

#[derive(Clone, Copy)]
struct Ticks {
    idle: u64,
    total: u64,
}

impl Monitoring {
    /// For a node of this computing power.
    pub fn new(max_dmips: u64) -> Self {
        Self { max_dmips, before: None }
    }

    /// Answer to a request for the average.
    pub fn average(&mut self) -> Wire {
        let cpu = fs::read_to_string("/proc/stat").ok().and_then(|text| ticks(&text)).map_or(0, |now| {
            let before = self.before.replace(now).unwrap_or(Ticks { idle: 0, total: 0 });
            let total = now.total.saturating_sub(before.total).max(1);
            let idle = now.idle.saturating_sub(before.idle).min(total);
            self.max_dmips.saturating_mul(total - idle) / total
        });
        let ram = fs::read_to_string("/proc/meminfo").ok().map_or(0, |text| used_memory(&text));
        let node = wire::MonitoringData { ram, cpu, ..Default::default() };
        Wire::AverageMonitoring(wire::AverageMonitoring {
            node_monitoring: Some(node),
            instances_monitoring: vec![],
        })
    }
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
        let Wire::AverageMonitoring(answer) = Monitoring::new(10_000).average() else { panic!("no average") };
        let node = answer.node_monitoring.unwrap();
        assert!(node.ram > 0);
        assert!(node.cpu <= 10_000);
    }
}

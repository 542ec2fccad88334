//! One set of load figures, its average over time and its shape on the wire. Pure.

use std::collections::BTreeMap;

use aos_unit_api::servicemanager::v5 as wire;

use super::rules::Parameter;

/// Load figures of the node or of one instance at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Computing power in use, DMIPS.
    pub cpu: f64,
    /// Memory in use, bytes.
    pub ram: u64,
    /// Bytes received and sent in the present period; `None` when nobody counts.
    pub traffic: Option<(u64, u64)>,
    /// Bytes in use of partitions.
    pub partitions: BTreeMap<String, u64>,
}

impl Sample {
    /// The value that a rule looks at.
    pub fn value(&self, parameter: &Parameter) -> Option<u64> {
        match parameter {
            Parameter::Cpu => Some(whole(self.cpu.round())),
            Parameter::Ram => Some(self.ram),
            Parameter::Download => self.traffic.map(|(download, _)| download),
            Parameter::Upload => self.traffic.map(|(_, upload)| upload),
            Parameter::Partition(name) => self.partitions.get(name).copied(),
        }
    }

    /// Brings the node's figures up to the sum of those of its instances: what they use, the node uses.
    pub fn at_least<'a>(&mut self, instances: impl Iterator<Item = &'a Self>) {
        let mut sum = Self::default();
        for one in instances {
            sum.cpu += one.cpu;
            sum.ram = sum.ram.saturating_add(one.ram);
            if let Some((download, upload)) = one.traffic {
                let (all_down, all_up) = sum.traffic.unwrap_or_default();
                sum.traffic = Some((all_down.saturating_add(download), all_up.saturating_add(upload)));
            }
            for (name, used) in &one.partitions {
                let all = sum.partitions.entry(name.clone()).or_default();
                *all = all.saturating_add(*used);
            }
        }
        self.cpu = self.cpu.max(sum.cpu);
        self.ram = self.ram.max(sum.ram);
        if let Some((download, upload)) = sum.traffic {
            let (own_down, own_up) = self.traffic.unwrap_or_default();
            self.traffic = Some((own_down.max(download), own_up.max(upload)));
        }
        for (name, used) in sum.partitions {
            let own = self.partitions.entry(name).or_default();
            *own = (*own).max(used);
        }
    }

    /// As peers get it; the fraction of CPU is cut.
    pub fn to_wire(&self, timestamp: Option<prost_types::Timestamp>) -> wire::MonitoringData {
        let (download, upload) = self.traffic.unwrap_or_default();
        let partitions = self.partitions.iter();
        wire::MonitoringData {
            timestamp,
            ram: self.ram,
            cpu: whole(self.cpu),
            partitions: partitions
                .map(|(name, &used_size)| wire::PartitionUsage { name: name.clone(), used_size })
                .collect(),
            download,
            upload,
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to the range of u64")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// The average of the latest samples: each one takes its share of what came before away and adds itself.
#[derive(Debug)]
pub struct Average {
    samples: u32,
    sums: Option<Sums>,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    cpu: f64,
    ram: u64,
    traffic: Option<(u64, u64)>,
    partitions: BTreeMap<String, u64>,
}

impl Average {
    /// Over this many samples, at least 1.
    pub fn new(samples: u32) -> Self {
        Self { samples: samples.max(1), sums: None }
    }

    /// Takes a sample in.
    pub fn add(&mut self, sample: &Sample) {
        let n = u64::from(self.samples);
        let first = |value: u64| value.saturating_mul(n);
        let next = |sum: u64, value: u64| sum.saturating_sub(share(sum, n)).saturating_add(value);
        let both = |sums: Option<(u64, u64)>, (download, upload): (u64, u64)| match sums {
            Some((down, up)) => (next(down, download), next(up, upload)),
            None => (first(download), first(upload)),
        };
        let count = f64::from(self.samples);
        let Some(sums) = &mut self.sums else {
            self.sums = Some(Sums {
                cpu: sample.cpu * count,
                ram: first(sample.ram),
                traffic: sample.traffic.map(|traffic| both(None, traffic)),
                partitions: sample.partitions.iter().map(|(k, v)| (k.clone(), first(*v))).collect(),
            });
            return;
        };
        sums.cpu = sums.cpu - sums.cpu / count + sample.cpu;
        sums.ram = next(sums.ram, sample.ram);
        sums.traffic = sample.traffic.map(|traffic| both(sums.traffic, traffic)).or(sums.traffic);
        for (name, &used) in &sample.partitions {
            match sums.partitions.get_mut(name) {
                Some(sum) => *sum = next(*sum, used),
                None => {
                    sums.partitions.insert(name.clone(), first(used));
                }
            }
        }
    }

    /// The average; `None` before the first sample.
    pub fn get(&self) -> Option<Sample> {
        let n = u64::from(self.samples);
        self.sums.as_ref().map(|sums| Sample {
            cpu: sums.cpu / f64::from(self.samples),
            ram: share(sums.ram, n),
            traffic: sums.traffic.map(|(download, upload)| (share(download, n), share(upload, n))),
            partitions: sums.partitions.iter().map(|(name, sum)| (name.clone(), share(*sum, n))).collect(),
        })
    }
}

/// The `n`-th part, rounded to the nearest.
fn share(sum: u64, n: u64) -> u64 {
    sum / n + u64::from(sum % n >= n.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(ram: u64) -> Sample {
        Sample { ram, ..Sample::default() }
    }

    // SM-42
    #[test]
    fn an_average_follows_its_samples() {
        let mut average = Average::new(4);
        assert_eq!(average.get(), None);
        average.add(&ram(100));
        assert_eq!(average.get().unwrap().ram, 100, "the first one counts for all");
        average.add(&ram(200));
        assert_eq!(average.get().unwrap().ram, 125);
        average.add(&Sample { cpu: 10.0, traffic: Some((8, 4)), ..ram(200) });
        let now = average.get().unwrap();
        assert_eq!((now.ram, now.traffic), (144, Some((8, 4))));
        assert!((now.cpu - 2.5).abs() < 1e-9, "{}", now.cpu);
        average.add(&ram(200));
        assert_eq!(average.get().unwrap().traffic, Some((8, 4)), "a count that is missing changes nothing");
        let mut single = Average::new(0);
        for value in [7, 9] {
            single.add(&ram(value));
            assert_eq!(single.get().unwrap().ram, value);
        }
    }

    proptest::proptest! {
        #[test]
        fn an_average_stays_between_its_samples(values in proptest::collection::vec(0u64..1 << 50, 1..60), n in 1u32..200) {
            let mut average = Average::new(n);
            for &value in &values {
                average.add(&Sample { ram: value, cpu: 1.0, ..Sample::default() });
            }
            let (least, most) = (values.iter().min().unwrap(), values.iter().max().unwrap());
            let now = average.get().unwrap();
            proptest::prop_assert!((*least..=*most).contains(&now.ram), "{} of {values:?}", now.ram);
            proptest::prop_assert!((now.cpu - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_node_uses_what_its_instances_use() {
        let one = Sample {
            cpu: 60.0,
            ram: 100,
            traffic: Some((5, 1)),
            partitions: [("storages".to_owned(), 10)].into(),
        };
        let mut node = Sample { cpu: 100.0, ram: 1000, ..Sample::default() };
        node.partitions = [("states".to_owned(), 3)].into();
        node.at_least([one.clone(), one].iter());
        assert!((node.cpu - 120.0).abs() < 1e-9);
        assert_eq!((node.ram, node.traffic), (1000, Some((10, 2))));
        assert_eq!(node.partitions, [("states".to_owned(), 3), ("storages".to_owned(), 20)].into());
        let wire = Sample { cpu: 99.9, ..node }.to_wire(None);
        assert_eq!((wire.cpu, wire.download, wire.upload, wire.partitions.len()), (99, 10, 2, 2));
    }
}

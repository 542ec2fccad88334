//! What is known of the load of the node and of its instances: averages and rules at work. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use aos_ids::InstanceIdent;
use aos_item_format::AlertRules;
use aos_unit_api::servicemanager::v5 as wire;

use super::rules::{Rules, Told, Totals, of_instance, of_node};
use super::sample::{Average, Sample};
use crate::alerts::AlertSender;

/// An instance that is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Which.
    pub ident: InstanceIdent,
    /// Identifier of its runtime.
    pub runtime: String,
    /// What to look at.
    pub params: wire::MonitoringParameters,
}

#[derive(Debug)]
struct Account {
    subject: Subject,
    average: Average,
    rules: Rules,
}

/// The node's and the instances' accounts.
#[derive(Debug)]
pub struct Book {
    totals: Totals,
    samples: u32,
    average: Average,
    rules: Rules,
    instances: BTreeMap<String, Account>,
}

impl Book {
    /// For a node of this size; averages go over so many samples.
    pub fn new(totals: Totals, samples: u32) -> Self {
        let (average, rules) = (Average::new(samples), Rules::default());
        Self { totals, samples, average, rules, instances: BTreeMap::new() }
    }

    /// The node's rules from now on.
    pub fn set_rules(&mut self, rules: &AlertRules) {
        self.rules.set(of_node(rules, &self.totals));
    }

    /// The instances from now on, by ID. What is known of the others is forgotten.
    pub fn set_instances(&mut self, subjects: BTreeMap<String, Subject>) {
        let mut before = std::mem::take(&mut self.instances);
        for (id, subject) in subjects {
            let mut account = before.remove(&id).unwrap_or_else(|| Account {
                subject: subject.clone(),
                average: Average::new(self.samples),
                rules: Rules::default(),
            });
            account.rules.set(of_instance(&subject.params, &self.totals));
            account.subject = subject;
            self.instances.insert(id, account);
        }
    }

    /// Takes new figures in: averages first, then rules, both with the figures as they were read. Answers the
    /// message for CM, in which the node uses at least what its instances use. Instances that are not known
    /// are left out.
    pub fn on(
        &mut self,
        now: Instant,
        time: prost_types::Timestamp,
        mut node: Sample,
        instances: &BTreeMap<String, Sample>,
        alerts: &AlertSender,
    ) -> wire::InstantMonitoring {
        let mut told = Vec::new();
        for (id, sample) in instances {
            let Some(account) = self.instances.get_mut(id) else { continue };
            account.average.add(sample);
            for Told { parameter, value, status } in account.rules.on(now, sample) {
                alerts.instance_quota(&account.subject.ident, parameter.word(), value, status);
            }
            told.push(of(&account.subject, sample.to_wire(Some(time))));
        }
        self.average.add(&node);
        for Told { parameter, value, status } in self.rules.on(now, &node) {
            alerts.system_quota(parameter.word(), value, status);
        }
        node.at_least(instances.values());
        wire::InstantMonitoring {
            node_monitoring: Some(node.to_wire(Some(time))),
            instances_monitoring: told,
        }
    }

    /// The averages; `None` before the first figures.
    pub fn average(&self) -> Option<wire::AverageMonitoring> {
        let node = self.average.get()?;
        let instances = self.instances.values().filter_map(|account| {
            let average = account.average.get()?;
            Some(of(&account.subject, average.to_wire(None)))
        });
        Some(wire::AverageMonitoring {
            node_monitoring: Some(node.to_wire(None)),
            instances_monitoring: instances.collect(),
        })
    }
}

fn of(subject: &Subject, data: wire::MonitoringData) -> wire::InstanceMonitoring {
    wire::InstanceMonitoring {
        instance: Some((&subject.ident).into()),
        runtime_id: subject.runtime.clone(),
        monitoring_data: Some(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aos_unit_api::common::v2;
    use wire::alert::AlertItem;

    fn subject(instance: u64, max_ram: f64) -> Subject {
        let ident =
            v2::InstanceIdent { item_id: "i".into(), subject_id: "s".into(), instance, ..Default::default() };
        let rule = wire::AlertRulePercents { duration: None, min_threshold: 1.0, max_threshold: max_ram };
        let rules = wire::AlertRules { ram: Some(rule), ..Default::default() };
        Subject {
            ident: ident.try_into().unwrap(),
            runtime: "r".into(),
            params: wire::MonitoringParameters { alert_rules: Some(rules) },
        }
    }

    fn ram(ram: u64) -> Sample {
        Sample { ram, ..Sample::default() }
    }

    // SM-62, SM-61, SM-56, SM-57, SM-42: figures of an instance that is not known, or could not be read, keep
    // nobody else from his; rules see the node as it was read.
    #[test]
    fn figures_become_messages_and_alerts() {
        let totals = Totals { dmips: 1000, ram: 1000, ..Totals::default() };
        let mut book = Book::new(totals, 2);
        book.set_rules(
            &serde_json::from_str(r#"{"ram": {"minThreshold": 10, "maxThreshold": 20}}"#).unwrap(),
        );
        let known = [("a".to_owned(), subject(0, 30.0)), ("b".to_owned(), subject(1, 90.0))];
        book.set_instances(known.clone().into());
        assert_eq!(book.average(), None);
        let (alerts, mut queue) = AlertSender::channel();
        let figures = |a, b| {
            let all = [("a".to_owned(), ram(a)), ("b".to_owned(), ram(b)), ("?".to_owned(), ram(1))];
            all.into_iter().collect()
        };
        let (now, time) = (Instant::now(), prost_types::Timestamp { seconds: 9, nanos: 0 });
        let told = book.on(now, time, ram(150), &figures(300, 400), &alerts);
        let node = told.node_monitoring.unwrap();
        assert_eq!((node.ram, node.timestamp.unwrap().seconds), (701, 9), "at least what instances use");
        let rams: Vec<u64> =
            told.instances_monitoring.iter().map(|one| one.monitoring_data.as_ref().unwrap().ram).collect();
        assert_eq!(rams, [300, 400]);
        assert_eq!(told.instances_monitoring[0].runtime_id, "r");
        let Some(AlertItem::InstanceQuotaAlert(alert)) = queue.try_recv().unwrap().alert_item else {
            panic!("no alert of the instance");
        };
        assert_eq!((alert.parameter.as_str(), alert.value, alert.status.as_str()), ("ram", 300, "raise"));
        assert_eq!(alert.instance.unwrap().instance, 0);
        assert!(queue.try_recv().is_err(), "150 of 1000 is below 20 %, whatever the instances' sum is");

        // The second one could not be read this time.
        let one = [("a".to_owned(), ram(500))].into();
        let told = book.on(now, time, ram(250), &one, &alerts);
        assert_eq!(told.instances_monitoring.len(), 1);
        let mut kinds = Vec::new();
        while let Ok(alert) = queue.try_recv() {
            kinds.push(match alert.alert_item.unwrap() {
                AlertItem::InstanceQuotaAlert(one) => format!("instance {}", one.status),
                AlertItem::SystemQuotaAlert(one) => format!("node {} {}", one.status, one.value),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(kinds, ["instance continue", "node raise 250"]);
        let average = book.average().unwrap();
        assert_eq!(average.node_monitoring.unwrap().ram, 200);
        let rams: Vec<u64> = average
            .instances_monitoring
            .iter()
            .map(|one| one.monitoring_data.as_ref().unwrap().ram)
            .collect();
        assert_eq!(rams, [400, 400]);

        // What is stopped is forgotten with its average and its alert.
        book.set_instances([known[1].clone()].into());
        book.set_instances(known.into());
        let average = book.average().unwrap();
        assert_eq!(average.instances_monitoring.len(), 1);
        book.on(now, time, ram(250), &[("a".to_owned(), ram(300))].into(), &alerts);
        let mut raised = 0;
        while let Ok(alert) = queue.try_recv() {
            if let Some(AlertItem::InstanceQuotaAlert(one)) = alert.alert_item {
                assert_eq!(one.status, "raise");
                raised += 1;
            }
        }
        assert_eq!(raised, 1);
    }
}

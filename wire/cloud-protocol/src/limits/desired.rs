//! Limits of `desiredStatus`.

use super::{Findings, NAME, NODES, VERSION};
use crate::{AlertRules, DesiredStatus, NodeConfig, UnitConfig};

/// Longest Unit configuration that a Unit can store, bytes of JSON.
const STORED_CONFIG: usize = 4096;

pub(super) fn status(findings: &mut Findings, status: &DesiredStatus) {
    let nodes = status.nodes.as_deref().unwrap_or_default();
    findings.count("nodes", nodes.len(), NODES);
    for (at, node) in nodes.iter().enumerate() {
        findings.node(&format!("nodes[{at}].item"), &node.item);
    }
    if let Some(config) = &status.unit_config {
        unit_config(findings, config);
    }
    let items = status.items.as_deref().unwrap_or_default();
    findings.count("items", items.len(), 64);
    for (at, item) in items.iter().enumerate() {
        let path = format!("items[{at}].item");
        findings.delivered(&path, &item.item);
        findings.needs(path, item.item.kind.is_some(), "has no type");
        findings.length(format!("items[{at}].version"), item.version.len(), VERSION);
        findings.delivered(&format!("items[{at}].owner"), &item.owner);
    }
    let instances = status.instances.as_deref().unwrap_or_default();
    findings.count("instances", instances.len(), 256);
    for (at, instance) in instances.iter().enumerate() {
        findings.delivered(&format!("instances[{at}].item"), &instance.item);
        findings.delivered(&format!("instances[{at}].subject"), &instance.subject);
        findings.labels(&format!("instances[{at}].labels"), &instance.labels);
    }
    let subjects = status.subjects.as_deref().unwrap_or_default();
    findings.count("subjects", subjects.len(), 64);
    for (at, subject) in subjects.iter().enumerate() {
        findings.delivered(&format!("subjects[{at}].identity"), &subject.identity);
    }
    let certificates = status.certificates.as_deref().unwrap_or_default();
    findings.count("certificates", certificates.len(), 32);
    for (at, certificate) in certificates.iter().enumerate() {
        findings.length(format!("certificates[{at}].certificate"), certificate.certificate.0.len(), 2048);
        findings.length(format!("certificates[{at}].fingerprint"), certificate.fingerprint.len(), NAME);
    }
    let chains = status.certificate_chains.as_deref().unwrap_or_default();
    findings.count("certificateChains", chains.len(), 8);
    for (at, chain) in chains.iter().enumerate() {
        findings.length(format!("certificateChains[{at}].name"), chain.name.len(), NAME);
        let path = format!("certificateChains[{at}].fingerprints");
        findings.count(&path, chain.fingerprints.len(), 4);
        for (at, fingerprint) in chain.fingerprints.iter().enumerate() {
            findings.length(format!("{path}[{at}]"), fingerprint.len(), NAME);
        }
    }
}

fn unit_config(findings: &mut Findings, config: &UnitConfig) {
    findings.length("unitConfig.version", config.version.len(), VERSION);
    findings.length("unitConfig.formatVersion", config.format_version.len(), VERSION);
    findings.count("unitConfig.nodes", config.nodes.len(), NODES);
    for (at, node) in config.nodes.iter().enumerate() {
        node_config(findings, &format!("unitConfig.nodes[{at}]"), node);
    }
    // Taken by the converter, but it cannot be applied.
    let stored = serde_json::to_vec(config).map_or(usize::MAX, |json| json.len());
    findings.length("unitConfig", stored, STORED_CONFIG);
}

fn node_config(findings: &mut Findings, path: &str, node: &NodeConfig) {
    findings.node(&format!("{path}.nodeGroupSubject"), &node.node_group_subject);
    if let Some(node) = &node.node {
        findings.node(&format!("{path}.node"), node);
    }
    findings.labels(&format!("{path}.labels"), node.labels.as_deref().unwrap_or_default());
    if let Some(AlertRules { partitions: Some(partitions), .. }) = &node.alert_rules {
        findings.count(format!("{path}.alertRules.partitions"), partitions.len(), 4);
        for (at, rule) in partitions.iter().enumerate() {
            findings.length(format!("{path}.alertRules.partitions[{at}].name"), rule.name.len(), NAME);
        }
    }
}

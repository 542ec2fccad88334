//! What Units report by themselves: alerts and monitoring.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::Alerts;
use crate::cloud::{Cloud, Refused, segment};
use crate::output::{Output, elements, table, text};

const RETRY_PAUSE: Duration = Duration::from_secs(2);
const HEAD: [&str; 4] = ["TIME", "ALERT", "SOURCE", "MESSAGE"];

pub async fn alerts(cloud: &Cloud, alerts: &Alerts, out: &Output) -> Result<()> {
    let path = format!("units/{}/alerts/", segment(&alerts.unit)?);
    let mut page = cloud.get(&format!("{path}?limit={}", alerts.limit)).await?;
    out.show(&page, |page| table(&HEAD, &lines(page)))?;
    if !alerts.watch {
        return Ok(());
    }
    let mut after = last(&page, 0);
    loop {
        page = match cloud.get(&format!("{path}?after={after}&wait=20")).await {
            Ok(page) => page,
            Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
            // A cloud that restarts is worth waiting for.
            Err(error) => {
                out.progress(&format!("{error:#}; trying again"));
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        after = last(&page, after);
        for (alert, line) in elements(&page).iter().zip(lines(&page)) {
            out.show(alert, |_| line.join("  "))?;
        }
    }
}

fn last(page: &Value, before: i64) -> i64 {
    elements(page).iter().filter_map(|entry| entry["id"].as_i64()).max().unwrap_or(before)
}

fn lines(page: &Value) -> Vec<Vec<String>> {
    elements(page)
        .iter()
        .map(|entry| {
            let alert = &entry["alert"];
            vec![
                text(alert, "/timestamp"),
                text(alert, "/tag").trim_end_matches("Alert").to_owned(),
                source(alert),
                message(alert),
            ]
        })
        .collect()
}

fn source(alert: &Value) -> String {
    let of = ["/node/codename", "/coreComponent"].map(|part| text(alert, part));
    let found: Vec<String> =
        of.into_iter().chain([item(alert), text(alert, "/digest")]).filter(|text| !text.is_empty()).collect();
    found.join(" ")
}

/// The item that something is about, and the number of its instance where there is one.
fn item(about: &Value) -> String {
    let name = Some(text(about, "/item/codename")).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| text(about, "/item/id"));
    let number = text(about, "/instance");
    if name.is_empty() || number.is_empty() { name } else { format!("{name}:{number}") }
}

fn message(alert: &Value) -> String {
    let message = text(alert, "/message");
    if !message.is_empty() {
        return message;
    }
    let parameter = text(alert, "/parameter");
    if !parameter.is_empty() {
        return format!("{parameter} is {}", text(alert, "/value"));
    }
    let words = ["/state", "/reason", "/errorInfo/message"].map(|path| text(alert, path));
    let bytes = format!("{}/{} bytes", text(alert, "/downloadedBytes"), text(alert, "/totalBytes"));
    let mut all: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    all.insert(1.min(all.len()), bytes);
    all.join(", ")
}

/// The newest sample of each node and instance.
pub async fn monitoring(cloud: &Cloud, unit: &str, out: &Output) -> Result<()> {
    let path = format!("units/{}/monitoring/?limit=100", segment(unit)?);
    let page = cloud.get(&path).await?;
    if out.is_json() {
        return out.show(&page, |_| String::new());
    }
    let mut newest: Vec<(String, Value)> = Vec::new();
    for entry in elements(&page) {
        let data = &entry["monitoring"];
        let nodes = elements(&data["nodes"]).iter().map(|node| (text(node, "/node/codename"), node));
        let instances = elements(&data["instances"]).iter().map(|instance| (item(instance), instance));
        for (name, source) in nodes.chain(instances) {
            let Some(sample) = elements(&source["items"]).last() else { continue };
            newest.retain(|(known, _)| *known != name);
            newest.push((name, sample.clone()));
        }
    }
    out.show(&json!(newest), |_| {
        let lines: Vec<Vec<String>> = newest
            .iter()
            .map(|(name, sample)| {
                let partitions: Vec<String> = elements(&sample["partitions"])
                    .iter()
                    .map(|part| format!("{}={}", text(part, "/name"), text(part, "/usedSize")))
                    .collect();
                vec![
                    name.clone(),
                    text(sample, "/timestamp"),
                    text(sample, "/cpu"),
                    text(sample, "/ram"),
                    text(sample, "/download"),
                    text(sample, "/upload"),
                    partitions.join(" "),
                ]
            })
            .collect();
        table(&["SOURCE", "TIME", "CPU DMIPS", "RAM", "IN", "OUT", "PARTITIONS"], &lines)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_alert_has_a_message() {
        for (alert, expected) in [
            (json!({"tag": "coreAlert", "message": "lost"}), "lost"),
            (json!({"tag": "systemQuotaAlert", "parameter": "cpu", "value": 7}), "cpu is 7"),
            (
                json!({"tag": "downloadProgressAlert", "state": "interrupted", "reason": "reset",
                    "downloadedBytes": 1, "totalBytes": 2}),
                "interrupted, 1/2 bytes, reset",
            ),
        ] {
            assert_eq!(message(&alert), expected);
        }
    }

    #[test]
    fn sources_are_told_by_the_names_people_know() {
        for (alert, expected) in [
            (
                json!({"node": {"codename": "main"}, "item": {"id": "1-2", "codename": "web"}, "instance": 0}),
                "main web:0",
            ),
            (json!({"item": {"id": "1-2"}, "instance": 3}), "1-2:3"),
            (json!({"item": {"id": "1-2", "codename": "web"}}), "web"),
            (json!({"coreComponent": "SM"}), "SM"),
            (json!({"digest": "sha256:ab"}), "sha256:ab"),
        ] {
            assert_eq!(source(&alert), expected);
        }
    }
}

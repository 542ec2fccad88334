//! Looking at Units.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::cloud::{Cloud, Refused, is_status, segment};
use crate::output::{Output, elements, rows, table, text};

/// Between two attempts to follow a Unit while the cloud does not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

pub async fn list(cloud: &Cloud, out: &Output) -> Result<()> {
    let units = cloud.list("units/").await?;
    out.show(&units, |units| {
        let fields = ["/system_uid", "/status", "/online_status", "/last_online_changed_at", "/id"];
        let rows = rows(elements(units), &fields);
        table(&["UNIT", "STATUS", "LINK", "SINCE", "ID"], &rows)
    })
}

pub async fn show(cloud: &Cloud, unit: &str, out: &Output) -> Result<()> {
    let unit = segment(unit)?;
    let mut document = cloud.get(&format!("units/{unit}/")).await?;
    let certificates = cloud.get(&format!("units/{unit}/certificates/")).await?;
    document["certificates"] = Value::Array(elements(&certificates).to_vec());
    out.show(&document, |unit| {
        let facts = ["/system_uid", "/id", "/status", "/online_status", "/last_online_changed_at"];
        let named: Vec<_> = facts
            .iter()
            .map(|fact| vec![fact.trim_start_matches('/').to_owned(), text(unit, fact)])
            .collect();
        let fields = ["/cert_type", "/node_id", "/serial", "/valid_till", "/status"];
        let certificates = rows(elements(&unit["certificates"]), &fields);
        format!(
            "{}\n{}",
            table(&["UNIT", ""], &named),
            table(&["CERTIFICATE", "NODE", "SERIAL", "VALID TILL", "STATUS"], &certificates)
        )
    })
}

pub async fn status(cloud: &Cloud, unit: &str, watch: bool, out: &Output) -> Result<()> {
    let unit = segment(unit)?;
    let mut document = cloud.get(&format!("units/{unit}/status/")).await?;
    out.show(&document, describe)?;
    if !watch {
        return Ok(());
    }
    loop {
        let revision = document["revision"].as_u64().context("the cloud sent a status without revision")?;
        let next = match cloud.get(&format!("units/{unit}/status/?after={revision}&wait=30")).await {
            Ok(next) => next,
            Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
            // A cloud that restarts is worth waiting for.
            Err(error) => {
                out.progress(&format!("{error:#}; trying again"));
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        if next["revision"] == document["revision"] {
            continue;
        }
        document = next;
        out.gap()?;
        out.show(&document, describe)?;
    }
}

pub async fn deprovision(cloud: &Cloud, unit: &str, force: bool, out: &Output) -> Result<()> {
    let path = format!("units/{}/deprovision/?force={force}", segment(unit)?);
    cloud.delete(&path).await.map_err(|error| {
        let advice = if is_status(&error, StatusCode::CONFLICT) && !force {
            "the Unit was not deprovisioned; stop it first, or cut it off with --force"
        } else {
            "the Unit was not deprovisioned"
        };
        error.context(advice)
    })?;
    out.show(&json!({ "unit": unit, "result": "deprovisioned" }), |_| {
        format!("{unit} is deprovisioned in the cloud; its certificates are refused from now on")
    })
}

pub async fn delete(cloud: &Cloud, unit: &str, out: &Output) -> Result<()> {
    cloud.delete(&format!("units/{}/", segment(unit)?)).await.context("the Unit was not deleted")?;
    out.show(&json!({ "unit": unit, "result": "deleted" }), |_| format!("{unit} is deleted"))
}

fn describe(unit: &Value) -> String {
    let name = |value: &Value, path: &str| {
        let codename = text(value, &format!("{path}/codename"));
        if codename.is_empty() { text(value, &format!("{path}/id")) } else { codename }
    };
    let error = |value: &Value| text(value, "/error/message");
    let nodes: Vec<_> = elements(&unit["nodes"])
        .iter()
        .map(|node| {
            let link = if node["is_connected"] == Value::Bool(true) { "connected" } else { "away" };
            vec![text(node, "/node_id"), text(node, "/state"), link.to_owned(), error(node)]
        })
        .collect();
    let items: Vec<_> = elements(&unit["items"])
        .iter()
        .map(|item| vec![name(item, "/item"), text(item, "/version"), text(item, "/state"), error(item)])
        .collect();
    let instances: Vec<_> = elements(&unit["instances"])
        .iter()
        .map(|instance| {
            vec![
                format!("{}:{}", name(instance, "/item"), text(instance, "/instance")),
                text(instance, "/version"),
                text(instance, "/node"),
                text(instance, "/state"),
                error(instance),
            ]
        })
        .collect();
    format!(
        "{} is {} (observed {})\n\n{}\n{}\n{}",
        text(unit, "/system_uid"),
        text(unit, "/online_status"),
        text(unit, "/observed_at"),
        table(&["NODE", "STATE", "LINK", "ERROR"], &nodes),
        table(&["ITEM", "VERSION", "STATE", "ERROR"], &items),
        table(&["INSTANCE", "VERSION", "NODE", "STATE", "ERROR"], &instances),
    )
}

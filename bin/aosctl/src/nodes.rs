//! Nodes of a Unit: states, pause and resume, provisioning of secondary ones.

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::args::{NodeCommand, NodeSwitch, NodeTask};
use crate::cloud::{Cloud, is_status, segment};
use crate::follow::Follow;
use crate::output::{Output, elements, table, text};
use crate::renew::read;

/// States of a task that is not over.
const OPEN: [&str; 3] = ["starting", "finishing", "deprovisioning"];

pub async fn list(cloud: &Cloud, unit: &str, out: &Output) -> Result<()> {
    let nodes = cloud.get(&format!("units/{}/nodes/", segment(unit)?)).await?;
    out.show(&nodes, |nodes| {
        let lines: Vec<Vec<String>> = elements(nodes)
            .iter()
            .map(|node| {
                let main = if node["is_main"] == true { "main" } else { "" };
                let link = if node["is_connected"] == true { "connected" } else { "away" };
                let task = match (text(node, "/task/kind"), text(node, "/task/state")) {
                    (kind, _) if kind.is_empty() => String::new(),
                    (kind, state) => format!("{kind}: {state}"),
                };
                vec![
                    text(node, "/node_id"),
                    text(node, "/node_type"),
                    main.to_owned(),
                    text(node, "/status"),
                    text(node, "/desired_state"),
                    link.to_owned(),
                    task,
                    text(node, "/task/error"),
                ]
            })
            .collect();
        table(&["NODE", "TYPE", "ROLE", "STATE", "WANTED", "LINK", "TASK", "ERROR"], &lines)
    })
}

pub async fn run(cloud: &Cloud, command: &NodeCommand, out: &Output) -> Result<()> {
    match command {
        NodeCommand::Provision(task) => task_of(cloud, task, "provision", out).await,
        NodeCommand::Deprovision(task) => task_of(cloud, task, "deprovision", out).await,
        NodeCommand::Pause(switch) => switched(cloud, switch, "pause", "paused", out).await,
        NodeCommand::Resume(switch) => switched(cloud, switch, "resume", "provisioned", out).await,
    }
}

fn path(unit: &str, node: &str) -> Result<String> {
    Ok(format!("units/{}/nodes/{}/", segment(unit)?, segment(node)?))
}

async fn task_of(cloud: &Cloud, task: &NodeTask, kind: &str, out: &Output) -> Result<()> {
    let path = path(&task.unit, &task.node)?;
    let mut request = json!({});
    if let Some(file) = &task.password_file {
        request["password"] = json!(read(file)?.trim());
    }
    match cloud.post(&format!("{path}{kind}/"), &request).await {
        Ok(_) => {}
        // The same command again takes the waiting up.
        Err(error) if is_status(&error, StatusCode::CONFLICT) && task.wait => {
            let node = cloud.get(&path).await?;
            if text(&node, "/task/kind") != kind || !is_open(&node) {
                return Err(error);
            }
            out.progress("it is under way already");
        }
        Err(error) => return Err(error.context(format!("node {} was not taken on", task.node))),
    }
    let again = format!("aosctl node {kind} {} {} --wait", task.unit, task.node);
    if !task.wait {
        let node = cloud.get(&path).await?;
        return out.show(&node, |_| format!("the Unit is asked; follow it with: {again}"));
    }
    let path = format!("{path}task/");
    let what = format!("node {}", task.node);
    let follow = Follow { path, what: &what, again, open: &OPEN };
    let document = follow
        .until_over(cloud, &task.time, out, |document| match text(document, "/state").as_str() {
            "starting" => "the node makes keys".to_owned(),
            "finishing" => "the node installs its certificates".to_owned(),
            "deprovisioning" => "the node removes its keys".to_owned(),
            other => other.to_owned(),
        })
        .await?;
    if text(&document, "/state") == "failed" {
        bail!("node {}: {kind} failed: {}", task.node, text(&document, "/error"));
    }
    out.show(&document, |_| format!("node {}: {kind} is done", task.node))
}

fn is_open(node: &Value) -> bool {
    OPEN.contains(&text(node, "/task/state").as_str())
}

async fn switched(cloud: &Cloud, switch: &NodeSwitch, verb: &str, wanted: &str, out: &Output) -> Result<()> {
    let path = path(&switch.unit, &switch.node)?;
    let answer = cloud.post(&format!("{path}{verb}/"), &json!({})).await;
    let answer = answer.with_context(|| format!("node {} was not changed", switch.node))?;
    let again = format!("aosctl node {verb} {} {} --wait", switch.unit, switch.node);
    if !switch.wait {
        return out
            .show(&answer, |_| format!("node {} shall be {wanted}; follow it with: {again}", switch.node));
    }
    let what = format!("node {} to be {wanted}", switch.node);
    let follow = Follow { path: format!("{path}switch/"), what: &what, again, open: &["waiting"] };
    let document = follow
        .until_over(cloud, &switch.time, out, |document| {
            format!("the Unit reports it as {}", text(document, "/status"))
        })
        .await?;
    if text(&document, "/state") == "failed" {
        bail!("node {} is {}: {}", switch.node, text(&document, "/status"), text(&document, "/error"));
    }
    out.show(&document, |_| format!("node {} is {wanted}", switch.node))
}

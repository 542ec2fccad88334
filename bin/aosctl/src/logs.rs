//! Logs of Units: asks, waits for the parts, prints the text.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::Logs;
use crate::cloud::{Cloud, segment};
use crate::follow::{Follow, past_time};
use crate::log_follow;
use crate::output::{Output, elements, rows, table, text};

pub async fn fetch(cloud: &Cloud, logs: &Logs, out: &Output) -> Result<()> {
    let base = format!("units/{}/logs/", segment(&logs.unit)?);
    if logs.list {
        return list(cloud, &base, out).await;
    }
    if logs.follow {
        return log_follow::follow(cloud, &base, logs, out).await;
    }
    let id = if let Some(id) = &logs.request {
        id.clone()
    } else {
        let request = request(logs)?;
        let made = cloud.post(&base, &request).await.context("the cloud did not take the request")?;
        text(&made, "/id")
    };
    let path = format!("{base}{}/", segment(&id)?);
    let follow = Follow {
        path: path.clone(),
        what: "the logs",
        again: format!("aosctl logs {} --request {id}", logs.unit),
        open: &["waiting", "partial"],
    };
    let document = follow.until_over(cloud, &logs.wait, out, progress).await?;
    for node in elements(&document["nodes"]) {
        if matches!(text(node, "/state").as_str(), "failed" | "empty" | "absent") {
            out.progress(&format!("  {}", node_line(node)));
        }
    }
    if matches!(text(&document, "/state").as_str(), "failed" | "absent") {
        bail!("there is no log: {}", reason(&document));
    }
    if out.is_json() && logs.file.is_none() {
        return out.show(&document, |_| String::new());
    }
    let mut answer = cloud.open(&format!("{path}content/")).await?;
    let mut sink = sink(logs)?;
    let mut bytes = 0;
    while let Some(piece) = answer.chunk().await.context("the logs broke off")? {
        bytes += piece.len();
        sink.write_all(&piece).context("cannot write the logs")?;
    }
    sink.flush().context("cannot write the logs")?;
    if bytes == 0 {
        out.progress("nothing was logged");
    }
    Ok(())
}

/// Where the text goes.
pub fn sink(logs: &Logs) -> Result<Box<dyn std::io::Write>> {
    let Some(path) = &logs.file else { return Ok(Box::new(std::io::stdout())) };
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(file))
}

pub fn request(logs: &Logs) -> Result<Value> {
    let kind = match (logs.system, logs.crash) {
        (true, _) => "system",
        (_, true) => "crash",
        _ => "instance",
    };
    let mut request = json!({ "type": kind, "upload": logs.upload.word() });
    if let Some(item) = &logs.item {
        request["item"] = json!(item);
    }
    if let Some(subject) = &logs.subject {
        request["subject"] = json!(subject);
    }
    if let Some(instance) = logs.instance {
        request["instance"] = json!(instance);
    }
    if !logs.node.is_empty() {
        request["nodes"] = json!(logs.node);
    }
    for (key, value) in [("from", &logs.from), ("till", &logs.till)] {
        if let Some(value) = value {
            request[key] = json!(past_time(value)?);
        }
    }
    Ok(request)
}

async fn list(cloud: &Cloud, base: &str, out: &Output) -> Result<()> {
    let logs = cloud.list(base).await?;
    out.show(&logs, |logs| {
        let fields = ["/id", "/type", "/state", "/created_at", "/error"];
        table(&["REQUEST", "TYPE", "STATE", "CREATED", "ERROR"], &rows(elements(logs), &fields))
    })
}

fn progress(document: &Value) -> String {
    let nodes: Vec<String> = elements(&document["nodes"]).iter().map(node_line).collect();
    format!("{}; {}", text(document, "/state"), nodes.join(", "))
}

pub fn node_line(node: &Value) -> String {
    let (name, state) = (text(node, "/node"), text(node, "/state"));
    let (have, all) = (text(node, "/parts"), text(node, "/parts_count"));
    let parts = if all.is_empty() || all == "0" { String::new() } else { format!(" {have}/{all} parts") };
    let error = text(node, "/error");
    let error = if error.is_empty() { error } else { format!(" ({error})") };
    format!("node {name}: {state}{parts}{error}")
}

pub fn reason(document: &Value) -> String {
    let whole = text(document, "/error");
    if !whole.is_empty() {
        return whole;
    }
    let nodes: Vec<String> = elements(&document["nodes"]).iter().map(node_line).collect();
    if nodes.is_empty() { text(document, "/state") } else { nodes.join(", ") }
}

//! `aos status`: what the daemons of this node say of themselves, as tables or as one JSON document.
//!
//! Each daemon that runs serves its document on a socket; one that does not answer is shown as not running.

use std::path::PathBuf;

use anyhow::{Result, bail};
use aos_local_status as local;
use aos_text_table::{elements, rows, table, text};
use serde_json::{Map, Value};

/// Prints the status; an error when no daemon answers.
pub fn show(run_dir: Option<PathBuf>, json: bool) -> Result<()> {
    let dir = run_dir.unwrap_or_else(local::run_dir);
    let mut documents = Map::new();
    let mut silent = Vec::new();
    for component in ["iam", "cm", "sm"] {
        match local::read(&dir, component) {
            Ok(document) => {
                documents.insert(component.to_owned(), document);
            }
            Err(_) => silent.push(component),
        }
    }
    if documents.is_empty() {
        bail!(
            "no component answers in {}; are the daemons running, and is this the right --run-dir?",
            dir.display()
        );
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&documents)?);
    } else {
        print!("{}", describe(&Value::Object(documents), &silent));
    }
    Ok(())
}

fn describe(node: &Value, silent: &[&str]) -> String {
    let (iam, cm, sm) = (&node["iam"], &node["cm"], &node["sm"]);
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push(vec![name.to_owned(), value]);
        }
    };
    let first = |one: String, other: String| if one.is_empty() { other } else { one };
    fact("unit", first(text(cm, "/systemId"), text(iam, "/systemId")));
    fact("node", format!("{} {}", text(iam, "/nodeId"), text(iam, "/state")).trim().to_owned());
    fact(
        "cloud",
        ["/cloud/state", "/cloud/url", "/cloud/lastError"].map(|p| text(cm, p)).join(" ").trim().to_owned(),
    );
    fact("messages", messages(&cm["cloud"]));
    fact("update", text(cm, "/update/state"));
    fact("not running", silent.join(", "));
    let mut out = table(&["UNIT", ""], &facts);

    let mut section = |head: &[&str], list: &Value, paths: &[&str]| {
        let rows = rows(elements(list), paths);
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table(head, &rows));
        }
    };
    section(
        &["NODE", "STATE", "CONNECTED", "ERROR"],
        &cm["nodes"],
        &["/id", "/state", "/connected", "/error/message"],
    );
    section(
        &["ITEM", "VERSION", "STATE", "ERROR"],
        &cm["items"],
        &["/id", "/version", "/state", "/error/message"],
    );
    section(
        &["INSTANCE", "VERSION", "STATE", "PID", "STARTS", "IP", "ERROR"],
        &sm["instances"],
        &["/id", "/version", "/state", "/pid", "/starts", "/ip", "/error/message"],
    );
    section(
        &["CERTIFICATE", "SERIAL", "VALID TILL"],
        &iam["certificates"],
        &["/type", "/serial", "/notAfter"],
    );
    out
}

/// Messages between the Unit and its cloud, with what went wrong only when something did.
fn messages(cloud: &Value) -> String {
    let counters = &cloud["counters"];
    if !counters.is_object() {
        return String::new();
    }
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let sum = |values: &Value| values.as_object().into_iter().flatten().map(|(_, value)| number(value)).sum();
    let mut words = vec![
        format!("{} waiting", number(&cloud["queued"])),
        format!("{} kept", number(&cloud["kept"])),
        format!("{} sent", number(&counters["sent"])),
        format!("{} received", number(&counters["received"])),
        format!("{} connections", number(&counters["connections"])),
    ];
    let wrong = [
        ("resent", number(&counters["resent"])),
        ("parked", number(&counters["parked"])),
        ("dropped", sum(&counters["dropped"])),
        ("refused", sum(&counters["refused"])),
    ];
    words.extend(wrong.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {word}")));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_runs_and_what_does_not() {
        let node = serde_json::json!({
            "iam": { "nodeId": "n1", "state": "provisioned",
                "certificates": [{ "type": "online", "serial": "0a", "notAfter": "2036-01-01T00:00:00Z" }] },
            "cm": { "systemId": "unit-1", "cloud": { "state": "connected", "url": "wss://c/ws/v7/",
                "queued": 3, "kept": 2, "counters": { "connections": 1, "sent": 9, "resent": 0, "received": 8,
                "parked": 0, "dropped": { "noAck": 1, "queueFull": 2 }, "refused": { "invalid": 0 } } } },
        });
        let text = describe(&node, &["sm"]);
        for part in [
            "unit-1",
            "connected wss://c/ws/v7/",
            "3 waiting, 2 kept, 9 sent, 8 received, 1 connections, 3 dropped\n",
            "n1 provisioned",
            "2036-01-01T00:00:00Z",
            "not running  sm",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}

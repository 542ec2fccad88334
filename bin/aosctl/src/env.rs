//! Overridden environment variables. The cloud keeps one set per Unit; a change reads it, edits it and puts it back.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::{EnvCommand, Scope};
use crate::cloud::{Cloud, segment};
use crate::follow::future_time;
use crate::output::{Output, elements, rows, table, text};

pub async fn run(cloud: &Cloud, command: &EnvCommand, out: &Output) -> Result<()> {
    match command {
        EnvCommand::Get { unit } => {
            let set = cloud.get(&path(unit)?).await?;
            out.show(&set, describe)
        }
        EnvCommand::Set { unit, variables, scope, ttl } => {
            let ttl = ttl.as_deref().map(future_time).transpose()?;
            let scope = resolved(cloud, scope).await?;
            let mut set = current(cloud, unit).await?;
            for variable in variables {
                let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty())
                else {
                    bail!("'{variable}' is no variable; expected NAME=VALUE");
                };
                override_one(&mut set, &scope, name, value, ttl.as_deref());
            }
            put(cloud, unit, set, out).await
        }
        EnvCommand::Unset { unit, names, scope } => {
            let everywhere = scope.item.is_none() && scope.subject.is_none() && scope.instance.is_none();
            let scope = resolved(cloud, scope).await?;
            let mut set = current(cloud, unit).await?;
            let before = count(&set);
            set.retain_mut(|entry| {
                if (everywhere && names.is_empty()) || same_scope(entry, &scope) {
                    drop_names(entry, names);
                }
                !elements(&entry["variables"]).is_empty()
            });
            if count(&set) == before {
                bail!("nothing to take back; `aosctl env get {unit}` shows what is overridden");
            }
            put(cloud, unit, set, out).await
        }
    }
}

fn path(unit: &str) -> Result<String> {
    Ok(format!("units/{}/env-overrides/", segment(unit)?))
}

/// The scope with the item's id, so that an entry made under the codename is found again.
async fn resolved(cloud: &Cloud, scope: &Scope) -> Result<Value> {
    let mut resolved = json!({});
    if let Some(item) = &scope.item {
        let item = cloud.get(&format!("update-items/{}/", segment(item)?)).await.context("no such item")?;
        resolved["item"] = item["id"].clone();
    }
    if let Some(subject) = &scope.subject {
        resolved["subject"] = json!(subject);
    }
    if let Some(instance) = scope.instance {
        resolved["instance"] = json!(instance);
    }
    Ok(resolved)
}

/// The present set in the form in which it is put back.
async fn current(cloud: &Cloud, unit: &str) -> Result<Vec<Value>> {
    let set = cloud.get(&path(unit)?).await?;
    let entries = elements(&set["items"]).iter().map(|entry| {
        // What has ended is gone on the Unit already, and the cloud takes no end in the past.
        let live = elements(&entry["variables"]).iter().filter(|variable| {
            let end = text(variable, "/ttl").parse::<jiff::Timestamp>();
            end.map_or(true, |end| end > jiff::Timestamp::now())
        });
        let mut kept = json!({ "variables": live.collect::<Vec<_>>() });
        for (key, value) in
            [("item", &entry["item"]["id"]), ("subject", &entry["subject"]), ("instance", &entry["instance"])]
        {
            if !value.is_null() {
                kept[key] = value.clone();
            }
        }
        kept
    });
    Ok(entries.filter(|entry| !elements(&entry["variables"]).is_empty()).collect())
}

fn same_scope(entry: &Value, scope: &Value) -> bool {
    ["item", "subject", "instance"].iter().all(|key| entry.get(key) == scope.get(key))
}

fn override_one(set: &mut Vec<Value>, scope: &Value, name: &str, value: &str, ttl: Option<&str>) {
    let mut variable = json!({ "name": name, "value": value });
    if let Some(ttl) = ttl {
        variable["ttl"] = json!(ttl);
    }
    if !set.iter().any(|entry| same_scope(entry, scope)) {
        let mut entry = scope.clone();
        entry["variables"] = json!([]);
        set.push(entry);
    }
    let Some(entry) = set.iter_mut().find(|entry| same_scope(entry, scope)) else { return };
    drop_names(entry, &[name.to_owned()]);
    if let Some(variables) = entry["variables"].as_array_mut() {
        variables.push(variable);
    }
}

/// Removes the named variables, or all when none is named.
fn drop_names(entry: &mut Value, names: &[String]) {
    if let Some(variables) = entry["variables"].as_array_mut() {
        variables.retain(|variable| !names.is_empty() && !names.contains(&text(variable, "/name")));
    }
}

fn count(set: &[Value]) -> usize {
    set.iter().map(|entry| elements(&entry["variables"]).len()).sum()
}

async fn put(cloud: &Cloud, unit: &str, set: Vec<Value>, out: &Output) -> Result<()> {
    let answer =
        cloud.put(&path(unit)?, &json!({ "items": set })).await.context("the overrides were not taken")?;
    out.show(&answer, |answer| {
        format!("{}\nsee what became of them with: aosctl env get {unit}", describe(answer))
    })
}

fn describe(set: &Value) -> String {
    let mut variables = Vec::new();
    for entry in elements(&set["items"]) {
        for variable in elements(&entry["variables"]) {
            variables.push(vec![
                text(variable, "/name"),
                text(variable, "/value"),
                name_of(&entry["item"], "all"),
                or_all(&text(entry, "/subject")),
                or_all(&text(entry, "/instance")),
                text(variable, "/ttl"),
            ]);
        }
    }
    let head = ["VARIABLE", "VALUE", "ITEM", "SUBJECT", "INSTANCE", "ENDS"];
    let link = match text(set, "/state").as_str() {
        "waiting" => "not yet taken by the Unit\n".to_owned(),
        "delivered" => "taken by the Unit\n".to_owned(),
        "failed" => format!("not taken by the Unit: {}\n", text(set, "/error")),
        _ => String::new(),
    };
    let mut shown = format!("{}{link}", table(&head, &variables));
    let statuses: Vec<Vec<String>> = elements(&set["statuses"])
        .iter()
        .zip(rows(elements(&set["statuses"]), &["/name", "/instance", "/error"]))
        .map(|(status, mut row)| {
            row.insert(1, name_of(&status["item"], ""));
            row
        })
        .collect();
    if !statuses.is_empty() {
        shown = format!("{shown}\n{}", table(&["VARIABLE", "ITEM", "INSTANCE", "ERROR"], &statuses));
    }
    shown
}

fn name_of(identity: &Value, none: &str) -> String {
    let codename = text(identity, "/codename");
    let id = text(identity, "/id");
    [codename, id].into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| none.to_owned())
}

fn or_all(text: &str) -> String {
    if text.is_empty() { "all".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_per_name_and_scope() {
        let mut set = Vec::new();
        let (web, all) = (json!({ "item": "i" }), json!({}));
        override_one(&mut set, &web, "A", "1", None);
        override_one(&mut set, &web, "A", "2", Some("2026-01-01T00:00:00Z"));
        override_one(&mut set, &all, "A", "3", None);
        assert_eq!(set.len(), 2);
        let first = &set[0]["variables"];
        assert_eq!(first, &json!([{"name": "A", "value": "2", "ttl": "2026-01-01T00:00:00Z"}]));
        drop_names(&mut set[1], &["B".to_owned()]);
        assert_eq!(count(&set), 2);
        drop_names(&mut set[1], &[]);
        assert_eq!(count(&set), 1);
    }
}

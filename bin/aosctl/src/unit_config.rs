//! The configuration of a Unit's nodes.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::args::{UnitConfigCommand, Wait};
use crate::cloud::{Cloud, segment};
use crate::follow::Follow;
use crate::output::{Output, elements, rows, table, text};
use crate::renew::read;

pub async fn run(cloud: &Cloud, command: &UnitConfigCommand, out: &Output) -> Result<()> {
    match command {
        UnitConfigCommand::Show { unit } => {
            let shown = cloud.get(&path(unit)?).await?;
            out.show(&shown, describe)
        }
        UnitConfigCommand::Set { unit, file, wait, time } => {
            set(cloud, unit, file, wait.then_some(time), out).await
        }
    }
}

fn path(unit: &str) -> Result<String> {
    Ok(format!("units/{}/unit-config/", segment(unit)?))
}

async fn set(cloud: &Cloud, unit: &str, file: &Path, wait: Option<&Wait>, out: &Output) -> Result<()> {
    let document: Value = serde_json::from_str(&read(file)?)
        .with_context(|| format!("{} is no JSON document", file.display()))?;
    let path = path(unit)?;
    let answer = cloud.put(&path, &document).await.context("the configuration was not taken")?;
    let Some(wait) = wait else {
        return out.show(&answer, |answer| {
            format!("{}\nfollow it with: aosctl unit-config show {unit}", describe(answer))
        });
    };
    let again = format!("aosctl unit-config show {unit}");
    let follow = Follow { path, what: "the configuration", again, open: &["waiting"] };
    let document = follow.until_over(cloud, wait, out, |_| "not installed yet".to_owned()).await?;
    if text(&document, "/state") == "failed" {
        bail!("the Unit refuses version {}: {}", text(&document, "/version"), text(&document, "/error"));
    }
    out.show(&document, describe)
}

fn describe(shown: &Value) -> String {
    let wanted = text(shown, "/version");
    let wanted = if wanted.is_empty() {
        "no configuration is wanted".to_owned()
    } else {
        format!("version {wanted} is wanted: {}", text(shown, "/state"))
    };
    let reported = rows(elements(&shown["reported"]), &["/version", "/state", "/errorInfo/message"]);
    format!("{wanted}\n\n{}", table(&["REPORTED VERSION", "STATE", "ERROR"], &reported))
}

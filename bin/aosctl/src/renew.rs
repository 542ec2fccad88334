//! Renewal of a Unit's certificates on request of an operator.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::args::Renew;
use crate::cloud::{Cloud, segment};
use crate::follow::Follow;
use crate::output::{Output, elements, rows, table, text};

const LARGEST_FILE: u64 = 64 * 1024;

pub async fn renew(cloud: &Cloud, renew: &Renew, out: &Output) -> Result<()> {
    let unit = segment(&renew.unit)?;
    let id = if let Some(id) = &renew.request {
        id.clone()
    } else {
        let mut request = json!({});
        if !renew.types.is_empty() {
            request["types"] = json!(renew.types);
        }
        if !renew.node.is_empty() {
            request["nodes"] = json!(renew.node);
        }
        let secrets = secrets(renew)?;
        if !secrets.is_empty() {
            request["secrets"] = Value::Object(secrets);
        }
        let path = format!("units/{unit}/certificates/renew/");
        let made = cloud.post(&path, &request).await.context("the cloud did not start the renewal")?;
        text(&made, "/id")
    };
    let again = format!("aosctl unit renew {} --request {id} --wait", renew.unit);
    let path = format!("units/{unit}/renewals/{}/", segment(&id)?);
    if !renew.wait {
        let document = cloud.get(&path).await?;
        return out.show(&document, |document| format!("{}\nfollow it with: {again}", describe(document)));
    }
    let follow = Follow { path, what: "the renewal", again, open: &["waiting"] };
    let document = follow.until_over(cloud, &renew.time, out, progress).await?;
    out.show(&document, describe)?;
    if text(&document, "/state") == "failed" {
        let error = text(&document, "/error");
        let error = if error.is_empty() { "the table tells which".to_owned() } else { error };
        bail!("not all certificates were renewed: {error}; those keep working until they end");
    }
    Ok(())
}

/// A token for one recovery of a Unit. Printed alone, so that it can go into a file.
pub async fn recovery_token(cloud: &Cloud, unit: &str, out: &Output) -> Result<()> {
    let path = format!("units/{}/recovery-token/", segment(unit)?);
    let made = cloud.post(&path, &json!({})).await.context("the cloud made no token")?;
    out.show(&made, |made| text(made, "/token"))
}

/// How far each certificate is, such as `main/online issued`.
fn progress(document: &Value) -> String {
    let each = rows(elements(&document["certificates"]), &["/node", "/type", "/state"]);
    let each: Vec<String> = each
        .iter()
        .filter_map(|row| match row.as_slice() {
            [node, kind, state] => Some(format!("{node}/{kind} {state}")),
            _ => None,
        })
        .collect();
    each.join(", ")
}

fn secrets(renew: &Renew) -> Result<Map<String, Value>> {
    let mut secrets = Map::new();
    let mut add = |line: &str| {
        let Some((node, secret)) = line.split_once('=').filter(|(node, _)| !node.is_empty()) else {
            // The text may hold a password: it is not repeated.
            bail!("a secret must have the form NODE=PASSWORD");
        };
        secrets.insert(node.trim().to_owned(), json!(secret));
        Ok(())
    };
    if let Some(path) = &renew.secret_file {
        let text = read(path)?;
        text.lines().map(str::trim).filter(|line| !line.is_empty()).try_for_each(&mut add)?;
    }
    renew.secret.iter().try_for_each(|line| add(line))?;
    Ok(secrets)
}

/// A small text file.
pub fn read(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    let bytes = aos_durable::read_bounded(path, LARGEST_FILE).with_context(what)?;
    let bytes = bytes.with_context(|| format!("{} does not exist", path.display()))?;
    String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))
}

fn describe(document: &Value) -> String {
    let fields = ["/type", "/node", "/state", "/old_serial", "/new_serial", "/error"];
    let head = ["CERTIFICATE", "NODE", "STATE", "OLD SERIAL", "NEW SERIAL", "ERROR"];
    let list = rows(elements(&document["certificates"]), &fields);
    format!("renewal {} is {}\n\n{}", text(document, "/id"), text(document, "/state"), table(&head, &list))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, UnitCommand};

    #[test]
    fn passwords_come_from_arguments_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secrets");
        std::fs::write(&file, "main=a=b\n\nrear=c\n").unwrap();
        let file = file.display().to_string();
        let args = ["aosctl", "unit", "renew", "u", "--secret", "rear=d", "--secret-file", &file];
        let Command::Unit(UnitCommand::Renew(renew)) = Cli::parse_from(args).command else { panic!() };
        let found = secrets(&renew).unwrap();
        assert_eq!((&found["main"], &found["rear"]), (&json!("a=b"), &json!("d")));
    }
}

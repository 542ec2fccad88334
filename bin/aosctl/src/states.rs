//! States of instances as the cloud keeps them.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::{StateCommand, StateOf};
use crate::cloud::{Cloud, segment};
use crate::output::{Output, elements, table, text};

/// Largest state, bytes.
const LARGEST: u64 = 64 * 1024;

pub async fn run(cloud: &Cloud, command: &StateCommand, out: &Output) -> Result<()> {
    match command {
        StateCommand::List { unit } => {
            let states = cloud.list(&format!("units/{}/states/", segment(unit)?)).await?;
            out.show(&states, describe)
        }
        StateCommand::Get { of, file } => get(cloud, of, file.as_deref(), out).await,
        StateCommand::Set { of, file } => {
            let state = read(file)?;
            let answer = cloud.put_text(&path(of)?, state).await.context("the state was not taken")?;
            told(of, &answer, "is on its way to the Unit", out)
        }
        StateCommand::Reset { of } => {
            cloud.delete(&path(of)?).await.context("the state was not reset")?;
            told(of, &json!({ "item": of.item, "result": "reset" }), "is being reset to empty", out)
        }
    }
}

fn told(of: &StateOf, answer: &Value, what: &str, out: &Output) -> Result<()> {
    out.show(answer, |_| {
        format!(
            "the state of {}:{} {what}; see whether it took it with: aosctl state list {}",
            of.item, of.instance, of.unit
        )
    })
}

fn path(of: &StateOf) -> Result<String> {
    let (unit, item, subject) = (segment(&of.unit)?, segment(&of.item)?, segment(&of.subject)?);
    Ok(format!("units/{unit}/states/{item}/{subject}/{}/", of.instance))
}

async fn get(cloud: &Cloud, of: &StateOf, file: Option<&Path>, out: &Output) -> Result<()> {
    let document = cloud.get(&path(of)?).await?;
    if out.is_json() && file.is_none() {
        return out.show(&document, |_| String::new());
    }
    let state = document["state"].as_str().context("the cloud's answer holds no state")?;
    if let Some(path) = file {
        return std::fs::write(path, state).with_context(|| format!("cannot write {}", path.display()));
    }
    // As it is: a newline more would be another state.
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(state.as_bytes()).and_then(|()| stdout.flush()).context("cannot write the state")
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("cannot read the state from {}", path.display());
    let source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).with_context(what)?)
    };
    let mut bytes = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() as u64 > LARGEST {
        bail!("the state is larger than {LARGEST} bytes");
    }
    String::from_utf8(bytes).context("the state is not UTF-8 text, which the protocol demands")
}

fn describe(states: &Value) -> String {
    let lines: Vec<Vec<String>> = elements(states)
        .iter()
        .map(|state| {
            let codename = text(state, "/item/codename");
            let item = if codename.is_empty() { text(state, "/item/id") } else { codename };
            vec![
                format!("{item}:{}", text(state, "/instance")),
                text(state, "/status"),
                text(state, "/size"),
                text(state, "/origin"),
                text(state, "/updated_at"),
                text(state, "/checksum").chars().take(12).collect(),
                text(state, "/reason"),
            ]
        })
        .collect();
    table(&["INSTANCE", "STATUS", "BYTES", "FROM", "CHANGED", "CHECKSUM", "REASON"], &lines)
}

//! The cloud's gateway: moving all Units away before a stop.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::args::{CloudCommand, Switch};
use crate::cloud::{Cloud, segment};
use crate::output::{Output, text};

const PAUSE: Duration = Duration::from_secs(1);

pub async fn run(cloud: &Cloud, command: &CloudCommand, out: &Output) -> Result<()> {
    match command {
        CloudCommand::Status => out.show(&cloud.get("gateway/").await?, describe),
        CloudCommand::Resume => {
            cloud.delete("gateway/drain/").await.context("the gateway was not opened again")?;
            out.show(&cloud.get("gateway/").await?, describe)
        }
        CloudCommand::Drain { over, wait } => {
            let started = cloud.post("gateway/drain/", &json!({ "seconds": over })).await;
            let mut shown = started.context("the Units were not moved away")?;
            while *wait && shown["sessions"].as_u64().is_some_and(|sessions| sessions > 0) {
                out.progress(&format!("  {} Units are still connected", text(&shown, "/sessions")));
                tokio::time::sleep(PAUSE).await;
                shown = cloud.get("gateway/").await?;
            }
            out.show(&shown, describe)
        }
    }
}

pub async fn seal(cloud: &Cloud, unit: &str, switch: Switch, out: &Output) -> Result<()> {
    let path = format!("units/{}/sealed-messages/", segment(unit)?);
    let answer = cloud.put(&path, &json!({ "sealed": switch == Switch::On })).await;
    let answer = answer.context("the switch was not set")?;
    out.show(&answer, |answer| {
        let how =
            if answer["sealed"] == true { "sealed for its offline key" } else { "in the clear inside TLS" };
        format!("messages with secrets go to {unit} {how}")
    })
}

fn describe(gateway: &Value) -> String {
    let sessions = text(gateway, "/sessions");
    if gateway["draining"] == true {
        format!(
            "{sessions} Units connected; they are being moved away, let them back with: aosctl cloud resume"
        )
    } else {
        format!("{sessions} Units connected")
    }
}

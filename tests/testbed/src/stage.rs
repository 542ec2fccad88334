//! A whole system: cloud, operator and one Unit, and the questions that demo, tests and benchmarks ask it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::site::Site;
use crate::unit::{Daemon, Unit};
use crate::wait::wait_for_or_last;

/// How long each step of bringing a system up may take.
pub const STEP_LIMIT: Duration = Duration::from_mins(1);

/// A cloud with one Unit. Field order is the order of the end.
#[derive(Debug)]
pub struct Stage {
    /// The Unit.
    pub unit: Unit,
    /// The cloud.
    pub cloud: Cloud,
    /// Who drives both.
    pub operator: Operator,
    /// What they live in.
    pub site: Arc<Site>,
}

/// The state of an instance as the cloud knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// Codename, or ID, of the item.
    pub item: String,
    /// Version that runs.
    pub version: String,
    /// State word.
    pub state: String,
    /// Error message; empty when there is none.
    pub error: String,
}

impl Stage {
    /// A provisioned Unit, its daemons running, online; `told` hears of every step as it begins.
    pub fn online(site: Site, system_id: &str, told: impl FnMut(&str)) -> Result<Self> {
        let mut told = told;
        let mut stage = Self::provisioned(Arc::new(site), system_id, &mut told)?;
        told("starting IAM, CM and SM");
        stage.unit.start_all()?;
        stage.wait_online(STEP_LIMIT)?;
        Ok(stage)
    }

    /// A provisioned Unit whose daemons do not run yet.
    pub fn provisioned(site: Arc<Site>, system_id: &str, told: &mut impl FnMut(&str)) -> Result<Self> {
        told("starting the cloud");
        let cloud = Cloud::start(&site)?;
        Self::provisioned_in(site, cloud, system_id, told)
    }

    /// The same with a cloud that runs already.
    pub fn provisioned_in(
        site: Arc<Site>,
        cloud: Cloud,
        system_id: &str,
        told: &mut impl FnMut(&str),
    ) -> Result<Self> {
        told("creating the first users");
        let operator = Operator::enrol(&site, &cloud)?;
        told("starting a Unit without identity");
        let mut unit = Unit::new(&site, &cloud, system_id)?;
        unit.start_provisioning()?;
        told("provisioning it: keys in its token, certificates from the cloud");
        let address = unit.provisioning_address().to_string();
        let wait = (20 * crate::wait::patience()).to_string();
        let provisioned =
            operator.run(&["unit", "provision", "--unit", &address, "--nodes", "1", "--wait", &wait]);
        if let Err(error) = provisioned {
            // A Unit whose IAM has ended explains more than the tool that misses it.
            unit.check_running()?;
            return Err(error);
        }
        unit.stop(Daemon::Iam)?;
        Ok(Self { unit, cloud, operator, site })
    }

    /// The Unit's status document in the cloud.
    pub fn status(&self) -> Result<Value> {
        self.operator.unit_status(self.unit.system_id())
    }

    /// Waits until the cloud has the Unit's full status.
    pub fn wait_online(&mut self, limit: Duration) -> Result<Value> {
        self.wait_status("the Unit to be online", limit, |status| {
            match word(status, "online_status").as_str() {
                "Online" => Ok(()),
                other => Err(format!("the Unit is '{other}'")),
            }
        })
    }

    /// Waits until all instances of `item` run in version `version` and nothing else of it is there.
    pub fn wait_active(&mut self, item: &str, version: &str, limit: Duration) -> Result<Value> {
        self.wait_status(&format!("{item} {version} to be active"), limit, |status| {
            let found: Vec<InstanceFacts> =
                instances(status).into_iter().filter(|one| one.item == item).collect();
            let good = |one: &InstanceFacts| one.state == "active" && one.version == version;
            if !found.is_empty() && found.iter().all(good) { Ok(()) } else { Err(format!("{found:?}")) }
        })
    }

    /// Follows the Unit's status until `condition` holds; also ends when one of the Unit's daemons does.
    pub fn wait_status(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> std::result::Result<(), String>,
    ) -> Result<Value> {
        let start = Instant::now();
        let mut revision = None;
        wait_for_or_last(what, limit, || {
            if let Err(error) = self.unit.check_running() {
                return Ok(Err(error));
            }
            let status = match revision {
                Some(revision) if start.elapsed() < limit => {
                    self.operator.unit_status_after(self.unit.system_id(), revision, 1)
                }
                _ => self.status(),
            };
            // A cloud that is being restarted answers again soon.
            let status = status.map_err(|error| crate::chain(&error))?;
            revision = status.get("revision").and_then(Value::as_u64);
            condition(&status).map(|()| Ok(status))
        })?
    }

    /// How often the cloud was asked for a blob, and how many bytes it gave.
    pub fn served(&self, digest: &str) -> Result<(u64, u64)> {
        let document = self.operator.get(&format!("blobs/{digest}/served/"))?;
        let number = |key: &str| {
            let value = document.get(key).and_then(Value::as_u64);
            value.ok_or_else(|| Error::Unexpected(format!("no '{key}' in {document}")))
        };
        Ok((number("requests")?, number("bytes")?))
    }

    /// Process number of the service's first process, as the Service Manager knows it.
    pub fn service_pid(&self) -> Option<i64> {
        self.unit.instances().first()?.get("pid")?.as_i64()
    }

    /// How often the Service Manager has started the only instance.
    pub fn service_starts(&self) -> Option<u64> {
        self.unit.instances().first()?.get("starts")?.as_u64()
    }
}

/// The instances of a status document.
pub fn instances(status: &Value) -> Vec<InstanceFacts> {
    let list = status.get("instances").and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter()
        .map(|one| {
            let codename = one.pointer("/item/codename").or_else(|| one.pointer("/item/id"));
            InstanceFacts {
                item: codename.and_then(Value::as_str).unwrap_or_default().to_owned(),
                version: word(one, "version"),
                state: word(one, "state"),
                error: one.pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// A text field; empty when it is not there.
pub fn word(document: &Value, key: &str) -> String {
    document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Milliseconds from the moment the cloud sent the present desired status until now.
pub fn since_desired_sent(status: &Value) -> Option<i64> {
    let sent: jiff::Timestamp = status.pointer("/desired/sent_at")?.as_str()?.parse().ok()?;
    Some(jiff::Timestamp::now().as_millisecond() - sent.as_millisecond())
}

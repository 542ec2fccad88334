//! Owner passwords of the nodes' tokens: kept sealed, needed again for renewals and provisioning.

use std::collections::BTreeMap;

use aos_cloud_store::{Unit, Work};
use serde_json::{Map, Value, json};

use crate::error::FlowError;
use crate::flows::Flows;

/// As used at registration.
const UNIT_SECRETS: &str = "unit secrets";
const TASK_PASSWORD: &str = "password of a node task";

impl Flows {
    /// The passwords known for a Unit, by node.
    pub(crate) fn passwords(
        &self,
        work: &Work<'_>,
        unit: &Unit,
    ) -> Result<BTreeMap<String, String>, FlowError> {
        let document = self.unit_secrets(work, unit)?;
        let nodes = document.get("nodes").and_then(Value::as_object);
        let text = |(node, secret): (&String, &Value)| Some((node.clone(), secret.as_str()?.to_owned()));
        Ok(nodes.into_iter().flatten().filter_map(text).collect())
    }

    /// Keeps the password of a node for later.
    pub(crate) fn keep_password(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        node: &str,
        password: &str,
    ) -> Result<(), FlowError> {
        let mut document = self.unit_secrets(work, unit)?;
        let nodes = document.entry("nodes").or_insert_with(|| json!({}));
        if let Some(nodes) = nodes.as_object_mut() {
            nodes.insert(node.to_owned(), json!(password));
        }
        let text = Value::Object(document).to_string();
        let sealed = self.inner.pki.vault().seal(UNIT_SECRETS, text.as_bytes()).map_err(FlowError::Pki)?;
        Ok(work.set_sealed_secrets(&unit.id, &sealed)?)
    }

    fn unit_secrets(&self, work: &Work<'_>, unit: &Unit) -> Result<Map<String, Value>, FlowError> {
        let Some(sealed) = work.sealed_secrets(&unit.id)? else { return Ok(Map::new()) };
        let text = self.inner.pki.vault().open(UNIT_SECRETS, &sealed).map_err(FlowError::Pki)?;
        serde_json::from_slice(&text).map_err(FlowError::document("set of node passwords"))
    }

    pub(crate) fn seal_password(&self, password: &str) -> Result<Vec<u8>, FlowError> {
        self.inner.pki.vault().seal(TASK_PASSWORD, password.as_bytes()).map_err(FlowError::Pki)
    }

    pub(crate) fn open_password(&self, sealed: &[u8]) -> Result<String, FlowError> {
        let text = self.inner.pki.vault().open(TASK_PASSWORD, sealed).map_err(FlowError::Pki)?;
        String::from_utf8(text).map_err(|_| FlowError::Value("password of a node task"))
    }
}

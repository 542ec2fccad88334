//! The messages of a Vehicle Information Service, as far as we use them; pure.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;
use crate::identhandler::{MAX_ID, check_subjects, unit_model};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// The system ID.
    SystemId,
    /// Unit model and version.
    UnitModel,
    /// The subjects.
    Subjects,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SystemId, Self::UnitModel, Self::Subjects];

    /// Its attribute.
    pub const fn path(self) -> &'static str {
        match self {
            Self::SystemId => "Attribute.Vehicle.VehicleIdentification.VIN",
            Self::UnitModel => "Attribute.Aos.UnitModel",
            Self::Subjects => "Attribute.Aos.Subjects",
        }
    }
}

/// A value found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The system ID.
    SystemId(String),
    /// Model and version.
    UnitModel(String, String),
    /// The subjects.
    Subjects(Vec<String>),
}

/// What the service said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Said {
    /// `get`, `subscribe`, or `subscription` for a notification.
    pub action: String,
    /// The request that this answers.
    pub request_id: String,
    /// The subscription that this is about.
    pub subscription_id: Value,
    /// The value, plain or keyed by its path.
    pub value: Value,
    error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    number: i64,
    reason: String,
    message: String,
}

impl Said {
    /// The error in an answer.
    pub fn refusal(&self) -> Option<Error> {
        let Refusal { number, reason, message } = self.error.as_ref()?;
        Some(Error::Failed(format!("the Vehicle Information Service refused: {number} {reason} {message}")))
    }

    /// The subscription's number as text; services write it as text or as a number.
    pub fn subscription(&self) -> Option<String> {
        match &self.subscription_id {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A request as text.
pub fn request(action: &str, id: &str, path: &str) -> String {
    json!({"action": action, "requestId": id, "path": path}).to_string()
}

/// The value of `topic` in an answer to `get`.
pub fn answered(topic: Topic, said: &Said) -> Result<Found, Error> {
    if let Some(refusal) = said.refusal() {
        return Err(refusal);
    }
    if said.action != "get" {
        return Err(Error::Failed(format!(
            "the Vehicle Information Service answered '{}' to 'get'",
            said.action.chars().take(40).collect::<String>()
        )));
    }
    read(topic, &said.value)
}

/// The value of `topic`, plain or in an object under its path.
pub fn read(topic: Topic, value: &Value) -> Result<Found, Error> {
    let value = value.get(topic.path()).unwrap_or(value);
    let wrong = |what: &str| Error::Failed(format!("the Vehicle Information Service has no {what}"));
    match topic {
        Topic::SystemId => match value.as_str().map(str::trim) {
            Some(id) if !id.is_empty() && id.len() <= MAX_ID => Ok(Found::SystemId(id.to_owned())),
            _ => Err(wrong("system ID of 1 to 64 bytes")),
        },
        Topic::UnitModel => {
            let text = value.as_str().ok_or_else(|| wrong("unit model"))?;
            let (model, version) = unit_model(text).map_err(|reason| {
                Error::Failed(format!("unit model of the Vehicle Information Service: {reason}"))
            })?;
            Ok(Found::UnitModel(model, version))
        }
        Topic::Subjects => {
            let list = value.as_array().ok_or_else(|| wrong("list of subjects"))?;
            let text = |subject: &Value| match subject {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let subjects: Vec<String> = list.iter().map(text).collect();
            check_subjects(&subjects)?;
            Ok(Found::Subjects(subjects))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // IAM 26.17
    #[test]
    fn values_may_be_plain_or_keyed() {
        let keyed = |topic: Topic, value: Value| json!({ topic.path(): value });
        for (topic, value, found) in [
            (Topic::SystemId, json!("VIN1"), Found::SystemId("VIN1".into())),
            (Topic::UnitModel, json!("m;1.0"), Found::UnitModel("m".into(), "1.0".into())),
            (
                Topic::Subjects,
                json!(["a", 7, true]),
                Found::Subjects(vec!["a".into(), "7".into(), "true".into()]),
            ),
        ] {
            assert_eq!(read(topic, &value).unwrap(), found);
            assert_eq!(read(topic, &keyed(topic, value)).unwrap(), found);
        }
    }

    // IAM 26.17
    #[test]
    fn what_is_no_answer_fails() {
        let said = |text: Value| serde_json::from_value::<Said>(text).unwrap();
        let failed = |topic, text| {
            let error = answered(topic, &said(text)).unwrap_err();
            assert_eq!(error.code(), aos_status::AosCode::Failed, "{error}");
        };
        failed(Topic::SystemId, json!({"action": "set", "value": "VIN"}));
        failed(Topic::SystemId, json!({"action": "get", "value": ""}));
        failed(Topic::SystemId, json!({"action": "get"}));
        failed(Topic::UnitModel, json!({"action": "get", "value": "model"}));
        failed(Topic::UnitModel, json!({"action": "get", "value": "a;b;c"}));
        failed(Topic::Subjects, json!({"action": "get", "value": "subject"}));
        failed(Topic::SystemId, json!({"action": "get", "value": "x", "error": {"number": 404}}));
        let many = answered(Topic::Subjects, &said(json!({"action": "get", "value": vec!["s"; 65]})));
        assert_eq!(many.unwrap_err().code(), aos_status::AosCode::NoMemory);
    }

    #[test]
    fn subscriptions_are_text_or_number() {
        let said = |value: Value| Said { subscription_id: value, ..Said::default() };
        assert_eq!(said(json!("12")).subscription().as_deref(), Some("12"));
        assert_eq!(said(json!(12)).subscription().as_deref(), Some("12"));
        assert_eq!(said(json!(null)).subscription(), None);
    }
}

//! `overrideEnvVars` and `overrideEnvVarsStatus`.

use aos_status::ErrorInfo;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::AosIdentity;
use crate::encoded::{error_info, no_error};

/// Longest name of a variable, characters.
pub const MAX_VARIABLE_NAME: usize = 256;
/// Longest value of a variable, characters.
pub const MAX_VARIABLE_VALUE: usize = 10_240;

/// The complete set of overrides; it replaces the one before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverrideEnvVars {
    /// Overrides; a later one wins over an earlier one.
    pub items: Vec<EnvVarsFilter>,
}

/// Variables for the instances that match; an absent member matches all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarsFilter {
    /// Item, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<AosIdentity>,
    /// Subject, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<AosIdentity>,
    /// Number of the instance, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// The variables.
    pub variables: Vec<EnvVar>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name, 1 to 256 characters.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Value, 0 to 10240 characters.
    #[serde(deserialize_with = "value")]
    pub value: String,
    /// End of the override; absent, empty or 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub ttl: Option<Timestamp>,
}

/// What became of the overrides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverrideEnvVarsStatus {
    /// One entry per instance and variable.
    pub statuses: Vec<EnvVarStatus>,
}

/// What became of one variable of one instance. Written with both `subject` and `subjectId`, read with
/// either: peers disagree on the name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarStatus {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Name of the variable.
    pub name: String,
    /// Why it failed.
    #[serde(default, deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

impl Serialize for EnvVarStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            item: &'a AosIdentity,
            subject: &'a AosIdentity,
            subject_id: &'a AosIdentity,
            instance: u64,
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_info: Option<&'a ErrorInfo>,
        }
        let Self { item, subject, instance, name, error_info } = self;
        let error_info = if no_error(error_info) { None } else { error_info.as_ref() };
        Written { item, subject, subject_id: subject, instance: *instance, name, error_info }
            .serialize(serializer)
    }
}

fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    crate::encoded::text_within(deserializer, 1, MAX_VARIABLE_NAME)
}

fn value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    crate::encoded::text_within(deserializer, 0, MAX_VARIABLE_VALUE)
}

//! The Unit's identity: system ID, model and version, subjects. Main node only.
//!
//! The plugin named in the configuration says where they come from. Known is `fileidentifier`; its
//! files are read once at start.

use std::fs;
use std::path::Path;

use crate::Error;
use crate::config::{Checked, IdentifierParams};

#[cfg(test)]
mod tests;

const MAX_ID: usize = 64;
const MAX_MODEL: usize = 40;
const MAX_VERSION: usize = 32;
const MAX_SUBJECTS: usize = 64;

/// The Unit's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// System ID, at most 64 bytes.
    pub system_id: String,
    /// Unit model, at most 40 bytes.
    pub unit_model: String,
    /// Version of the unit model, at most 32 bytes.
    pub version: String,
    /// Subjects of the Unit, at most 64.
    pub subjects: Vec<String>,
}

/// Loads the identity with the configured plugin; `None` where none is configured.
pub fn open(config: &Checked) -> Result<Option<Identity>, Error> {
    let identifier = config.raw.identifier.clone().unwrap_or_default();
    let identity = match identifier.plugin.as_str() {
        "fileidentifier" => Some(from_files(&identifier.params)?),
        "" | "none" => None,
        "visidentifier" => {
            return Err(Error::NotSupported("identifier plugin 'visidentifier' is not supported yet".into()));
        }
        other => return Err(Error::InvalidArgument(format!("identifier plugin '{other}' is unknown"))),
    };
    if identity.is_none() && config.node.is_main() {
        return Err(Error::InvalidArgument(
            "a main node needs an 'identifier' with plugin 'fileidentifier' in its configuration".into(),
        ));
    }
    Ok(identity)
}

fn from_files(params: &IdentifierParams) -> Result<Identity, Error> {
    let system_id = read("read the system ID from", &params.system_id_path)?.trim().to_owned();
    if system_id.is_empty() || system_id.len() > MAX_ID {
        return Err(Error::Failed(format!(
            "{} has no system ID of 1 to {MAX_ID} bytes",
            params.system_id_path.display()
        )));
    }
    let text = read("read the unit model from", &params.unit_model_path)?;
    let (unit_model, version) = unit_model(&text)
        .map_err(|reason| Error::Failed(format!("{}: {reason}", params.unit_model_path.display())))?;
    let subjects = read("read the subjects from", &params.subjects_path)
        .and_then(|text| subjects(&text))
        .unwrap_or_else(|error| {
            tracing::warn!("going on without subjects: {}", crate::error::chain(&error));
            Vec::new()
        });
    Ok(Identity { system_id, unit_model, version, subjects })
}

fn read(doing: &'static str, path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { doing, path: path.to_owned(), source })
}

/// Why a text is no unit model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ModelError {
    #[error("'model;version' expected")]
    Form,
    #[error("model longer than {MAX_MODEL} or version longer than {MAX_VERSION} bytes")]
    TooLong,
}

fn unit_model(text: &str) -> Result<(String, String), ModelError> {
    let text = text.trim();
    let mut parts = text.strip_suffix(';').filter(|rest| rest.contains(';')).unwrap_or(text).split(';');
    let (Some(model), Some(version), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(ModelError::Form);
    };
    let (model, version) = (model.trim(), version.trim());
    if model.len() > MAX_MODEL || version.len() > MAX_VERSION {
        return Err(ModelError::TooLong);
    }
    Ok((model.to_owned(), version.to_owned()))
}

fn subjects(text: &str) -> Result<Vec<String>, Error> {
    let subjects: Vec<String> = text.lines().map(str::to_owned).collect();
    if subjects.len() > MAX_SUBJECTS || subjects.iter().any(|subject| subject.len() > MAX_ID) {
        return Err(Error::TooMany(format!(
            "more than {MAX_SUBJECTS} subjects, or one longer than {MAX_ID} bytes"
        )));
    }
    Ok(subjects)
}

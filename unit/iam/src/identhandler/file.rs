//! The file identifier: three files, read once.

use std::fs;
use std::path::Path;

use super::{Identity, MAX_ID, SystemInfo, check_subjects, unit_model};
use crate::Error;
use crate::config::IdentifierParams;

pub(super) fn read_all(params: &IdentifierParams) -> Result<Identity, Error> {
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
            tracing::warn!("going on without subjects: {}", aos_logging::with_causes(&error));
            Vec::new()
        });
    Ok(Identity { system: SystemInfo { system_id, unit_model, version }, subjects })
}

fn read(doing: &'static str, path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { doing, path: path.to_owned(), source })
}

fn subjects(text: &str) -> Result<Vec<String>, Error> {
    let subjects: Vec<String> = text.lines().map(str::to_owned).collect();
    check_subjects(&subjects)?;
    Ok(subjects)
}

//! The Unit's identity: system ID, model and version, subjects. Main node only.
//!
//! The plugin named in the configuration says where they come from: `fileidentifier` reads files once at
//! start, `visidentifier` asks a Vehicle Information Service whenever something is wanted for the first time
//! and follows the subjects.

use std::sync::Arc;

use aos_supervise::TaskTree;
use tokio::sync::watch;

use crate::Error;
use crate::config::Checked;

mod file;
#[cfg(test)]
mod tests;
#[cfg(feature = "vis")]
mod vis;

const MAX_ID: usize = 64;
const MAX_MODEL: usize = 40;
const MAX_VERSION: usize = 32;
const MAX_SUBJECTS: usize = 64;

/// The newest subjects.
pub type Changes = Arc<[String]>;

/// What the Unit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    /// System ID, at most 64 bytes.
    pub system_id: String,
    /// Unit model, at most 40 bytes.
    pub unit_model: String,
    /// Version of the unit model, at most 32 bytes.
    pub version: String,
}

/// The Unit's identity as files tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    system: SystemInfo,
    /// Subjects of the Unit, at most 64.
    subjects: Vec<String>,
}

/// The way to the Unit's identity.
#[derive(Debug, Clone)]
pub struct IdentHandler {
    source: Source,
    /// Never marked as seen, so that it tells whether anything changed since the start.
    changes: watch::Receiver<Changes>,
}

#[derive(Debug, Clone)]
enum Source {
    Files(Arc<Identity>),
    #[cfg(feature = "vis")]
    Vis(vis::Vis),
}

#[cfg_attr(
    not(feature = "vis"),
    allow(
        clippy::unused_async,
        clippy::unnecessary_wraps,
        reason = "only remote sources wait or do not know"
    )
)]
impl IdentHandler {
    /// System ID and model. With a remote source this waits for it, within its time-out.
    pub async fn system(&self) -> Result<SystemInfo, Error> {
        match &self.source {
            Source::Files(identity) => Ok(identity.system.clone()),
            #[cfg(feature = "vis")]
            Source::Vis(vis) => {
                let (id, model) = tokio::join!(vis.get(vis::Topic::SystemId), vis.get(vis::Topic::UnitModel));
                match (id?, model?) {
                    (vis::Found::SystemId(system_id), vis::Found::UnitModel(unit_model, version)) => {
                        Ok(SystemInfo { system_id, unit_model, version })
                    }
                    _ => Err(mixed_up()),
                }
            }
        }
    }

    /// The system ID, if it is known without asking.
    pub fn known_system_id(&self) -> Option<String> {
        match &self.source {
            Source::Files(identity) => Some(identity.system.system_id.clone()),
            #[cfg(feature = "vis")]
            Source::Vis(vis) => vis.known_system_id(),
        }
    }

    /// The subjects. With a remote source this waits for it, within its time-out.
    pub async fn subjects(&self) -> Result<Vec<String>, Error> {
        match &self.source {
            Source::Files(identity) => Ok(identity.subjects.clone()),
            #[cfg(feature = "vis")]
            Source::Vis(vis) => match vis.get(vis::Topic::Subjects).await? {
                vis::Found::Subjects(subjects) => Ok(subjects),
                _ => Err(mixed_up()),
            },
        }
    }

    /// Changes of the subjects since the start.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }
}

/// Opens the configured plugin; `None` where none is configured. A remote source gets its task in `tree` and
/// is not waited for.
#[cfg_attr(not(feature = "vis"), allow(unused_variables, reason = "only remote sources have a task"))]
pub fn open(config: &Checked, tree: &mut TaskTree) -> Result<Option<IdentHandler>, Error> {
    let identifier = config.raw.identifier.clone().unwrap_or_default();
    let handler = match identifier.plugin.as_str() {
        "fileidentifier" => {
            let identity = file::read_all(&identifier.params)?;
            let (_, changes) = watch::channel(Changes::from(identity.subjects.clone()));
            Some(IdentHandler { source: Source::Files(Arc::new(identity)), changes })
        }
        "" | "none" => None,
        #[cfg(feature = "vis")]
        "visidentifier" => {
            let (vis, changes, task) = vis::open(&identifier.params)?;
            tree.spawn("vehicle information", |stop| task.run(stop));
            Some(IdentHandler { source: Source::Vis(vis), changes })
        }
        #[cfg(not(feature = "vis"))]
        "visidentifier" => {
            let reason = "identifier plugin 'visidentifier' is not part of a build for secondary nodes";
            return Err(Error::NotSupported(reason.into()));
        }
        other => return Err(Error::InvalidArgument(format!("identifier plugin '{other}' is unknown"))),
    };
    if handler.is_none() && config.node.is_main() {
        return Err(Error::InvalidArgument(
            "a main node needs an 'identifier' with plugin 'fileidentifier' or 'visidentifier' in its \
             configuration"
                .into(),
        ));
    }
    Ok(handler)
}

#[cfg(feature = "vis")]
fn mixed_up() -> Error {
    Error::Failed("the Vehicle Information Service answered something else".into())
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

fn check_subjects(subjects: &[String]) -> Result<(), Error> {
    if subjects.len() > MAX_SUBJECTS || subjects.iter().any(|subject| subject.len() > MAX_ID) {
        return Err(Error::TooMany(format!(
            "more than {MAX_SUBJECTS} subjects, or one longer than {MAX_ID} bytes"
        )));
    }
    Ok(())
}

//! When a Unit configuration is sent, and which version may follow which.
//!
//! A Unit refuses a version that is not higher than the installed one, so a configuration is part of the
//! desired status only until the Unit reports it installed.

use aos_cloud_protocol::{ConfigState, UnitConfig, UnitConfigStatus};
use aos_ids::Version;

/// Why a configuration is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitConfigRefusal {
    /// Its version is no semantic version.
    #[error("'{0}' is no semantic version")]
    Version(String),
    /// The Unit has a version that is as high.
    #[error("version {new} is not higher than {present}, which is {place}")]
    NotHigher {
        /// The new version.
        new: String,
        /// The one it must exceed.
        present: String,
        /// Where that one is.
        place: &'static str,
    },
}

/// The version that the Unit has installed, as far as it told.
pub fn installed_config(reported: &[UnitConfigStatus]) -> Option<&str> {
    let installed = reported.iter().filter(|one| one.state == ConfigState::Installed);
    installed.filter_map(|one| one.version.as_deref()).find(|version| !version.is_empty())
}

/// Checks that `new` may follow what the Unit has installed and what was set before.
pub fn check_config(
    new: &str,
    installed: Option<&str>,
    set_before: Option<&str>,
) -> Result<(), UnitConfigRefusal> {
    let version = parse(new)?;
    for (present, place) in [(installed, "installed"), (set_before, "set already")] {
        let Some(present) = present else { continue };
        if parse(present).is_ok_and(|present| version <= present) {
            let (new, present) = (new.to_owned(), present.to_owned());
            return Err(UnitConfigRefusal::NotHigher { new, present, place });
        }
    }
    Ok(())
}

/// The configuration to send, if any: the one set last, until the Unit reports it or a higher one installed.
pub fn wanted_config(set: Option<UnitConfig>, reported: &[UnitConfigStatus]) -> Option<UnitConfig> {
    let installed = installed_config(reported);
    set.filter(|config| check_config(&config.version, installed, None).is_ok())
}

fn parse(version: &str) -> Result<Version, UnitConfigRefusal> {
    Version::parse(version).map_err(|_| UnitConfigRefusal::Version(version.chars().take(40).collect()))
}

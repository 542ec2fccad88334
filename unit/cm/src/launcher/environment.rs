//! Overridden variables of instances: what each should have, and whether its node has been told.
//!
//! A node restarts an instance whose environment is another than before, so it is enough to send it what it
//! should run. Which nodes still have to be told is kept with the records, so no restart of either side
//! loses a change.

use aos_ids::{InstanceIdent, ItemKind};

use super::core::{Command, Launcher};
use super::records::{Change, Standing};

impl Launcher {
    /// Gives every active service instance the environment that `of` says. Returns the records that changed.
    pub fn set_environments(&mut self, of: impl Fn(&InstanceIdent) -> Vec<(String, String)>) -> Vec<Change> {
        let mut changes = Vec::new();
        let taking = self
            .records
            .iter_mut()
            .filter(|(key, record)| record.standing == Standing::Active && key.0.kind == ItemKind::Service);
        for (key, record) in taking {
            let environment = of(&key.0);
            if record.environment != environment {
                (record.environment, record.environment_untold) = (environment, true);
                changes.push((key.clone(), Some(record.clone())));
            }
        }
        changes
    }

    /// A node has carried out `command`. Returns the records that changed.
    pub fn environments_told(&mut self, command: &Command) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, told) in &command.start {
            let Some(record) = self.records.get_mut(key) else { continue };
            if record.environment_untold && record.environment == told.environment && record.node == told.node
            {
                record.environment_untold = false;
                changes.push((key.clone(), Some(record.clone())));
            }
        }
        changes
    }
}

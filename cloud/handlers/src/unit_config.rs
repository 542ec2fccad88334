//! Unit configurations that operators set; they travel with the desired status.

use aos_cloud_fleet::{check_config, installed_config};
use aos_cloud_protocol::{Body, DesiredStatus, UnitConfig, limits};

use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::status::unit_state;

impl Flows {
    /// Sets the configuration of a Unit. Its version must be higher than the one installed and the one set
    /// before; the same document again is no change.
    pub async fn set_unit_config(&self, unit_id: &str, config: UnitConfig) -> Result<(), FlowError> {
        let document = serde_json::to_string(&config).map_err(FlowError::document("Unit configuration"))?;
        let wanted = DesiredStatus { unit_config: Some(config.clone()), ..DesiredStatus::default() };
        limits::check_for_unit(None, &Body::DesiredStatus(wanted))?;
        let unit_id = unit_id.to_owned();
        self.store
            .transact(move |work| {
                let unit = served(work, &unit_id)?;
                let before = work.unit_config(&unit.id)?;
                if before.as_ref().is_some_and(|row| row.document == document) {
                    return Ok(());
                }
                let state = unit_state(work, &unit.id)?;
                let installed = installed_config(state.config_statuses());
                check_config(&config.version, installed, before.as_ref().map(|row| row.version.as_str()))
                    .map_err(|refusal| FlowError::conflict(refusal.to_string()))?;
                Ok(work.set_unit_config(&unit.id, &config.version, &document)?)
            })
            .await
    }
}

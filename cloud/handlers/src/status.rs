//! `unitStatus`, `alerts` and `monitoringData`.

use aos_cloud_fleet::{Merged, UnitState, wanted_config};
use aos_cloud_protocol::{Alerts, MonitoringData, UnitConfig, UnitStatus};
use aos_cloud_store::{Received, Work};

use crate::error::FlowError;
use crate::flows::Flows;
use crate::handlers::Message;

/// Largest picture of a Unit, bytes as it is stored. It is read and written as a whole with each change, on
/// the thread that all Units share. 4096 items and as many instances of ordinary names fit in.
const MAX_PICTURE: usize = 4 * 1024 * 1024;

impl Flows {
    /// Merges a status into what is known.
    pub(crate) async fn take_status(&self, message: Message<UnitStatus>) -> Result<Received<()>, FlowError> {
        let Message { unit_id, session, created_at, receipt, body, .. } = message;
        self.store
            .receive(receipt, move |work| {
                let mut state = unit_state(work, &unit_id)?;
                let wanted = config_on_its_way(work, &unit_id, &state)?;
                if state.merge(body, created_at, session) == Merged::Stale {
                    return Ok(());
                }
                let text = serde_json::to_string(&state).map_err(FlowError::document("status"))?;
                if text.len() > MAX_PICTURE {
                    let reason =
                        format!("with it the Unit would take {} bytes, {MAX_PICTURE} at most", text.len());
                    tracing::warn!(unit_id, "a status has no effect: {reason}");
                    return Ok(work.note_invalid(&unit_id, "unitStatus", &reason)?);
                }
                work.put_status(&unit_id, &text, state.is_known_in(session).then_some(session))?;
                if wanted && !config_on_its_way(work, &unit_id, &state)? {
                    // It is installed: sent again, the Unit would refuse it as too old.
                    work.retarget(&unit_id)?;
                }
                Ok(())
            })
            .await
    }

    /// Keeps alerts for operators.
    pub(crate) async fn take_alerts(&self, message: Message<Alerts>) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, body: Alerts { items, refused }, .. } = message;
        let mut texts = Vec::with_capacity(items.len());
        for alert in items {
            let text = serde_json::to_string(&alert).map_err(FlowError::document("alert"))?;
            tracing::debug!(unit_id, "alert {text}");
            texts.push(text);
        }
        self.store
            .receive(receipt, move |work| {
                work.add_events(&unit_id, "alerts", &texts)?;
                Ok(work.note_all_invalid(&unit_id, "alerts", &refused)?)
            })
            .await
    }

    /// Keeps monitoring data for operators.
    pub(crate) async fn take_monitoring(
        &self,
        message: Message<MonitoringData>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, body, .. } = message;
        let text = serde_json::to_string(&body).map_err(FlowError::document("monitoring data"))?;
        self.store.receive(receipt, move |work| Ok(work.add_events(&unit_id, "monitoring", &[text])?)).await
    }
}

/// What is known of a Unit. A state that cannot be read is worth less than the reports to come.
pub(crate) fn unit_state(work: &Work<'_>, unit_id: &str) -> Result<UnitState, FlowError> {
    let Some(row) = work.status(unit_id)? else { return Ok(UnitState::default()) };
    Ok(serde_json::from_str(&row.merged).unwrap_or_else(|error| {
        tracing::error!("the stored status of a Unit is damaged and starts anew: {error}");
        UnitState::default()
    }))
}

/// True while a configuration is wanted that the Unit has not reported installed.
fn config_on_its_way(work: &Work<'_>, unit_id: &str, state: &UnitState) -> Result<bool, FlowError> {
    let Some(row) = work.unit_config(unit_id)? else { return Ok(false) };
    let config = UnitConfig { version: row.version, ..UnitConfig::default() };
    Ok(wanted_config(Some(config), state.config_statuses()).is_some())
}

//! Overridden environment variables: `overrideEnvVars` and `overrideEnvVarsStatus`.

use aos_cloud_protocol::{
    AosIdentity, Body, EnvVarStatus, EnvVarsFilter, MAX_VARIABLE_NAME, OverrideEnvVars, OverrideEnvVarsStatus,
};
use aos_cloud_store::{EnvOverrides, EnvStatus, Received, brief, now_micros};
use uuid::Uuid;

use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::handlers::Message;
use crate::states::MAX_ID;

impl Flows {
    /// Replaces the overrides of a Unit; an empty list ends all of them.
    pub async fn set_env_overrides(
        &self,
        unit_id: &str,
        items: Vec<EnvVarsFilter>,
    ) -> Result<EnvOverrides, FlowError> {
        let (unit, flows) = (unit_id.to_owned(), self.clone());
        self.store
            .transact(move |work| {
                let unit = served(work, &unit)?;
                let text = serde_json::to_string(&items).map_err(FlowError::document("set of variables"))?;
                let correlation = Uuid::new_v4().to_string();
                work.set_env(&unit.id, &text, &correlation)?;
                let body = Body::OverrideEnvVars(OverrideEnvVars { items });
                // Only the newest set counts, so an older one need not arrive any more.
                let slot = Some("overrideEnvVars".to_owned());
                flows.push(work, &unit, body, Some(&correlation), slot)?;
                Ok::<_, FlowError>(())
            })
            .await?;
        self.store.env_overrides(unit_id).await?.ok_or(FlowError::missing("set of variables"))
    }

    /// A Unit tells what became of its overrides.
    pub(crate) async fn take_env_status(
        &self,
        message: Message<OverrideEnvVarsStatus>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let told = body.statuses.len();
        let mut statuses = Vec::with_capacity(told);
        for mut status in body.statuses.into_iter().filter(names_fit) {
            if let Some(info) = &mut status.error_info {
                info.message = brief(&info.message);
            }
            let error = status.error_info.as_ref().map(serde_json::to_string).transpose();
            statuses.push(EnvStatus {
                item: status.item.key().unwrap_or_default().to_owned(),
                subject: status.subject.key().unwrap_or_default().to_owned(),
                instance: status.instance,
                name: status.name,
                error: error.map_err(FlowError::document("error of a variable"))?,
                at: now_micros(),
            });
        }
        self.store
            .receive(receipt, move |work| {
                let present = work.env_exchange(&unit_id)?;
                // Some Units do not repeat the exchange; a status without one is about the present set.
                let outdated = correlation_id.is_some() && correlation_id != present;
                if present.is_none() || outdated {
                    tracing::info!(unit_id, "a status of variables is about a set that was replaced");
                    return Ok(());
                }
                if statuses.len() < told {
                    let reason = "names that are longer than any variable's or instance's";
                    work.note_invalid(&unit_id, "overrideEnvVarsStatus", reason)?;
                }
                if !work.put_env_statuses(&unit_id, &statuses)? {
                    let reason = "more statuses than are kept for a Unit";
                    work.note_invalid(&unit_id, "overrideEnvVarsStatus", reason)?;
                }
                Ok(())
            })
            .await
    }
}

/// What is named could have been overridden: such long names were never sent.
fn names_fit(status: &EnvVarStatus) -> bool {
    let fits = |identity: &AosIdentity| identity.key().is_none_or(|id| id.len() <= MAX_ID);
    status.name.chars().count() <= MAX_VARIABLE_NAME && fits(&status.item) && fits(&status.subject)
}

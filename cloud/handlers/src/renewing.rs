//! Has certificates renewed when their time has come, without an operator.
//!
//! The Units' passwords are known here, so the ordinary exchange of four messages does it. A Unit that is
//! away finds the notification when it comes; one that stays away longer than its certificates last comes
//! back by [recovery](crate::recovery).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aos_cloud_fleet::renewal_pause;
use aos_cloud_store::{AuditEntry, DueCertificate, now_micros};

use crate::error::FlowError;
use crate::flows::Flows;
use crate::renewals::{Due, NewRenewal};

/// Shortest and longest time between two looks, seconds.
const LOOKS: (i64, i64) = (1, 3600);
/// Parts of a life between two looks.
const LOOKS_IN_A_LIFE: i64 = 20;
/// Shortest wait for a Unit, seconds.
const SHORTEST_WAIT: i64 = 30;

/// Runs for ever.
pub(crate) async fn run(flows: &Flows) {
    let lives = flows.inner.pki.unit_lives();
    let pause = (lives.usual.min(lives.offline) / LOOKS_IN_A_LIFE).clamp(LOOKS.0, LOOKS.1);
    let pause = Duration::from_secs(pause.unsigned_abs());
    let percent = flows.inner.patience.renew_at_percent;
    if percent == 0 {
        return std::future::pending().await;
    }
    loop {
        if let Err(error) = look(flows, percent).await {
            tracing::error!("cannot look for certificates that end: {}", aos_logging::with_causes(&error));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Starts a renewal for every Unit that has something due.
async fn look(flows: &Flows, percent: u8) -> Result<(), FlowError> {
    let now = now_micros();
    let mut by_unit: BTreeMap<String, Vec<DueCertificate>> = BTreeMap::new();
    for one in flows.store.due_certificates(percent, now / 1_000_000).await? {
        by_unit.entry(one.unit_id.clone()).or_default().push(one);
    }
    for (unit_id, due) in by_unit {
        let Some(due) = wanted(&due, now) else { continue };
        match flows.renew_certificates(&unit_id, NewRenewal { due: Some(due), ..NewRenewal::default() }).await
        {
            Ok(renewal) => {
                tracing::info!(unit_id, "{} certificates are being renewed", renewal.certificates.len());
                let entry = AuditEntry {
                    actor: "cloud".to_owned(),
                    action: "renewal started",
                    object: unit_id,
                    detail: format!("{} certificates, {}", renewal.certificates.len(), renewal.id),
                };
                flows.store.audit(entry).await?;
            }
            Err(error) => {
                tracing::warn!(unit_id, "certificates end soon but: {}", aos_logging::with_causes(&error));
            }
        }
    }
    flows.store.drop_recovery_tokens().await?;
    Ok(())
}

/// What to renew of a Unit at `now`, microseconds; nothing so soon after the last renewal.
fn wanted(due: &[DueCertificate], now: i64) -> Option<Due> {
    let pause = due.iter().map(|one| renewal_pause(one.not_before, one.not_after)).min()?;
    let last = due.iter().filter_map(|one| one.last_renewal).max();
    if last.is_some_and(|last| now - last < pause * 1_000_000) {
        return None;
    }
    let left = due.iter().map(|one| one.not_after - now / 1_000_000).min()?;
    let pairs: BTreeSet<_> = due.iter().map(|one| (one.node_id.clone(), one.cert_type.clone())).collect();
    let patience = Duration::from_secs((left / 4).clamp(SHORTEST_WAIT, 7 * 24 * 3600).unsigned_abs());
    Some(Due { pairs, patience })
}

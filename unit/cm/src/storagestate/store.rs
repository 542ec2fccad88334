//! Table `states`: what is known of the exchange of each state.

use std::collections::BTreeMap;

use aos_cloud_protocol::StateChecksum;
use aos_ids::InstanceIdent;
use rusqlite::Connection;

use super::exchange::Known;
use crate::database::StoreError;

/// Stores what is known of one state, as part of a transaction when there is one.
pub fn put(db: &Connection, ident: &InstanceIdent, known: &Known) -> Result<(), StoreError> {
    let ident = serde_json::to_string(ident)?;
    let text = |sum: &Option<StateChecksum>| sum.as_ref().map(|sum| sum.as_str().to_owned());
    let sql = "INSERT OR REPLACE INTO states (ident, accepted, reported, pending) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute((ident, text(&known.accepted), text(&known.reported), &known.pending))?;
    Ok(())
}

/// Forgets a state.
pub fn remove(db: &Connection, ident: &InstanceIdent) -> Result<(), StoreError> {
    db.execute("DELETE FROM states WHERE ident = ?1", [serde_json::to_string(ident)?])?;
    Ok(())
}

/// Reads all. A row that cannot be read is left out: its state counts as one that nobody knows.
pub fn load(db: &Connection) -> Result<BTreeMap<InstanceIdent, Known>, StoreError> {
    let mut rows = db.prepare("SELECT ident, accepted, reported, pending FROM states")?;
    let rows = rows.query_map([], |row| {
        let sum = |text: Option<String>| text.and_then(|text| StateChecksum::new(text).ok());
        let known = Known { accepted: sum(row.get(1)?), reported: sum(row.get(2)?), pending: row.get(3)? };
        Ok((row.get::<_, String>(0)?, known))
    })?;
    let mut all = BTreeMap::new();
    for row in rows {
        let (ident, known) = row?;
        match serde_json::from_str(&ident) {
            Ok(ident) => {
                all.insert(ident, known);
            }
            Err(error) => tracing::warn!("stored state of {ident} is unreadable and left out: {error}"),
        }
    }
    Ok(all)
}

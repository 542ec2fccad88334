//! Tables `networks`, `network_hosts` and `network_instances`.

use rusqlite::Connection;

use super::core::{Change, Instance, Networks};
use crate::database::StoreError;

/// Stores all changes or none.
pub fn apply(db: &mut Connection, changes: &[Change]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = db.transaction()?;
    for change in changes {
        match change {
            Change::Network(owner, Some((subnet, vlan))) => transaction.execute(
                "INSERT OR REPLACE INTO networks (owner, subnet, vlan) VALUES (?1, ?2, ?3)",
                (owner.as_str(), subnet.to_string(), vlan),
            )?,
            Change::Network(owner, None) => {
                transaction.execute("DELETE FROM networks WHERE owner = ?1", [owner.as_str()])?
            }
            Change::Host(owner, node, Some(ip)) => transaction.execute(
                "INSERT OR REPLACE INTO network_hosts (owner, node, ip) VALUES (?1, ?2, ?3)",
                (owner.as_str(), node.as_str(), ip.to_string()),
            )?,
            Change::Host(owner, node, None) => transaction.execute(
                "DELETE FROM network_hosts WHERE owner = ?1 AND node = ?2",
                (owner.as_str(), node.as_str()),
            )?,
            Change::Instance(ident, Some(instance)) => transaction.execute(
                "INSERT OR REPLACE INTO network_instances (ident, content) VALUES (?1, ?2)",
                (serde_json::to_string(ident)?, serde_json::to_string(instance)?),
            )?,
            Change::Instance(ident, None) => transaction
                .execute("DELETE FROM network_instances WHERE ident = ?1", [serde_json::to_string(ident)?])?,
        };
    }
    transaction.commit()?;
    Ok(())
}

/// Reads everything. Rows that cannot be read are dropped with a log line: the nodes ask again.
pub fn load(db: &Connection) -> Result<Networks, StoreError> {
    let mut networks = Networks::default();
    let mut take = |what: &str, change: Option<Change>| {
        if !change.is_some_and(|change| networks.restore(change)) {
            tracing::warn!("stored {what} is not usable and left out");
        }
    };
    let mut rows = db.prepare("SELECT owner, subnet, vlan FROM networks")?;
    for row in rows.query_map([], |row| Ok((text(row, 0)?, text(row, 1)?, row.get::<_, u16>(2)?)))? {
        let (owner, subnet, vlan) = row?;
        let change = owner.parse().ok().zip(subnet.parse().ok());
        take("network", change.map(|(owner, subnet)| Change::Network(owner, Some((subnet, vlan)))));
    }
    let mut rows = db.prepare("SELECT owner, node, ip FROM network_hosts")?;
    for row in rows.query_map([], |row| Ok((text(row, 0)?, text(row, 1)?, text(row, 2)?)))? {
        let (owner, node, ip) = row?;
        let change = owner.parse().ok().zip(node.parse().ok()).zip(ip.parse().ok());
        take("node address", change.map(|((owner, node), ip)| Change::Host(owner, node, Some(ip))));
    }
    let mut rows = db.prepare("SELECT ident, content FROM network_instances")?;
    for row in rows.query_map([], |row| Ok((text(row, 0)?, text(row, 1)?)))? {
        let (ident, content) = row?;
        let change = serde_json::from_str(&ident).ok().zip(serde_json::from_str::<Instance>(&content).ok());
        take("instance address", change.map(|(ident, instance)| Change::Instance(ident, Some(instance))));
    }
    Ok(networks)
}

fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get(column)
}

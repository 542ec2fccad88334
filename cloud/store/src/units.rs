//! Units, their nodes, and the signal that tells of their changes.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::certificates::{self, Certificate, NewCertificate};
use crate::error::StoreError;
use crate::records::now_micros;
use crate::sessions::OnlineStatus;
use crate::thread::{Store, Work, sql};

/// A Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// UUIDv4 in the cloud.
    pub id: String,
    /// The Unit's own system id.
    pub system_uid: String,
    /// False after deprovisioning.
    pub provisioned: bool,
    /// Company (OEM) that owns it, UUIDv4.
    pub company_id: String,
    /// First half of the Unit model.
    pub model_name: String,
    /// Second half of the Unit model.
    pub model_version: String,
    /// Its own protected default subject, UUIDv4.
    pub subject_id: String,
    /// When it was registered, microseconds.
    pub created_at: i64,
    /// Counts visible changes.
    pub revision: i64,
    /// Number of the newest session; not above 0 when it never connected since it was registered.
    pub session: i64,
    /// Whether its link is up.
    pub online: OnlineStatus,
    /// When that changed last, microseconds.
    pub online_changed_at: Option<i64>,
    /// True when sensitive messages go to it as envelopes for its offline key.
    pub enveloped: bool,
}

/// What watchers of a Unit see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitSignal {
    /// Counts visible changes.
    pub revision: i64,
    /// Counts changes of what is asked of the Unit.
    pub target: i64,
    /// Number of the newest session.
    pub session: i64,
    /// True while the Unit may hold a session.
    pub admitted: bool,
    /// Number of the newest message in the Unit's outbox; grows with each.
    pub outbox: i64,
    /// True while sensitive messages go to it as envelopes.
    pub enveloped: bool,
}

/// A node of a Unit as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id on the Unit.
    pub node_id: String,
    /// Its type.
    pub node_type: String,
    /// Its name.
    pub name: String,
    /// True for the main node.
    pub is_main: bool,
    /// State at registration.
    pub status: String,
    /// The whole object that was registered, JSON.
    pub info: String,
}

/// A node to register; see [`Node`].
pub type NewNode = Node;

/// A Unit to register.
#[derive(Debug, Clone)]
pub struct NewUnit {
    /// The Unit's own system id.
    pub system_uid: String,
    /// Company (OEM) that registers it.
    pub company_id: String,
    /// First half of the Unit model.
    pub model_name: String,
    /// Second half of the Unit model.
    pub model_version: String,
    /// Tool that registers it.
    pub provisioning_software: String,
    /// Node passwords, sealed.
    pub sealed_secrets: Option<Vec<u8>>,
    /// Its nodes.
    pub nodes: Vec<NewNode>,
}

/// Tables about a Unit that end with its deprovisioning.
const OF_THE_LIFE: [&str; 13] = [
    "unit_status",
    "desired",
    "unit_events",
    "received_txns",
    "outbox",
    "states",
    "env_overrides",
    "env_statuses",
    "renewals",
    "node_tasks",
    "node_wishes",
    "unit_configs",
    "recovery_tokens",
];

const COLUMNS: &str = "id, system_uid, status, company_id, model_name, model_version, subject_id, \
     created_at, revision, session, online_status, online_changed_at, enveloped";

fn unit(row: &Row<'_>) -> rusqlite::Result<Unit> {
    let status: String = row.get(2)?;
    let online: String = row.get(10)?;
    Ok(Unit {
        id: row.get(0)?,
        system_uid: row.get(1)?,
        provisioned: status == "provisioned",
        company_id: row.get(3)?,
        model_name: row.get(4)?,
        model_version: row.get(5)?,
        subject_id: row.get(6)?,
        created_at: row.get(7)?,
        revision: row.get(8)?,
        session: row.get(9)?,
        online: OnlineStatus::from_word(&online),
        online_changed_at: row.get(11)?,
        enveloped: row.get(12)?,
    })
}

pub(crate) fn find(work: &Work<'_>, key: &str) -> Result<Option<Unit>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM units WHERE id = ?1 OR system_uid = ?1 ORDER BY id <> ?1");
    work.sql
        .prepare_cached(&query)
        .and_then(|mut statement| statement.query_row([key], unit).optional())
        .map_err(sql("find a Unit"))
}

pub(crate) fn signal(connection: &Connection, unit_id: &str) -> Result<UnitSignal, StoreError> {
    connection
        .prepare_cached(
            "SELECT revision, target, session, status, outbox, enveloped FROM units WHERE id = ?1",
        )
        .and_then(|mut statement| {
            statement
                .query_row([unit_id], |row| {
                    let status: String = row.get(3)?;
                    Ok(UnitSignal {
                        revision: row.get(0)?,
                        target: row.get(1)?,
                        session: row.get(2)?,
                        admitted: status == "provisioned",
                        outbox: row.get(4)?,
                        enveloped: row.get(5)?,
                    })
                })
                .optional()
        })
        .map(Option::unwrap_or_default)
        .map_err(sql("read the state of a Unit"))
}

/// Same as a target change of one Unit.
pub(crate) fn retarget(work: &mut Work<'_>, unit_id: &str) -> Result<(), StoreError> {
    work.sql
        .execute("UPDATE units SET target = target + 1 WHERE id = ?1", [unit_id])
        .map_err(sql("mark a new target"))?;
    work.touch(unit_id)
}

impl Work<'_> {
    /// The Unit with this cloud id or system id.
    pub fn unit(&self, key: &str) -> Result<Option<Unit>, StoreError> {
        find(self, key)
    }
}

impl Store {
    /// The Unit with this cloud id or system id.
    pub async fn unit(&self, key: &str) -> Result<Option<Unit>, StoreError> {
        let key = key.to_owned();
        self.transact(move |work| find(work, &key)).await
    }

    /// Units, by age, optionally of one company and with one system id; with the number of all that match.
    pub async fn units(
        &self,
        company: Option<String>,
        system_uid: Option<String>,
        limit: u32,
        offset: u32,
    ) -> Result<(Vec<Unit>, i64), StoreError> {
        self.transact(move |work| {
            let failed = sql("list Units");
            let filter = "(?1 IS NULL OR company_id = ?1) AND (?2 IS NULL OR system_uid = ?2)";
            let total = work
                .sql
                .query_row(
                    &format!("SELECT count(*) FROM units WHERE {filter}"),
                    params![company, system_uid],
                    |row| row.get(0),
                )
                .map_err(&failed)?;
            let query = format!(
                "SELECT {COLUMNS} FROM units WHERE {filter} ORDER BY created_at, id LIMIT ?3 OFFSET ?4"
            );
            let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
            let rows = statement
                .query_map(params![company, system_uid, limit, offset], unit)
                .and_then(Iterator::collect)
                .map_err(&failed)?;
            Ok((rows, total))
        })
        .await
    }

    /// Registers a Unit with its certificates. `fresh` holds one certificate for each request, in order;
    /// where the same key already has a good one of the same type and node, that one is kept and returned
    /// instead, so that a repeated call has the result of the first.
    ///
    /// Other keys than before are a conflict once the Unit has connected; until then they replace the old
    /// ones, because a Unit whose provisioning broke off makes new keys.
    pub async fn provision(
        &self,
        new: NewUnit,
        fresh: Vec<NewCertificate>,
        now_seconds: i64,
    ) -> Result<(Unit, Vec<Certificate>), StoreError> {
        self.transact(move |work| {
            let id = match find(work, &new.system_uid)? {
                Some(unit) if unit.company_id != new.company_id => {
                    return Err(StoreError::Conflict("the Unit belongs to another company".to_owned()));
                }
                Some(unit) => {
                    let held = certificates::of_unit(work, &unit.id)?;
                    let same = fresh.iter().all(|wanted| {
                        held.iter().any(|old| old.key_hash == wanted.key_hash && old.is_good(now_seconds))
                    });
                    if unit.provisioned && !same {
                        if unit.session > 0 {
                            return Err(StoreError::Conflict(
                                "the Unit is provisioned with other keys; deprovision it first".to_owned(),
                            ));
                        }
                        certificates::revoke_of_unit(work, &unit.id)?;
                    }
                    unit.id
                }
                None => insert(work, &new)?,
            };
            update(work, &id, &new)?;
            let chosen = choose(work, &id, &fresh, now_seconds)?;
            retarget(work, &id)?;
            let unit = find(work, &id)?.ok_or(StoreError::NotFound("Unit"))?;
            Ok((unit, chosen))
        })
        .await
    }

    /// Nodes of a Unit as registered, main node first.
    pub async fn nodes(&self, unit_id: &str) -> Result<Vec<Node>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let mut statement = work
                .sql
                .prepare_cached(
                    "SELECT node_id, node_type, name, is_main, status, info FROM nodes \
                     WHERE unit_id = ?1 ORDER BY is_main DESC, node_id",
                )
                .map_err(sql("read nodes"))?;
            let node = |row: &Row<'_>| {
                Ok(Node {
                    node_id: row.get(0)?,
                    node_type: row.get(1)?,
                    name: row.get(2)?,
                    is_main: row.get(3)?,
                    status: row.get(4)?,
                    info: row.get(5)?,
                })
            };
            let rows = statement.query_map([unit_id], node).and_then(Iterator::collect);
            rows.map_err(sql("read nodes"))
        })
        .await
    }

    /// Takes a Unit out of service: its certificates are revoked, its session ends. An online Unit only
    /// with `force`.
    pub async fn deprovision(&self, unit_id: &str, force: bool) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let unit = find(work, &unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
            if unit.online != OnlineStatus::Offline && !force {
                return Err(StoreError::Conflict("the Unit is online".to_owned()));
            }
            certificates::revoke_of_unit(work, &unit.id)?;
            // Numbers of sessions go on after it: the end of an old session must not be taken for the end of
            // a new one.
            work.sql
                .execute(
                    "UPDATE units SET status = 'new', session = -abs(session), online_status = 'Offline', \
                     enveloped = 0 WHERE id = ?1",
                    [&unit.id],
                )
                .map_err(sql("deprovision a Unit"))?;
            work.drop_logs(&unit.id)?;
            for table in OF_THE_LIFE {
                work.sql
                    .execute(&format!("DELETE FROM {table} WHERE unit_id = ?1"), [&unit.id])
                    .map_err(sql("forget a Unit's status"))?;
            }
            retarget(work, &unit.id)
        })
        .await
    }

    /// Forgets a deprovisioned Unit. Its certificates stay on record, revoked.
    pub async fn delete_unit(&self, unit_id: &str) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let unit = find(work, &unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
            if unit.provisioned {
                return Err(StoreError::Conflict("deprovision the Unit first".to_owned()));
            }
            work.touch(&unit.id)?;
            work.drop_logs(&unit.id)?;
            work.sql.execute("DELETE FROM units WHERE id = ?1", [&unit.id]).map_err(sql("delete a Unit"))?;
            Ok(())
        })
        .await
    }
}

fn insert(work: &Work<'_>, new: &NewUnit) -> Result<String, StoreError> {
    let id = Uuid::new_v4().to_string();
    work.sql
        .execute(
            "INSERT INTO units (id, system_uid, status, company_id, model_name, model_version, \
             provisioning_software, subject_id, created_at) VALUES (?1, ?2, 'new', ?3, '', '', '', ?4, ?5)",
            params![id, new.system_uid, new.company_id, Uuid::new_v4().to_string(), now_micros()],
        )
        .map_err(sql("register a Unit"))?;
    Ok(id)
}

fn update(work: &Work<'_>, id: &str, new: &NewUnit) -> Result<(), StoreError> {
    let failed = sql("register a Unit");
    work.sql
        .execute(
            "UPDATE units SET status = 'provisioned', model_name = ?2, model_version = ?3, \
             provisioning_software = ?4, sealed_secrets = ?5 WHERE id = ?1",
            params![id, new.model_name, new.model_version, new.provisioning_software, new.sealed_secrets],
        )
        .map_err(&failed)?;
    work.sql.execute("DELETE FROM nodes WHERE unit_id = ?1", [id]).map_err(&failed)?;
    for node in &new.nodes {
        work.sql
            .execute(
                "INSERT INTO nodes (unit_id, node_id, node_type, name, is_main, status, info) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![id, node.node_id, node.node_type, node.name, node.is_main, node.status, node.info],
            )
            .map_err(&failed)?;
    }
    Ok(())
}

/// For each fresh certificate: the one already held for the same key, type and node, or the fresh one.
fn choose(
    work: &Work<'_>,
    id: &str,
    fresh: &[NewCertificate],
    now_seconds: i64,
) -> Result<Vec<Certificate>, StoreError> {
    let same = |old: &Certificate, new: &NewCertificate| {
        old.key_hash == new.key_hash
            && old.cert_type == new.cert_type
            && old.node_id == new.node_id
            && old.is_good(now_seconds)
    };
    let held = certificates::of_unit(work, id)?;
    for new in fresh.iter().filter(|new| !held.iter().any(|old| same(old, new))) {
        let mut new = new.clone();
        new.holder = certificates::Holder::Unit(id.to_owned());
        certificates::insert(work, &new)?;
    }
    let held = certificates::of_unit(work, id)?;
    fresh
        .iter()
        .map(|new| {
            let found = held.iter().find(|old| same(old, new)).cloned();
            found.ok_or(StoreError::NotFound("certificate"))
        })
        .collect()
}

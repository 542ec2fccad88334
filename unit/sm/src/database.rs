//! What the Service Manager must know after a restart, in one SQLite file (`<workingDir>/sm.db`).
//!
//! One thread owns the connection and runs one piece of work after the other, so that no commit stalls the
//! runtime thread; modules hold a handle. Every write is all or nothing and durable when the call returns; what
//! is asked for at the same time shares one wait for the disk.

use std::collections::BTreeMap;
use std::path::Path;

use aos_durable::Migrations;
use aos_ids::Digest;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::instance::InstanceInfo;
use crate::networkmanager::{InstanceNetwork, NodeNetwork};

const MIGRATIONS: Migrations = Migrations::new(&[
    "
    CREATE TABLE instances (id TEXT NOT NULL, key TEXT PRIMARY KEY, info TEXT NOT NULL) STRICT;
    CREATE TABLE starts (id TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
    CREATE TABLE networks (id TEXT PRIMARY KEY, params TEXT NOT NULL) STRICT;
    CREATE TABLE instance_networks (id TEXT PRIMARY KEY, params TEXT NOT NULL) STRICT;
    CREATE TABLE items (
        item TEXT NOT NULL, version TEXT NOT NULL, manifest TEXT NOT NULL,
        removed_at INTEGER, PRIMARY KEY (item, version)) STRICT;
    CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
",
    "
    CREATE TABLE ready (id TEXT PRIMARY KEY, pid INTEGER NOT NULL) STRICT;
",
]);

/// A piece of work; answers how to tell its result once it is durable, or is not.
type Work = Box<dyn FnOnce(&mut Connection) -> Tell + Send>;
type Tell = Box<dyn FnOnce(Option<rusqlite::Error>)>;

/// Most pieces of work that become durable together.
const TOGETHER: usize = 32;

/// Handle of the database thread.
#[derive(Clone)]
pub struct Database {
    work: mpsc::Sender<Work>,
}

/// One installed version of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRow {
    /// The item.
    pub item: String,
    /// Its version.
    pub version: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Seconds since 1970 at which nobody wanted it any more.
    pub removed_at: Option<i64>,
}

impl Database {
    /// Opens the file and starts the thread. A damaged file ends the program: what was asked of us is in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut connection = aos_durable::Database::open(path, &MIGRATIONS)?;
        let (work, mut queue) = mpsc::channel::<Work>(32);
        std::thread::Builder::new()
            .name("database".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                while let Some(first) = queue.blocking_recv() {
                    let more = std::iter::from_fn(|| queue.try_recv().ok());
                    let batch: Vec<Work> = std::iter::once(first).chain(more.take(TOGETHER - 1)).collect();
                    carry_out(&mut connection, batch);
                    if queue.is_empty()
                        && let Err(error) = aos_durable::Database::shrink(&connection)
                    {
                        tracing::debug!("the database keeps its pages in memory: {error}");
                    }
                }
            })
            .map_err(Error::system("start the database thread"))?;
        Ok(Self { work })
    }

    async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.submit(action, work).await?.await
    }

    /// Puts work into the queue; what is answered waits for its end. Work is done in the order of the queue.
    async fn submit<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<BoxFuture<'static, Result<T, Error>>, Error> {
        let (answer, result) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = separately(connection, work);
            Box::new(move |failed| {
                let _ = answer.send(failed.map_or(done, Err));
            })
        });
        self.work.send(work).await.map_err(|_| Error::Ended("the database"))?;
        Ok(Box::pin(async move {
            result
                .await
                .map_err(|_| Error::Ended("the database"))?
                .map_err(|source| Error::Database { action, source })
        }))
    }

    /// The stored desired set.
    pub async fn instances(&self) -> Result<Vec<InstanceInfo>, Error> {
        let rows = self.call("read instances", |db| texts(db, "SELECT key, info FROM instances")).await?;
        Ok(decode_all(rows).into_values().collect())
    }

    /// Stores and removes wishes in one transaction, before all work that is asked for later; what is answered
    /// waits until they are durable.
    pub async fn submit_instances(
        &self,
        put: Vec<InstanceInfo>,
        remove: Vec<String>,
    ) -> Result<BoxFuture<'static, Result<(), Error>>, Error> {
        let mut rows = Vec::new();
        for info in &put {
            rows.push((info.id(), key_of(info), encode("an instance", info)?));
        }
        self.submit("store instances", move |db| {
            let change = db.savepoint()?;
            for key in remove {
                change.execute("DELETE FROM instances WHERE key = ?1", params![key])?;
            }
            for (id, key, info) in rows {
                change.execute(
                    "INSERT OR REPLACE INTO instances (id, key, info) VALUES (?1, ?2, ?3)",
                    params![id, key, info],
                )?;
            }
            change.commit()
        })
        .await
    }

    /// Number of container starts of each instance ID.
    pub async fn starts(&self) -> Result<BTreeMap<String, u64>, Error> {
        self.call("read start counts", |db| {
            db.prepare("SELECT id, count FROM starts")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?
                .collect()
        })
        .await
    }

    /// Counts one more start and answers the new number.
    pub async fn count_start(&self, id: String) -> Result<u64, Error> {
        self.call("count a start", move |db| {
            db.query_row(
                "INSERT INTO starts (id, count) VALUES (?1, 1)
                 ON CONFLICT (id) DO UPDATE SET count = count + 1 RETURNING count",
                params![id],
                |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()),
            )
        })
        .await
    }

    /// Forgets the number of starts and what was found ready.
    pub async fn forget_starts(&self, id: String) -> Result<(), Error> {
        self.call("forget a start count", move |db| {
            db.execute("DELETE FROM ready WHERE id = ?1", params![id])?;
            db.execute("DELETE FROM starts WHERE id = ?1", params![id])
        })
        .await
        .map(|_| ())
    }

    /// Processes that were found ready, by instance ID.
    pub async fn ready(&self) -> Result<BTreeMap<String, i32>, Error> {
        self.call("read what is ready", |db| {
            db.prepare("SELECT id, pid FROM ready")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Remembers that a process was found ready.
    pub async fn set_ready(&self, id: String, pid: i32) -> Result<(), Error> {
        self.call("note what is ready", move |db| {
            db.execute("INSERT OR REPLACE INTO ready (id, pid) VALUES (?1, ?2)", params![id, pid])
        })
        .await
        .map(|_| ())
    }

    /// Networks of this node by identifier.
    pub async fn networks(&self) -> Result<BTreeMap<String, NodeNetwork>, Error> {
        Ok(decode_all(self.call("read networks", |db| texts(db, "SELECT id, params FROM networks")).await?))
    }

    /// Stores or (with `None`) removes a network.
    pub async fn set_network(&self, id: String, network: Option<&NodeNetwork>) -> Result<(), Error> {
        self.set_text("networks", id, network).await
    }

    /// Stores networks and networks of instances in one transaction.
    pub async fn set_networks(
        &self,
        networks: &BTreeMap<String, NodeNetwork>,
        instances: &BTreeMap<String, InstanceNetwork>,
    ) -> Result<(), Error> {
        let mut rows = Vec::new();
        for (id, network) in networks {
            rows.push(("networks", id.clone(), encode("a network", network)?));
        }
        for (id, instance) in instances {
            rows.push(("instance_networks", id.clone(), encode("the network of an instance", instance)?));
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.call("store networks", move |db| {
            rows.into_iter().try_for_each(|(table, id, params)| {
                let query = format!("INSERT OR REPLACE INTO {table} (id, params) VALUES (?1, ?2)");
                db.execute(&query, params![id, params]).map(|_| ())
            })
        })
        .await
    }

    /// Networks of instances by instance ID.
    pub async fn instance_networks(&self) -> Result<BTreeMap<String, InstanceNetwork>, Error> {
        let rows = self
            .call("read networks of instances", |db| texts(db, "SELECT id, params FROM instance_networks"));
        Ok(decode_all(rows.await?))
    }

    /// Stores or (with `None`) removes the network of an instance.
    pub async fn set_instance_network(
        &self,
        id: String,
        network: Option<&InstanceNetwork>,
    ) -> Result<(), Error> {
        self.set_text("instance_networks", id, network).await
    }

    async fn set_text(
        &self,
        table: &'static str,
        id: String,
        value: Option<&impl Serialize>,
    ) -> Result<(), Error> {
        let text = value.map(|value| encode(table, value)).transpose()?;
        self.call("store a network", move |db| match text {
            Some(text) => db.execute(
                &format!("INSERT OR REPLACE INTO {table} (id, params) VALUES (?1, ?2)"),
                params![id, text],
            ),
            None => db.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![id]),
        })
        .await
        .map(|_| ())
    }

    /// All installed versions.
    pub async fn items(&self) -> Result<Vec<ItemRow>, Error> {
        self.call("read items", |db| {
            let mut query = db.prepare("SELECT item, version, manifest, removed_at FROM items")?;
            let rows = query.query_map([], |row| {
                let manifest = row.get::<_, String>(2)?.parse::<Digest>().ok();
                Ok((row.get(0)?, row.get(1)?, manifest, row.get(3)?))
            })?;
            let mut items = Vec::new();
            for row in rows {
                if let (item, version, Some(manifest), removed_at) = row? {
                    items.push(ItemRow { item, version, manifest, removed_at });
                }
            }
            Ok(items)
        })
        .await
    }

    /// Stores an installed version.
    pub async fn put_item(&self, row: ItemRow) -> Result<(), Error> {
        self.call("store an item", move |db| {
            db.execute(
                "INSERT OR REPLACE INTO items (item, version, manifest, removed_at) VALUES (?1, ?2, ?3, ?4)",
                params![row.item, row.version, row.manifest.to_string(), row.removed_at],
            )
        })
        .await
        .map(|_| ())
    }

    /// Forgets an installed version.
    pub async fn drop_item(&self, item: String, version: String) -> Result<(), Error> {
        self.call("drop an item", move |db| {
            db.execute("DELETE FROM items WHERE item = ?1 AND version = ?2", params![item, version])
        })
        .await
        .map(|_| ())
    }

    /// A small remembered value, such as the node's description.
    pub async fn fact(&self, name: &'static str) -> Result<Option<Vec<u8>>, Error> {
        self.call("read a fact", move |db| {
            db.query_row("SELECT value FROM facts WHERE name = ?1", params![name], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Remembers a small value.
    pub async fn set_fact(&self, name: &'static str, value: Vec<u8>) -> Result<(), Error> {
        self.call("store a fact", move |db| {
            db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)", params![name, value])
        })
        .await
        .map(|_| ())
    }
}

/// What came in together becomes durable together: one wait for the disk in place of many.
fn carry_out(connection: &mut Connection, batch: Vec<Work>) {
    let begun = connection.execute_batch("BEGIN");
    let tell: Vec<Tell> = batch.into_iter().map(|work| work(connection)).collect();
    let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
    if committed.is_err() {
        // Nothing of it may stay: its owners are told that it failed.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for tell in tell {
        tell(committed.as_ref().err().map(same));
    }
}

/// A piece of work that fails changes nothing and spoils nothing else.
fn separately<T>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT one")?;
    let done = work(connection);
    let end = if done.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
    connection.execute_batch(end)?;
    done
}

/// The same error once more.
fn same(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(1), Some(other.to_string())),
    }
}

/// Key of the row: all five parts of the identity.
pub fn key_of(info: &InstanceInfo) -> String {
    ident_key(&info.ident)
}

/// Key of the row of an identity.
pub fn ident_key(ident: &aos_ids::InstanceIdent) -> String {
    let aos_ids::InstanceIdent { item, subject, instance, kind, preinstalled } = ident;
    format!("{item}\n{subject}\n{instance}\n{kind}\n{preinstalled}")
}

fn encode(what: &'static str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|source| Error::Encode { what, source })
}

fn texts(db: &mut Connection, query: &str) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare(query)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// A row this version cannot read is left out: its owner asks again.
fn decode_all<T: DeserializeOwned>(rows: Vec<(String, String)>) -> BTreeMap<String, T> {
    let mut decoded = BTreeMap::new();
    for (key, text) in rows {
        match serde_json::from_str(&text) {
            Ok(value) => {
                decoded.insert(key, value);
            }
            Err(error) => {
                tracing::error!("stored row {} is not readable, ignored: {error}", key.escape_debug());
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use aos_ids::{InstanceIdent, ItemId, SubjectId};

    fn info(instance: u64) -> InstanceInfo {
        let ident = InstanceIdent::service(ItemId::new("i").unwrap(), SubjectId::new("s").unwrap(), instance);
        InstanceInfo {
            ident,
            version: "1.0.0".into(),
            manifest: Digest::from_sha256([7; 32]),
            owner: "o".into(),
            runtime: "r".into(),
            uid: 5000,
            gid: 5000,
            priority: 1,
            storage_path: String::new(),
            state_path: "st".into(),
            env: vec![("A".into(), "B".into())],
            refused_env: vec![],
            monitoring: Some(vec![1, 2]),
        }
    }

    #[tokio::test]
    async fn networks_are_stored_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sm.db");
        let network = NodeNetwork { subnet: "172.17.0.0/16".into(), ip: "172.17.0.1".into(), vlan: 7 };
        let networks = BTreeMap::from([("o".to_owned(), network)]);
        let instance = |number: u64| InstanceNetwork {
            ident: info(number).ident,
            network: "o".into(),
            subnet: "172.17.0.0/16".into(),
            ip: format!("172.17.0.{}", number + 2),
            dns: vec![],
            rules: vec![],
            wishes: crate::networkmanager::Wishes::default(),
        };
        let instances = BTreeMap::from([0, 1].map(|number| (info(number).id(), instance(number))));
        {
            let database = Database::open(&path).unwrap();
            database.set_networks(&BTreeMap::new(), &BTreeMap::new()).await.unwrap();
            database.set_networks(&networks, &instances).await.unwrap();
        }
        let database = Database::open(&path).unwrap();
        assert_eq!(database.networks().await.unwrap(), networks);
        assert_eq!(database.instance_networks().await.unwrap(), instances);
    }

    #[tokio::test]
    async fn what_is_stored_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sm.db");
        {
            let database = Database::open(&path).unwrap();
            database.submit_instances(vec![info(0), info(1)], vec![]).await.unwrap().await.unwrap();
            database.submit_instances(vec![], vec![key_of(&info(0))]).await.unwrap().await.unwrap();
            assert_eq!(database.count_start("x".into()).await.unwrap(), 1);
            assert_eq!(database.count_start("x".into()).await.unwrap(), 2);
            database.set_fact("node", vec![9]).await.unwrap();
        }
        let database = Database::open(&path).unwrap();
        assert_eq!(database.instances().await.unwrap(), [info(1)]);
        assert_eq!(database.starts().await.unwrap().get("x"), Some(&2));
        assert_eq!(database.fact("node").await.unwrap(), Some(vec![9]));
        assert_eq!(database.fact("none").await.unwrap(), None);
    }

    // Many pieces of work at once: all are there, and one that fails neither leaves a part of itself nor takes
    // others along.
    #[tokio::test]
    async fn what_fails_in_a_batch_spoils_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sm.db");
        let database = Database::open(&path).unwrap();
        let counts = (0..100).map(|number| {
            let database = database.clone();
            async move {
                let id = format!("x{}", number % 10);
                let good = database.count_start(id);
                let bad = database.call("fail", |db| {
                    db.execute("INSERT INTO starts (id, count) VALUES ('bad', 1)", [])?;
                    db.execute("INSERT INTO nothing VALUES (1)", [])
                });
                let (good, bad) = futures_util::future::join(good, bad).await;
                (good.is_ok(), bad.is_err())
            }
        });
        let done = futures_util::future::join_all(counts).await;
        assert!(done.iter().all(|&(good, bad)| good && bad));
        drop(database);
        let starts = Database::open(&path).unwrap().starts().await.unwrap();
        assert_eq!(starts.len(), 10, "{starts:?}");
        assert!(starts.values().all(|&count| count == 10));
    }

    // SM-12: what the first version of this program left is taken up, and lacks nothing afterwards.
    #[tokio::test]
    async fn a_database_of_the_first_version_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sm.db");
        let item = ItemRow {
            item: "i".into(),
            version: "1.0.0".into(),
            manifest: Digest::from_sha256([7; 32]),
            removed_at: None,
        };
        {
            let database = Database::open(&path).unwrap();
            database.submit_instances(vec![info(0)], vec![]).await.unwrap().await.unwrap();
            database.put_item(item.clone()).await.unwrap();
        }
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch("DROP TABLE ready; PRAGMA user_version = 1;").unwrap();
        drop(old);
        let database = Database::open(&path).unwrap();
        assert_eq!(database.instances().await.unwrap(), [info(0)]);
        assert_eq!(database.items().await.unwrap(), [item]);
        database.set_ready("x".into(), 5).await.unwrap();
        assert_eq!(database.ready().await.unwrap().get("x"), Some(&5));
    }
}

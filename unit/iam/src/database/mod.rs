//! What must survive: certificates, keys that wait for one, nodes, and the secrets of instances.
//!
//! SQLite in `<workingDir>/iamanager.db`. Certificates and node rows have the columns that upstream's
//! database has, so a database left by it is taken over. Everything in here can be found again in the
//! token or asked for again, which is why a damaged file is set aside instead of ending the program.

use std::path::Path;

use aos_durable::{Database, Migrations};
use rusqlite::{Connection, params};

use crate::Error;
use crate::certhandler::CertRecord;
use crate::currentnode::NodeInfo;
use crate::killpoint;
use crate::permhandler::Registration;

mod nodejson;
#[cfg(test)]
mod tests;

/// Name of the file in the working directory.
pub const FILE_NAME: &str = "iamanager.db";

const MIGRATIONS: Migrations = Migrations::new(&["
    CREATE TABLE IF NOT EXISTS certificates (
        type TEXT NOT NULL,
        issuer BLOB NOT NULL,
        serial BLOB NOT NULL,
        certURL TEXT,
        keyURL TEXT,
        notAfter TIMESTAMP,
        PRIMARY KEY (issuer, serial)
    );
    CREATE TABLE IF NOT EXISTS nodeinfo (id TEXT NOT NULL PRIMARY KEY, info TEXT);
    CREATE TABLE pendingkeys (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        type TEXT NOT NULL,
        keyID BLOB NOT NULL,
        UNIQUE (type, keyID)
    );
    CREATE TABLE instances (
        ident TEXT NOT NULL PRIMARY KEY,
        bootID TEXT NOT NULL,
        secret TEXT NOT NULL UNIQUE,
        permissions TEXT NOT NULL
    );
"]);

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

fn failed(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Sql { doing, source }
}

/// A step before a write and one after it.
struct Steps(&'static str);

impl Steps {
    fn around(write: &'static str) -> Self {
        killpoint::step(write);
        Self(write)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        killpoint::step(self.0);
    }
}

impl Store {
    /// Opens or makes the database in `working_dir`.
    pub fn open(working_dir: &Path) -> Result<Self, Error> {
        let path = working_dir.join(FILE_NAME);
        let opened = Database::open_or_set_aside(&path, &MIGRATIONS).map_err(|source| Error::Durable {
            doing: "open the database",
            path,
            source: Box::new(source),
        })?;
        Ok(Self { connection: opened.connection })
    }

    /// All certificates, oldest row first.
    pub fn certificates(&self) -> Result<Vec<CertRecord>, Error> {
        let doing = "read the certificates";
        let mut statement = self
            .connection
            .prepare(
                "SELECT type, issuer, serial, certURL, keyURL, notAfter FROM certificates ORDER BY rowid",
            )
            .map_err(failed(doing))?;
        let rows = statement.query_map([], |row| {
            Ok(CertRecord {
                cert_type: row.get(0)?,
                issuer: row.get(1)?,
                serial: row.get(2)?,
                cert_url: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
                key_url: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
                not_after: row.get::<_, Option<i64>>(5)?.unwrap_or_default(),
            })
        });
        rows.map_err(failed(doing))?.collect::<Result<_, _>>().map_err(failed(doing))
    }

    /// Adds a certificate and takes its key from the waiting ones, in one step.
    pub fn add_certificate(&mut self, record: &CertRecord, key_id: &[u8]) -> Result<(), Error> {
        let _steps = Steps::around("add certificate");
        let doing = "add a certificate";
        let transaction = self.connection.transaction().map_err(failed(doing))?;
        transaction
            .execute(
                "INSERT INTO certificates (type, issuer, serial, certURL, keyURL, notAfter)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    record.cert_type,
                    record.issuer,
                    record.serial,
                    record.cert_url,
                    record.key_url,
                    record.not_after
                ],
            )
            .map_err(failed(doing))?;
        transaction
            .execute(
                "DELETE FROM pendingkeys WHERE type = ?1 AND keyID = ?2",
                params![record.cert_type, key_id],
            )
            .map_err(failed(doing))?;
        transaction.commit().map_err(failed(doing))
    }

    /// Removes a certificate; one that is not there is no error.
    pub fn remove_certificate(&self, issuer: &[u8], serial: &[u8]) -> Result<(), Error> {
        let _steps = Steps::around("remove certificate");
        self.connection
            .execute("DELETE FROM certificates WHERE issuer = ?1 AND serial = ?2", params![issuer, serial])
            .map(drop)
            .map_err(failed("remove a certificate"))
    }

    /// Removes everything of a certificate type.
    pub fn clear_type(&mut self, cert_type: &str) -> Result<(), Error> {
        let _steps = Steps::around("clear type");
        let doing = "remove the certificates of a type";
        let transaction = self.connection.transaction().map_err(failed(doing))?;
        transaction
            .execute("DELETE FROM certificates WHERE type = ?1", [cert_type])
            .map_err(failed(doing))?;
        transaction.execute("DELETE FROM pendingkeys WHERE type = ?1", [cert_type]).map_err(failed(doing))?;
        transaction.commit().map_err(failed(doing))
    }

    /// Keys of a type that wait for their certificate, oldest first.
    pub fn pending_keys(&self, cert_type: &str) -> Result<Vec<Vec<u8>>, Error> {
        let doing = "read the waiting keys";
        let mut statement = self
            .connection
            .prepare("SELECT keyID FROM pendingkeys WHERE type = ?1 ORDER BY number")
            .map_err(failed(doing))?;
        let rows = statement.query_map([cert_type], |row| row.get(0));
        rows.map_err(failed(doing))?.collect::<Result<_, _>>().map_err(failed(doing))
    }

    /// Remembers a key that waits for its certificate.
    pub fn add_pending_key(&self, cert_type: &str, key_id: &[u8]) -> Result<(), Error> {
        let _steps = Steps::around("add pending key");
        self.connection
            .execute("INSERT INTO pendingkeys (type, keyID) VALUES (?1, ?2)", params![cert_type, key_id])
            .map(drop)
            .map_err(failed("remember a waiting key"))
    }

    /// Forgets a waiting key.
    pub fn remove_pending_key(&self, cert_type: &str, key_id: &[u8]) -> Result<(), Error> {
        let _steps = Steps::around("remove pending key");
        self.connection
            .execute("DELETE FROM pendingkeys WHERE type = ?1 AND keyID = ?2", params![cert_type, key_id])
            .map(drop)
            .map_err(failed("forget a waiting key"))
    }

    /// All stored nodes. A row that cannot be read is left out, with a warning: its node registers again.
    pub fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        let doing = "read the nodes";
        let mut statement =
            self.connection.prepare("SELECT id, info FROM nodeinfo ORDER BY id").map_err(failed(doing))?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default()))
        });
        let rows: Vec<(String, String)> =
            rows.map_err(failed(doing))?.collect::<Result<_, _>>().map_err(failed(doing))?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, text)| match nodejson::read(&id, &text) {
                Ok(info) => Some(info),
                Err(error) => {
                    tracing::warn!("leaving out the stored node {id}: {error}");
                    None
                }
            })
            .collect())
    }

    /// Adds or replaces a node.
    pub fn set_node(&self, info: &NodeInfo) -> Result<(), Error> {
        let _steps = Steps::around("set node");
        self.connection
            .execute(
                "INSERT INTO nodeinfo (id, info) VALUES (?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET info = excluded.info",
                params![info.node_id, nodejson::write(info)],
            )
            .map(drop)
            .map_err(failed("store a node"))
    }

    /// Removes a node; one that is not there is no error.
    pub fn remove_node(&self, id: &str) -> Result<(), Error> {
        let _steps = Steps::around("remove node");
        self.connection
            .execute("DELETE FROM nodeinfo WHERE id = ?1", [id])
            .map(drop)
            .map_err(failed("remove a node"))
    }

    /// Registered instances of this boot, after those of other boots are removed.
    pub fn registrations(&self, boot_id: &str) -> Result<Vec<Registration>, Error> {
        let doing = "read the registered instances";
        self.connection
            .execute("DELETE FROM instances WHERE bootID <> ?1", [boot_id])
            .map_err(failed(doing))?;
        let mut statement = self
            .connection
            .prepare("SELECT ident, secret, permissions FROM instances")
            .map_err(failed(doing))?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        });
        let rows: Vec<(String, String, String)> =
            rows.map_err(failed(doing))?.collect::<Result<_, _>>().map_err(failed(doing))?;
        Ok(rows
            .into_iter()
            .filter_map(|(ident, secret, permissions)| {
                Some(Registration {
                    ident: serde_json::from_str(&ident).ok()?,
                    secret,
                    permissions: serde_json::from_str(&permissions).ok()?,
                })
            })
            .collect())
    }

    /// Adds a registered instance.
    pub fn add_registration(&self, boot_id: &str, registration: &Registration) -> Result<(), Error> {
        let _steps = Steps::around("add registration");
        let json = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| Error::Failed(format!("cannot write a registration as JSON: {error}")))
        };
        self.connection
            .execute(
                "INSERT OR REPLACE INTO instances (ident, bootID, secret, permissions) VALUES (?1, ?2, ?3, ?4)",
                params![
                    json(serde_json::to_string(&registration.ident))?,
                    boot_id,
                    registration.secret,
                    json(serde_json::to_string(&registration.permissions))?
                ],
            )
            .map(drop)
            .map_err(failed("store a registered instance"))
    }

    /// Removes a registered instance.
    pub fn remove_registration(&self, ident: &aos_ids::InstanceIdent) -> Result<(), Error> {
        let _steps = Steps::around("remove registration");
        let ident = serde_json::to_string(ident)
            .map_err(|error| Error::Failed(format!("cannot write an instance as JSON: {error}")))?;
        self.connection
            .execute("DELETE FROM instances WHERE ident = ?1", [ident])
            .map(drop)
            .map_err(failed("remove a registered instance"))
    }
}

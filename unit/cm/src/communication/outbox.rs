//! What makes messages survive the process: those of the cloud that have taken effect (`received`) and those
//! to the cloud that must not be lost (`outbox`).
//!
//! The functions belong into the transaction of the effect they stand for. The newest [`REMEMBERED`]
//! transactions of the cloud are known; an older one that comes again would take effect again. The outbox
//! holds at most [`MAX_MESSAGES`] messages and [`MAX_BYTES`] bytes; what finds no room is refused and said
//! so, for dropping an older one would lose something that was promised.

use aos_cloud_protocol::{Body, Direction, Envelope};
use aos_ids::{SystemId, Txn};
use rusqlite::{Connection, OptionalExtension};

use crate::database::StoreError;

/// Transactions of the cloud that are remembered.
pub const REMEMBERED: u32 = 1024;
/// Most messages that wait for the cloud's acknowledgement.
pub const MAX_MESSAGES: u32 = 1000;
/// Most bytes of these messages.
pub const MAX_BYTES: u32 = 8 * 1024 * 1024;

/// Keeps a message until the cloud has acknowledged it; answers it as it is to be sent.
///
/// Fails with [`StoreError::OutboxFull`] when there is no room.
pub fn keep(
    db: &Connection,
    system_id: &SystemId,
    body: Body,
    correlation_id: Option<String>,
) -> Result<Envelope, StoreError> {
    let envelope = Envelope::new(system_id.clone(), jiff::Timestamp::now(), body);
    let envelope = Envelope { correlation_id, ..envelope };
    let kind = envelope.body.message_type();
    let frame =
        aos_cloud_protocol::write(&envelope).map_err(|source| StoreError::Message { kind, source })?;
    let sql = "INSERT INTO outbox (txn, kind, frame) SELECT ?1, ?2, ?3 WHERE
               (SELECT count(*) < ?4 AND coalesce(sum(length(frame)), 0) + length(?3) <= ?5 FROM outbox)";
    let row = (envelope.header.txn.as_str(), kind.to_string(), frame, MAX_MESSAGES, MAX_BYTES);
    if db.prepare_cached(sql)?.execute(row)? == 0 {
        return Err(StoreError::OutboxFull(kind));
    }
    Ok(envelope)
}

/// Notes that a message of the cloud has taken effect, and forgets the oldest beyond [`REMEMBERED`].
pub fn received(db: &Connection, txn: &Txn) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR IGNORE INTO received (txn) VALUES (?1)")?.execute([txn.as_str()])?;
    db.prepare_cached("DELETE FROM received WHERE seq <= (SELECT max(seq) FROM received) - ?1")?
        .execute([REMEMBERED])?;
    Ok(())
}

/// Whether a message of the cloud has taken effect already.
pub fn is_received(db: &Connection, txn: &Txn) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM received WHERE txn = ?1";
    let found = db.prepare_cached(sql)?.query_row([txn.as_str()], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

/// Transactions that have taken effect, oldest first.
pub fn remembered(db: &Connection) -> Result<Vec<Txn>, StoreError> {
    let mut rows = db.prepare("SELECT txn FROM received ORDER BY seq")?;
    let rows = rows.query_map([], |row| row.get::<_, String>(0))?;
    let texts = rows.collect::<Result<Vec<_>, _>>()?;
    Ok(texts.into_iter().filter_map(|text| Txn::new(text).ok()).collect())
}

/// Messages that the cloud has not acknowledged, oldest first. What cannot be read is removed and logged.
pub fn load(db: &Connection) -> Result<Vec<Envelope>, StoreError> {
    let mut rows = db.prepare("SELECT txn, frame FROM outbox ORDER BY seq")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
    let mut messages = Vec::new();
    for row in rows {
        let (txn, frame) = row?;
        match aos_cloud_protocol::read_small(&frame, Direction::UnitToCloud) {
            Ok(envelope) => messages.push(envelope),
            Err(error) => {
                tracing::error!("kept message {txn} for the cloud is unreadable and removed: {error}");
                forget(db, [txn.as_str()])?;
            }
        }
    }
    Ok(messages)
}

/// Removes messages that the cloud has acknowledged; unknown ones are left out.
pub fn forget<'a>(db: &Connection, txns: impl IntoIterator<Item = &'a str>) -> Result<(), StoreError> {
    let mut delete = db.prepare_cached("DELETE FROM outbox WHERE txn = ?1")?;
    for txn in txns {
        delete.execute([txn])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aos_cloud_protocol::{RequestBlobUrls, StateRequest};

    use super::*;
    use crate::database;

    fn database() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let db = database::open(&dir.path().join("cm.db")).unwrap();
        (dir, db)
    }

    fn unit() -> SystemId {
        "unit-1".parse().unwrap()
    }

    fn question() -> Body {
        Body::RequestBlobUrls(RequestBlobUrls { digests: vec![] })
    }

    // The newest 1024 transactions are known, and not one more.
    #[test]
    fn the_memory_of_received_messages_has_an_edge() {
        let (_dir, db) = database();
        let txn = |n: u32| Txn::new(format!("txn-{n}")).unwrap();
        db.execute_batch("BEGIN").unwrap();
        for n in 0..REMEMBERED {
            received(&db, &txn(n)).unwrap();
        }
        received(&db, &txn(0)).unwrap();
        assert!(is_received(&db, &txn(0)).unwrap());
        assert_eq!(remembered(&db).unwrap().len(), 1024);
        received(&db, &txn(REMEMBERED)).unwrap();
        db.execute_batch("COMMIT").unwrap();
        assert!(!is_received(&db, &txn(0)).unwrap());
        assert!(is_received(&db, &txn(1)).unwrap());
        let known = remembered(&db).unwrap();
        assert_eq!(known, (1..=REMEMBERED).map(txn).collect::<Vec<_>>());
    }

    #[test]
    fn kept_messages_come_back_as_they_were_until_they_are_acknowledged() {
        let (dir, db) = database();
        let first = keep(&db, &unit(), question(), Some("one".to_owned())).unwrap();
        let second = keep(&db, &unit(), question(), None).unwrap();
        let again = database::open(&dir.path().join("cm.db")).unwrap();
        assert_eq!(load(&again).unwrap(), [first.clone(), second.clone()]);
        forget(&db, [first.header.txn.as_str(), "unknown"]).unwrap();
        assert_eq!(load(&again).unwrap(), [second]);
        db.execute("UPDATE outbox SET frame = x'00'", []).unwrap();
        assert_eq!(load(&again).unwrap(), []);
        assert_eq!(load(&db).unwrap(), []);
    }

    #[test]
    fn the_outbox_is_bounded_in_messages() {
        let (_dir, db) = database();
        db.execute_batch("BEGIN").unwrap();
        let first = keep(&db, &unit(), question(), None).unwrap();
        for _ in 1..MAX_MESSAGES {
            keep(&db, &unit(), question(), None).unwrap();
        }
        let refused = keep(&db, &unit(), question(), None);
        assert!(matches!(refused, Err(StoreError::OutboxFull(_))), "{refused:?}");
        forget(&db, [first.header.txn.as_str()]).unwrap();
        keep(&db, &unit(), question(), None).unwrap();
        assert_eq!(load(&db).unwrap().len(), 1000);
    }

    #[test]
    fn the_outbox_is_bounded_in_bytes() {
        let (_dir, db) = database();
        let id = aos_cloud_protocol::AosIdentity::by_id("x".repeat(1000));
        let state = || {
            Body::StateRequest(StateRequest {
                item: id.clone(),
                subject: id.clone(),
                instance: 0,
                default: false,
            })
        };
        let frame = aos_cloud_protocol::write(&keep(&db, &unit(), state(), None).unwrap()).unwrap();
        let room = MAX_BYTES - u32::try_from(frame.len()).unwrap();
        db.execute("UPDATE outbox SET frame = zeroblob(?1)", [room + 1]).unwrap();
        let refused = keep(&db, &unit(), state(), None);
        assert!(matches!(refused, Err(StoreError::OutboxFull(_))), "{refused:?}");
        db.execute("UPDATE outbox SET frame = zeroblob(?1)", [room]).unwrap();
        keep(&db, &unit(), state(), None).unwrap();
    }
}

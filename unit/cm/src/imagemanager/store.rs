//! Table `items`, and which blobs the items need.

use std::collections::HashSet;

use aos_content_store::Store;
use aos_ids::Digest;
use aos_item_format::{Index, MAX_DOCUMENT, Manifest};
use rusqlite::Connection;

use super::book::{Book, Change, Record};
use crate::database::StoreError;

/// Stores all changes or none.
pub fn apply(db: &mut Connection, changes: &[Change]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = db.transaction()?;
    for ((id, version), record) in changes {
        match record {
            Some(record) => transaction.execute(
                "INSERT OR REPLACE INTO items (id, version, content) VALUES (?1, ?2, ?3)",
                (id.as_str(), version, serde_json::to_string(record)?),
            )?,
            None => transaction
                .execute("DELETE FROM items WHERE id = ?1 AND version = ?2", (id.as_str(), version))?,
        };
    }
    transaction.commit()?;
    Ok(())
}

/// Reads the book. Rows that cannot be read are left out: the cloud wishes them again.
pub fn load(db: &Connection) -> Result<Book, StoreError> {
    let mut rows = db.prepare("SELECT id, version, content FROM items")?;
    let rows = rows.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    let mut records = Vec::new();
    for row in rows {
        let (id, version, content) = row?;
        if let (Ok(id), Ok(record)) = (id.parse(), serde_json::from_str::<Record>(&content)) {
            records.push(((id, version), record));
        } else {
            tracing::warn!("stored item '{id}' is unreadable and left out");
        }
    }
    Ok(Book::new(records))
}

/// Every blob that can be reached from the records, as far as their documents are there.
pub fn reachable(store: &Store, book: &Book) -> HashSet<Digest> {
    let read = |digest: &Digest| store.read(digest, MAX_DOCUMENT as u64).ok();
    let mut keep = HashSet::new();
    for record in book.records().values() {
        keep.insert(record.index);
        let Some(index) = read(&record.index).and_then(|bytes| Index::read(&bytes).ok()) else { continue };
        for descriptor in index.manifests {
            keep.insert(descriptor.digest);
            let manifest = read(&descriptor.digest).and_then(|bytes| Manifest::read(&bytes).ok());
            keep.extend(manifest.iter().flat_map(Manifest::blobs).map(|blob| blob.digest));
        }
    }
    keep
}

/// Removes blobs that no record needs, and served bytes that are not waited for any more.
pub fn collect(installed: &Store, downloads: &Store, book: &Book) {
    let keep = reachable(installed, book);
    // A process killed right after it kept a blob leaves the served bytes behind.
    let awaited = keep.iter().filter(|digest| !installed.has(digest)).copied().collect();
    for (store, keep) in [(installed, &keep), (downloads, &awaited)] {
        match store.collect(keep) {
            Ok(collected) if collected.blobs > 0 => {
                tracing::info!("{} blobs removed, {} bytes", collected.blobs, collected.bytes);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("unused blobs cannot be removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use aos_ids::{ItemId, ItemKind};
    use aos_status::ItemState;

    use super::*;

    #[test]
    fn served_bytes_stay_only_while_their_blob_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let installed = Store::open(dir.path().join("install")).unwrap();
        let downloads = Store::open(dir.path().join("download")).unwrap();
        let here = installed.import_bytes(b"an index").unwrap();
        let missing = aos_content_store::sha256(b"not here yet");
        let unwanted = installed.import_bytes(b"unwanted").unwrap();
        let record = |index| Record {
            kind: ItemKind::Service,
            index,
            state: ItemState::Installed,
            error: None,
            removed_at: None,
        };
        let key = |version: &str| (ItemId::new("item").unwrap(), version.to_owned());
        let book = Book::new([(key("1.0.0"), record(here)), (key("2.0.0"), record(missing))]);
        for digest in [&here, &missing, &unwanted] {
            downloads.partial(digest, 10).unwrap().append(b"some").unwrap();
        }
        collect(&installed, &downloads, &book);
        assert!(installed.has(&here) && !installed.has(&unwanted));
        assert_eq!([here, missing, unwanted].map(|digest| downloads.partial_len(&digest)), [0, 4, 0]);
    }
}

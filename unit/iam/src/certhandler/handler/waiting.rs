//! Keys that wait for their certificate: noted before they are made, few at a time, and destroyed when nothing
//! comes of them.

use super::{Handler, KeyId, Session, evicted};
use crate::Error;

/// Keys of one type that may wait for a certificate at the same time.
const MAX_PENDING: usize = 5;

impl Handler {
    pub(super) fn drop_older(&mut self, index: usize, session: &Session, older: &[KeyId]) {
        for id in older {
            tracing::info!("a waiting key '{}' is out of date", self.modules[index].cert_type());
            self.drop_key(index, session, id);
        }
    }

    pub(super) fn destroy_orphans(&mut self, index: usize, session: &Session) {
        let module = &mut self.modules[index];
        for id in std::mem::take(&mut module.orphans) {
            if let Err(error) = module.destroy(session, &id) {
                tracing::warn!("left-over objects stay in the token: {}", aos_logging::with_causes(&error));
                module.orphans.insert(id);
            }
        }
    }

    pub(super) fn evict(&mut self, index: usize, session: &Session) -> Result<(), Error> {
        for id in evicted(&self.modules[index].pending, MAX_PENDING).to_vec() {
            tracing::warn!("the oldest waiting key '{}' is given up", self.modules[index].cert_type());
            self.modules[index].destroy(session, &id)?;
            self.forget(index, &id)?;
        }
        Ok(())
    }

    /// Remembers a new key before it is made, so that a restart in between leaves no nameless key.
    pub(super) fn reserve(&mut self, index: usize) -> Result<[u8; 16], Error> {
        let id = uuid::Uuid::new_v4().into_bytes();
        let cert_type = self.modules[index].cert_type().to_owned();
        self.store.call_blocking(move |store| store.add_pending_key(&cert_type, &id))?;
        self.modules[index].pending.push(id.to_vec());
        Ok(id)
    }

    pub(super) fn drop_key(&mut self, index: usize, session: &Session, id: &[u8]) {
        let dropped = self.modules[index].destroy(session, id).and_then(|()| self.forget(index, id));
        if let Err(error) = dropped {
            tracing::warn!("a useless key stays until the next start: {}", aos_logging::with_causes(&error));
        }
    }

    pub(super) fn forget(&mut self, index: usize, id: &[u8]) -> Result<(), Error> {
        let module = &mut self.modules[index];
        let (cert_type, key_id): (String, KeyId) = (module.cert_type().to_owned(), id.to_vec());
        module.pending.retain(|pending| pending != id);
        self.store.call_blocking(move |store| store.remove_pending_key(&cert_type, &key_id))
    }
}

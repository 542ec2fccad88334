//! Certificates of all types: the owner of the tokens. Every method blocks.

mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::chain::{self, Parsed};
use super::core::{CertRecord, Certificates, KeyId, Snapshot, evicted, reconcile, surplus};
use super::health;
use super::module::{Module, Session, id_of_url};
use super::request;
use super::trouble::{self, Trouble};
use crate::Error;
use crate::config::CertModule;
use crate::database::Store;
use crate::worker::Worker;

/// The tokens and what is stored about them.
#[derive(Debug)]
pub struct Handler {
    modules: Vec<Module>,
    rows: Vec<CertRecord>,
    store: Worker<Store>,
    /// Types whose token does not open.
    troubles: BTreeMap<usize, Trouble>,
    published: watch::Sender<Snapshot>,
    shut: watch::Sender<Shut>,
}

/// Types whose token does not open at present.
pub type Shut = Arc<BTreeSet<String>>;

impl Handler {
    /// Opens the tokens and makes the database agree with them.
    ///
    /// A token that belongs to somebody but cannot be opened ends the start, unless `forgiving`: a node
    /// that is to be provisioned takes ownership anew anyway. One that does not take the PIN is left alone until
    /// [`Self::mend`] finds it open; what is stored is served meanwhile.
    pub fn open(configs: &[CertModule], store: Worker<Store>, forgiving: bool) -> Result<Self, Error> {
        let modules = configs.iter().cloned().map(Module::open).collect::<Result<Vec<_>, _>>()?;
        let rows = store.call_blocking(|store| store.certificates())?;
        let mut handler = Self {
            modules,
            rows,
            store,
            troubles: BTreeMap::new(),
            published: watch::Sender::new(Snapshot::default()),
            shut: watch::Sender::new(Shut::default()),
        };
        for index in 0..handler.modules.len() {
            match handler.open_type(index) {
                Err(error) if handler.troubles.contains_key(&index) => {
                    tracing::error!("going on without a token: {}", aos_logging::with_causes(&error));
                }
                Err(error) if forgiving => {
                    tracing::warn!(
                        "going on without a token until provisioning: {}",
                        aos_logging::with_causes(&error)
                    );
                }
                other => other?,
            }
        }
        handler.publish();
        Ok(handler)
    }

    /// The newest certificates.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.published.subscribe()
    }

    /// The types whose token does not open.
    pub fn shut(&self) -> watch::Receiver<Shut> {
        self.shut.subscribe()
    }

    /// Looks whether tokens that did not open do so now.
    pub fn mend(&mut self) {
        for index in self.troubles.keys().copied().collect::<Vec<_>>() {
            // Told at the begin; `aos iam token` tells it at any time.
            if let Err(error) = self.open_type(index) {
                tracing::debug!("a token stays shut: {}", aos_logging::with_causes(&error));
            }
        }
    }

    /// Opens the token of a type and makes the database agree with it, unless its PIN was refused before.
    fn open_type(&mut self, index: usize) -> Result<(), Error> {
        let module = &self.modules[index];
        let pin = module.pin();
        let known = self.troubles.iter().find(|(other, trouble)| {
            !trouble.may_try(pin.as_ref()) && (**other == index || self.modules[**other].shares_token(module))
        });
        if let Some((_, trouble)) = known {
            let (trouble, error) = (trouble.clone(), trouble.error(module.cert_type()));
            self.troubles.insert(index, trouble);
            self.publish();
            return Err(error);
        }
        match self.reconcile(index).map_err(trouble::told) {
            Ok(()) => {
                if self.troubles.remove(&index).is_some() {
                    tracing::info!("the token of '{}' opens again", self.modules[index].cert_type());
                    self.publish();
                }
                Ok(())
            }
            Err(error) => {
                if let Some(trouble) = Trouble::of(&error, pin) {
                    self.troubles.insert(index, trouble);
                    self.publish();
                }
                Err(error)
            }
        }
    }

    /// Access to the keys of a type for an order.
    fn session(&mut self, index: usize) -> Result<Session, Error> {
        if self.troubles.contains_key(&index) {
            self.open_type(index)?;
        }
        self.modules[index].owned_session().map_err(trouble::told)
    }

    /// Types that a certificate can be asked for.
    pub fn cert_types(&self) -> Vec<String> {
        self.modules
            .iter()
            .filter(|module| !module.config.self_signed)
            .map(|module| module.cert_type().to_owned())
            .collect()
    }

    /// The health of the tokens, for people.
    pub fn health(&self) -> serde_json::Value {
        let configs: Vec<&CertModule> = self.modules.iter().map(|module| &module.config).collect();
        let waiting = self
            .modules
            .iter()
            .flat_map(|module| module.pending.iter().map(|id| (module.cert_type().to_owned(), id.clone())));
        health::report(&configs, Some(&waiting.collect()))
    }

    /// Takes ownership of every token once and makes the self-signed certificates. All keys and
    /// certificates there were are erased.
    pub fn set_owners(&mut self, password: &str) -> Result<(), Error> {
        let mut done = vec![false; self.modules.len()];
        for first in 0..self.modules.len() {
            if done[first] {
                continue;
            }
            let sharing: Vec<usize> = (first..self.modules.len())
                .filter(|other| self.modules[first].shares_token(&self.modules[*other]))
                .collect();
            let mut modules: Vec<&mut Module> = self
                .modules
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| sharing.contains(index))
                .map(|(_, module)| module)
                .collect();
            Module::set_owner(&mut modules, password)?;
            for index in sharing {
                done[index] = true;
                self.troubles.remove(&index);
                let cert_type = self.modules[index].cert_type().to_owned();
                self.rows.retain(|row| row.cert_type != cert_type);
                self.store.call_blocking(move |store| store.clear_type(&cert_type))?;
            }
        }
        self.publish();
        for index in 0..self.modules.len() {
            if self.modules[index].config.self_signed {
                self.self_sign(index)?;
            }
        }
        Ok(())
    }

    /// Makes a key and the request for its certificate, as PEM.
    pub fn create_key(&mut self, cert_type: &str, subject: &str) -> Result<String, Error> {
        let index = self.index(cert_type)?;
        let session = self.session(index)?;
        self.destroy_orphans(index, &session);
        self.evict(index, &session)?;
        let id = self.reserve(index)?;
        let module = &self.modules[index];
        let request =
            module.generate_key(&session, id).and_then(|key| request::csr(&module.config, subject, &key));
        if request.is_err() {
            self.drop_key(index, &session, &id);
        }
        request
    }

    /// Stores an issued certificate (PEM chain, leaf first) with its waiting key. One that is stored
    /// already is confirmed again: the client may have lost our answer.
    pub fn apply_cert(&mut self, cert_type: &str, pem: &str) -> Result<CertRecord, Error> {
        let index = self.index(cert_type)?;
        let chain = chain::parse_chain(pem)?;
        let Some(leaf) = chain.first() else {
            return Err(Error::NotFound("certificate chain is empty".into()));
        };
        let known = self.rows.iter().find(|row| row.issuer == leaf.issuer && row.serial == leaf.serial);
        if let Some(row) = known {
            if row.cert_type == cert_type {
                let row = row.clone();
                // A death may have kept the first order from making room.
                let session = self.session(index)?;
                self.trim(index, &session, &row);
                self.publish();
                return Ok(row);
            }
            return Err(Error::InvalidArgument(format!(
                "the certificate is stored as type '{}' already",
                row.cert_type
            )));
        }
        let session = self.session(index)?;
        let id = self.modules[index].key_of(&session, leaf)?;
        self.store_certificate(index, &session, &chain, &id)
    }

    fn self_sign(&mut self, index: usize) -> Result<(), Error> {
        let session = self.session(index)?;
        let id = self.reserve(index)?;
        let key = self.modules[index].generate_key(&session, id)?;
        let der = request::self_signed(&key, jiff::Timestamp::now())?;
        self.store_certificate(index, &session, &[chain::parse(&der)?], &id).map(drop)
    }

    fn store_certificate(
        &mut self,
        index: usize,
        session: &Session,
        chain: &[Parsed],
        id: &[u8],
    ) -> Result<CertRecord, Error> {
        let module = &mut self.modules[index];
        let Some(leaf) = chain.first() else {
            return Err(Error::NotFound("certificate chain is empty".into()));
        };
        let record = module.record(leaf, id);
        module.import(session, chain, id)?;
        let (row, key_id) = (record.clone(), id.to_vec());
        self.store.call_blocking(move |store| store.add_certificate(&row, &key_id))?;
        let older: Vec<KeyId> = module.pending.iter().take_while(|pending| *pending != id).cloned().collect();
        module.pending.retain(|pending| pending != id);
        self.rows.push(record.clone());
        self.drop_older(index, session, &older);
        self.trim(index, session, &record);
        self.publish();
        tracing::info!(
            "certificate '{}' with serial {} stored",
            record.cert_type,
            hex::encode(&record.serial)
        );
        Ok(record)
    }

    /// Gives up the certificates that are too many. The new one is stored, so a failure here is only
    /// noted: the next certificate tries again.
    fn trim(&mut self, index: usize, session: &Session, new: &CertRecord) {
        let module = &self.modules[index];
        let of_type: Vec<CertRecord> =
            self.rows.iter().filter(|row| row.cert_type == new.cert_type).cloned().collect();
        let floor = i64::try_from(aos_tls::time_floor()).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::now().as_second().max(floor).saturating_mul(1_000_000_000);
        for record in surplus(&of_type, new, module.config.max_items, now) {
            let removed = id_of_url(&record.cert_url)
                .map_or(Ok(()), |id| module.destroy(session, &id))
                .and_then(|()| {
                    let (issuer, serial) = (record.issuer.clone(), record.serial.clone());
                    self.store.call_blocking(move |store| store.remove_certificate(&issuer, &serial))
                });
            match removed {
                Ok(()) => self.rows.retain(|row| row != record),
                Err(error) => tracing::warn!(
                    "an old certificate '{}' stays: {}",
                    record.cert_type,
                    aos_logging::with_causes(&error)
                ),
            }
        }
    }

    /// Gives up keys that waited longer than the one that has its certificate now: their requests were lost, or
    /// their answers are out of date.
    fn reconcile(&mut self, index: usize) -> Result<(), Error> {
        let module = &mut self.modules[index];
        let cert_type = module.cert_type().to_owned();
        let of_type = cert_type.clone();
        module.pending = self.store.call_blocking(move |store| store.pending_keys(&of_type))?;
        if module.config.skip_validation {
            return Ok(());
        }
        let Some(session) = module.session()? else { return Ok(()) };
        let scan = module.scan(&session)?;
        let rows: Vec<CertRecord> =
            self.rows.iter().filter(|row| row.cert_type == cert_type).cloned().collect();
        let plan = reconcile(&scan, &rows, &module.pending);
        module.pending.retain(|id| !plan.settled.contains(id));
        module.orphans = plan.orphans;
        self.rows.retain(|row| !plan.remove.contains(row));
        self.rows.extend(plan.add.iter().cloned());
        if !plan.add.is_empty() {
            tracing::warn!("{} certificates '{cert_type}' were not in the database, added", plan.add.len());
        }
        if !plan.remove.is_empty() {
            tracing::warn!("{} certificates '{cert_type}' are not in the token, removed", plan.remove.len());
        }
        self.store.call_blocking(move |store| {
            for row in &plan.remove {
                store.remove_certificate(&row.issuer, &row.serial)?;
            }
            for row in &plan.add {
                store.add_certificate(row, &[])?;
            }
            for id in &plan.settled {
                store.remove_pending_key(&cert_type, id)?;
            }
            Ok(())
        })
    }

    fn index(&self, cert_type: &str) -> Result<usize, Error> {
        self.modules
            .iter()
            .position(|module| module.cert_type() == cert_type)
            .ok_or_else(|| Error::NotFound(format!("certificate type '{cert_type}' is not known")))
    }

    fn publish(&self) {
        let types = self.modules.iter().map(Module::cert_type);
        let newest = Snapshot::new(Certificates::new(types, &self.rows));
        let shut = self.troubles.keys().map(|index| self.modules[*index].cert_type().to_owned()).collect();
        self.shut.send_if_modified(|known| {
            let changed = **known != shut;
            *known = Arc::new(shut);
            changed
        });
        self.published.send_if_modified(|published| {
            let changed = *published != newest;
            *published = newest;
            changed
        });
    }
}

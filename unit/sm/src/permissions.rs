//! Permissions of instances at IAM: who is registered there, and with which secret an instance proves itself.
//!
//! IAM keeps a registration as long as the machine runs and answers a repeated one with the same secret. So
//! secrets are not stored here, only who was registered with what: one small file for each, written before
//! IAM is asked, in a folder that lives as long as the registrations do. One task owns them; orders about one
//! instance are done one after the other, those about several at the same time. What IAM could not be told
//! is told later.
//!
//! Limits: 256 registrations (IAM's own limit), 64 orders waiting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_backoff::Backoff;
use aos_iam_link::IamLink;
use aos_ids::InstanceIdent;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Error;
use crate::iamclient::{register_instance, unregister_instance};

const MAX_RECORD: u64 = 64 * 1024;
const MAX_RECORDS: usize = 1024;
/// How long a start waits for an IAM that is away; it is when it restarts.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pauses between tries, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Pauses between tries that nobody waits for.
const LATER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What an instance shows to functional servers to prove who it is. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret as IAM gave it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the environment of the instance.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// What an instance may do: functional server, function, `r`, `w` or `rw`.
pub type Wanted = BTreeMap<String, BTreeMap<String, String>>;

/// Who was registered with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    ident: InstanceIdent,
    permissions: Wanted,
    /// Nobody wants it any more; IAM may not know yet.
    over: bool,
}

enum Order {
    Register { permissions: Wanted, answer: oneshot::Sender<Result<Secret, Error>> },
    Unregister { answer: Option<oneshot::Sender<Result<(), Error>>> },
}

enum Message {
    Order(InstanceIdent, Order),
    Retain(BTreeSet<InstanceIdent>),
}

/// Handle of the registrations.
#[derive(Clone)]
pub struct Permissions {
    messages: mpsc::Sender<Message>,
}

impl Permissions {
    /// Registrations at the protected server of `link`, under the identity of `cert_type`; records lie in
    /// `folder`. Without a link nothing can be registered.
    pub fn open(
        link: Option<IamLink>,
        cert_type: String,
        folder: PathBuf,
    ) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        aos_durable::create_dir(&folder, 0o700)?;
        let (messages, queue) = mpsc::channel(64);
        let known = load(&folder)?;
        let office = Office { link, cert_type, folder };
        let task = Task { office, known, busy: BTreeMap::new(), work: JoinSet::new() };
        Ok((Self { messages }, task.run(queue)))
    }

    /// Registers an instance. One that is registered with the same permissions keeps its secret; other
    /// permissions mean another secret. Waits up to 20 s for an IAM that is away.
    pub async fn register(&self, ident: &InstanceIdent, permissions: &Wanted) -> Result<Secret, Error> {
        let (answer, result) = oneshot::channel();
        let order = Order::Register { permissions: permissions.clone(), answer };
        self.send(Message::Order(ident.clone(), order)).await?;
        result.await.map_err(|_| Error::Ended("the permissions"))?
    }

    /// Ends the registration; one who is not registered is no error. When IAM is away it is told later.
    pub async fn unregister(&self, ident: &InstanceIdent) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        self.send(Message::Order(ident.clone(), Order::Unregister { answer: Some(answer) })).await?;
        result.await.map_err(|_| Error::Ended("the permissions"))?
    }

    /// Ends every registration of the past but those of `running`; for the start. It goes on by itself.
    pub async fn retain(&self, running: &BTreeSet<InstanceIdent>) -> Result<(), Error> {
        self.send(Message::Retain(running.clone())).await
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        self.messages.send(message).await.map_err(|_| Error::Ended("the permissions"))
    }
}

struct Task {
    office: Office,
    known: BTreeMap<InstanceIdent, Record>,
    /// Instances one order is carried out for, and the orders that wait for its end.
    busy: BTreeMap<InstanceIdent, VecDeque<Order>>,
    work: JoinSet<(InstanceIdent, Option<Record>)>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut backoff = Backoff::new(LATER.0, LATER.1, 0.0);
        let mut again = None;
        loop {
            let due = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = queue.recv() => match message {
                    Some(Message::Order(ident, order)) => self.take(ident, order),
                    Some(Message::Retain(running)) => {
                        let past: Vec<_> =
                            self.known.keys().filter(|ident| !running.contains(*ident)).cloned().collect();
                        for ident in past {
                            self.take(ident, Order::Unregister { answer: None });
                        }
                    }
                    None => return,
                },
                Some(done) = self.work.join_next() => {
                    let Ok((ident, record)) = done else { continue };
                    self.done(&ident, record);
                }
                () = due => {
                    again = None;
                    for ident in self.owed() {
                        self.take(ident, Order::Unregister { answer: None });
                    }
                }
            }
            match (self.owed().is_empty(), again) {
                (false, None) => again = Some(Instant::now() + backoff.next(0.0)),
                (true, _) if self.busy.is_empty() => {
                    again = None;
                    backoff.reset();
                }
                _ => {}
            }
        }
    }

    /// Instances IAM has still to be told about.
    fn owed(&self) -> Vec<InstanceIdent> {
        let over = self.known.iter().filter(|(ident, record)| record.over && !self.busy.contains_key(*ident));
        over.map(|(ident, _)| ident.clone()).collect()
    }

    fn take(&mut self, ident: InstanceIdent, order: Order) {
        if let Some(waiting) = self.busy.get_mut(&ident) {
            waiting.push_back(order);
            return;
        }
        self.busy.insert(ident.clone(), VecDeque::new());
        let (office, record) = (self.office.clone(), self.known.get(&ident).cloned());
        self.work.spawn(async move {
            let record = office.carry_out(&ident, record, order).await;
            (ident, record)
        });
    }

    fn done(&mut self, ident: &InstanceIdent, record: Option<Record>) {
        match record {
            Some(record) => self.known.insert(ident.clone(), record),
            None => self.known.remove(ident),
        };
        for order in self.busy.remove(ident).into_iter().flatten() {
            self.take(ident.clone(), order);
        }
    }
}

/// What carries one order out: the files and IAM.
#[derive(Clone)]
struct Office {
    link: Option<IamLink>,
    cert_type: String,
    folder: PathBuf,
}

impl Office {
    /// Answers whoever waits, and the record that stays.
    async fn carry_out(
        &self,
        ident: &InstanceIdent,
        mut record: Option<Record>,
        order: Order,
    ) -> Option<Record> {
        match order {
            Order::Register { permissions, answer } => {
                let result = self.register(ident, &mut record, permissions).await;
                let _ = answer.send(result);
            }
            Order::Unregister { answer } => {
                let result = self.unregister(ident, &mut record).await;
                match answer {
                    Some(answer) => {
                        let _ = answer.send(result);
                    }
                    None => {
                        if let Err(error) = result {
                            tracing::warn!("{ident} may still be registered: {}", error.info().message);
                        }
                    }
                }
            }
        }
        record
    }

    async fn register(
        &self,
        ident: &InstanceIdent,
        record: &mut Option<Record>,
        permissions: Wanted,
    ) -> Result<Secret, Error> {
        let link = self.link.as_ref().ok_or_else(|| Error::NotSupported("permissions without IAM".into()))?;
        // IAM never changes what it knows of an instance.
        let other = |record: &Record| record.over || record.permissions != permissions;
        if record.as_ref().is_some_and(other) {
            patiently(|| unregister_instance(link, &self.cert_type, ident)).await?;
        }
        let wanted = Record { ident: ident.clone(), permissions, over: false };
        if record.as_ref() != Some(&wanted) {
            self.save(&wanted).await?;
            *record = Some(wanted.clone());
        }
        let secret =
            patiently(|| register_instance(link, &self.cert_type, ident, &wanted.permissions)).await?;
        Ok(Secret::new(secret))
    }

    async fn unregister(&self, ident: &InstanceIdent, record: &mut Option<Record>) -> Result<(), Error> {
        let Some(known) = record.as_mut() else { return Ok(()) };
        if !known.over {
            known.over = true;
            self.save(known).await?;
        }
        if let Some(link) = &self.link
            && let Err(error) = unregister_instance(link, &self.cert_type, ident).await
        {
            if error.is_passing() {
                tracing::info!("{ident} is unregistered later: {}", error.info().message);
                return Ok(());
            }
            return Err(error);
        }
        let path = self.path(ident);
        on_disk(move || aos_durable::remove_durably(&path)).await?;
        *record = None;
        Ok(())
    }

    async fn save(&self, record: &Record) -> Result<(), Error> {
        let what = "a registration";
        let text = serde_json::to_vec(record).map_err(|source| Error::Encode { what, source })?;
        let path = self.path(&record.ident);
        on_disk(move || aos_durable::write_atomic(&path, &text, 0o600)).await
    }

    fn path(&self, ident: &InstanceIdent) -> PathBuf {
        let origin = if ident.preinstalled { "preinstalled" } else { "wanted" };
        self.folder.join(format!("{}.{}.{origin}", ident.instance_id(), ident.kind))
    }
}

/// Does what waits for the disk on a thread that may.
async fn on_disk(
    work: impl FnOnce() -> Result<(), aos_durable::DurableError> + Send + 'static,
) -> Result<(), Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| Error::Ended("work on the disk"))??)
}

/// Asks until there is an answer, for a bounded time.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(mut ask: impl FnMut() -> F) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, 0.0);
    loop {
        match ask().await {
            Err(error) if error.is_passing() && Instant::now() < until => {
                tracing::debug!("asking IAM again: {}", error.info().message);
                tokio::time::sleep(backoff.next(0.0)).await;
            }
            result => return result,
        }
    }
}

fn load(folder: &Path) -> Result<BTreeMap<InstanceIdent, Record>, Error> {
    let mut known = BTreeMap::new();
    let entries = std::fs::read_dir(folder).map_err(Error::file("read folder", folder))?;
    for entry in entries.flatten().take(MAX_RECORDS) {
        let text = aos_durable::read_bounded(&entry.path(), MAX_RECORD).ok().flatten();
        if let Some(record) = text.and_then(|text| serde_json::from_slice::<Record>(&text).ok()) {
            known.insert(record.ident.clone(), record);
        } else {
            tracing::warn!("registration {} is not readable, ignored", entry.path().display());
        }
    }
    Ok(known)
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;

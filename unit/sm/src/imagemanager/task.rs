//! The task that owns the image folder: plans, contents under way, rows, cleaning and care.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aos_ids::Digest;
use aos_image_layers::Depth;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::care::{Findings, drop_wrong_documents, examine, take_orphans};
use super::flight::Flight;
use super::jobs::{Content, Name, Surroundings, Trust, blocking};
use super::plan::{Plan, Want};
use super::{Image, Key, Order, Retention, retention};
use crate::Error;
use crate::database::ItemRow;

type Answer = oneshot::Sender<Result<Arc<Image>, Arc<Error>>>;

/// Images whose descriptions are kept in memory.
const MAX_READY: usize = 64;

struct Running {
    answers: Vec<Answer>,
    abort: AbortHandle,
    /// Contents it asked for; they stay although no row names them yet.
    held: HashSet<Digest>,
}

struct Waiter {
    key: Key,
    answer: oneshot::Sender<Result<(), Arc<Error>>>,
}

/// State of the task.
pub struct Task {
    surroundings: Arc<Surroundings>,
    retention: Retention,
    plans: JoinSet<(Key, Result<Arc<Image>, Error>)>,
    running: HashMap<Key, Running>,
    jobs: JoinSet<(Content, Result<(), Error>)>,
    flight: Flight<Name, Waiter>,
    job_of: HashMap<Name, AbortHandle>,
    /// Contents of failed plans: the next try of what is still wanted need not fetch them again.
    unfinished: HashMap<Key, HashSet<Digest>>,
    looks: JoinSet<Findings>,
    /// Trees and raw blobs that were looked at in this run of the program.
    trusted: HashSet<Digest>,
    /// Those that a look found wrong.
    wrong: HashSet<Digest>,
    /// Images that are whole and have a row that is wanted.
    ready: HashMap<Key, Arc<Image>>,
}

impl Task {
    pub fn new(surroundings: Arc<Surroundings>, retention: Retention) -> Self {
        Self {
            surroundings,
            retention,
            plans: JoinSet::new(),
            running: HashMap::new(),
            jobs: JoinSet::new(),
            flight: Flight::new(),
            job_of: HashMap::new(),
            unfinished: HashMap::new(),
            looks: JoinSet::new(),
            trusted: HashSet::new(),
            wrong: HashSet::new(),
            ready: HashMap::new(),
        }
    }

    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (asking, mut wants) = mpsc::channel(64);
        self.look(Depth::Quick).await;
        let mut care_at = Instant::now() + self.retention.period;
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order, &asking).await,
                    None => return,
                },
                Some(want) = wants.recv() => self.want(want),
                Some(done) = self.jobs.join_next() => {
                    if let Ok((content, result)) = done {
                        self.landed(content, result).await;
                    }
                }
                Some(done) = self.plans.join_next() => match done {
                    Ok((key, result)) => self.planned(key, result).await,
                    // One that was given up: what only it waited for is not needed any more.
                    Err(_) => self.give_up_unwanted(),
                },
                Some(Ok(findings)) = self.looks.join_next() => self.found(findings, &asking).await,
                () = tokio::time::sleep_until(care_at) => {
                    care_at = Instant::now() + self.retention.period;
                    self.clean_and_log().await;
                    self.look(Depth::Full).await;
                }
            }
        }
    }

    async fn order(&mut self, order: Order, asking: &mpsc::Sender<Want>) {
        match order {
            Order::Install { key, answer } => self.install(key, Some(answer), asking),
            Order::Left(key) => {
                let unwanted = |running: &mut Running| {
                    let waited = !running.answers.is_empty();
                    running.answers.retain(|answer| !answer.is_closed());
                    waited && running.answers.is_empty()
                };
                if self.running.get_mut(&key).is_some_and(unwanted) {
                    self.give_up(&key);
                }
            }
            Order::InUse(items) => {
                if let Err(error) = self.mark(&items).await {
                    tracing::error!("cannot mark unused items: {}", error.info().message);
                }
                self.clean_and_log().await;
            }
        }
    }

    fn install(&mut self, key: Key, answer: Option<Answer>, asking: &mpsc::Sender<Want>) {
        if let Some(image) = self.ready.get(&key) {
            if image.layers.iter().all(|tree| tree.is_dir()) {
                if let Some(answer) = answer {
                    let _ = answer.send(Ok(Arc::clone(image)));
                    return;
                }
            } else {
                self.ready.remove(&key);
            }
        }
        if let Some(running) = self.running.get_mut(&key) {
            running.answers.extend(answer);
            return;
        }
        let plan =
            Plan { key: key.clone(), wants: asking.clone(), surroundings: Arc::clone(&self.surroundings) };
        let named = key.clone();
        let abort = self.plans.spawn(async move { (named, plan.run().await) });
        self.running
            .insert(key, Running { answers: answer.into_iter().collect(), abort, held: HashSet::new() });
    }

    fn give_up(&mut self, key: &Key) {
        if let Some(running) = self.running.remove(key) {
            tracing::info!("installing {} {} is given up", key.item, key.version);
            running.abort.abort();
        }
    }

    fn give_up_unwanted(&mut self) {
        for name in self.flight.left(|waiter| waiter.answer.is_closed()) {
            if let Some(job) = self.job_of.remove(&name) {
                job.abort();
            }
        }
    }

    fn want(&mut self, Want { key, content, answer }: Want) {
        let Some(running) = self.running.get_mut(&key) else { return };
        match &content {
            Content::Document { digest, .. } | Content::Raw { digest, .. } => {
                running.held.insert(*digest);
            }
            Content::Layer(layer) => running.held.extend([layer.digest, layer.diff_id]),
        }
        let name = content.name();
        if self.flight.want(name, Waiter { key, answer }) {
            self.begin(content);
        }
    }

    fn begin(&mut self, content: Content) {
        let name = content.name();
        let (Name::Blob(digest) | Name::Tree(digest)) = name;
        let trust = if self.wrong.contains(&digest) {
            Trust::Wrong
        } else if self.trusted.contains(&digest) {
            Trust::Seen
        } else {
            Trust::Unseen
        };
        let surroundings = Arc::clone(&self.surroundings);
        let job = self.jobs.spawn(async move {
            let result = surroundings.bring(content.clone(), trust).await;
            (content, result)
        });
        self.job_of.insert(name, job);
    }

    async fn landed(&mut self, content: Content, result: Result<(), Error>) {
        let name = content.name();
        let (Name::Blob(digest) | Name::Tree(digest)) = name;
        self.job_of.remove(&name);
        if let Err(error) = &result
            && error.is_no_space()
        {
            match self.evict().await {
                Ok(true) => return self.begin(content),
                Ok(false) => {}
                Err(error) => tracing::error!("cannot make room: {}", error.info().message),
            }
        }
        let result = result.map_err(Arc::new);
        if result.is_ok() && !matches!(content, Content::Document { .. }) {
            self.wrong.remove(&digest);
            self.trusted.insert(digest);
        }
        for Waiter { key, answer } in self.flight.landed(&name) {
            if answer.send(result.clone()).is_err() {
                tracing::debug!("{digest} came too late for {} {}", key.item, key.version);
            }
        }
    }

    async fn planned(&mut self, key: Key, result: Result<Arc<Image>, Error>) {
        let result = match result {
            Ok(image) => self.remember(&key).await.map(|()| image),
            Err(error) => Err(error),
        };
        let Some(running) = self.running.remove(&key) else { return };
        match &result {
            Ok(image) => {
                self.unfinished.remove(&key);
                if self.ready.len() >= MAX_READY {
                    self.ready.clear();
                }
                self.ready.insert(key, Arc::clone(image));
            }
            Err(error) => {
                let message = error.info().message;
                tracing::warn!("installing {} {} failed: {message}", key.item, key.version);
                self.give_up_unwanted();
                if self.unfinished.len() < MAX_READY {
                    self.unfinished.insert(key, running.held);
                }
            }
        }
        let result = result.map_err(Arc::new);
        for answer in running.answers {
            let _ = answer.send(result.clone());
        }
    }

    async fn remember(&mut self, key: &Key) -> Result<(), Error> {
        let rows = self.surroundings.database.items().await?;
        let same = |row: &&ItemRow| row.item == key.item && row.version == key.version;
        if rows.iter().find(same).is_some_and(|row| row.manifest == key.manifest && row.removed_at.is_none())
        {
            return Ok(());
        }
        tracing::info!("{} {} is installed", key.item, key.version);
        let (item, version) = (key.item.clone(), key.version.clone());
        let row = ItemRow { item, version, manifest: key.manifest, removed_at: None };
        self.surroundings.database.put_item(row).await
    }

    async fn mark(&mut self, in_use: &BTreeSet<(String, String)>) -> Result<(), Error> {
        let database = &self.surroundings.database;
        for mut row in database.items().await? {
            let used = in_use.contains(&(row.item.clone(), row.version.clone()));
            if used == row.removed_at.is_some() {
                row.removed_at = if used { None } else { Some(now()) };
                database.put_item(row).await?;
            }
        }
        let wanted = |key: &Key| in_use.contains(&(key.item.clone(), key.version.clone()));
        self.ready.retain(|key, _| wanted(key));
        self.unfinished.retain(|key, _| wanted(key));
        Ok(())
    }

    async fn clean_and_log(&mut self) {
        if let Err(error) = self.clean().await {
            tracing::error!("cannot clean the image folder: {}", error.info().message);
        }
    }

    /// Drops versions whose time is over or that are too many, then every blob and layer nobody names.
    async fn clean(&mut self) -> Result<(), Error> {
        let ttl = i64::try_from(self.retention.ttl.as_secs()).unwrap_or(i64::MAX);
        let rows = self.surroundings.database.items().await?;
        for row in retention::outdated(&rows, now().saturating_sub(ttl)) {
            self.drop_row(&row).await?;
        }
        let removed = self.orphans().await?;
        if !removed.is_empty() {
            // Nobody waits for it; big trees take their time.
            drop(tokio::task::spawn_blocking(move || drop(removed)));
        }
        Ok(())
    }

    async fn drop_row(&mut self, row: &ItemRow) -> Result<(), Error> {
        tracing::info!("removing {} {}", row.item, row.version);
        self.ready.retain(|key, _| key.item != row.item || key.version != row.version);
        self.surroundings.database.drop_item(row.item.clone(), row.version.clone()).await
    }

    async fn orphans(&mut self) -> Result<Vec<Box<dyn Send>>, Error> {
        let items: Vec<Digest> =
            self.surroundings.database.items().await?.into_iter().map(|row| row.manifest).collect();
        let running = self.running.values().map(|running| &running.held);
        let held = running.chain(self.unfinished.values()).flatten().copied().collect();
        let (folder, layers) = (self.surroundings.folder.clone(), self.surroundings.layers.clone());
        blocking(move || take_orphans(&folder, &layers, &items, &held)).await?
    }

    /// Removes the version that has been unwanted for longest, at last what failed plans left; false when there
    /// is none.
    async fn evict(&mut self) -> Result<bool, Error> {
        let mut rows = self.surroundings.database.items().await?;
        rows.retain(|row| !self.running.keys().any(|key| key.item == row.item && key.version == row.version));
        if let Some(row) = retention::first_to_go(&rows).cloned() {
            tracing::warn!("there is not enough space: {} {} has to go", row.item, row.version);
            self.drop_row(&row).await?;
        } else if self.unfinished.is_empty() {
            return Ok(false);
        } else {
            self.unfinished.clear();
        }
        let removed = self.orphans().await?;
        blocking(move || drop(removed)).await?;
        Ok(true)
    }

    /// Begins a look at everything that is stored.
    async fn look(&mut self, depth: Depth) {
        let items = match self.surroundings.database.items().await {
            Ok(rows) => rows.into_iter().map(|row| row.manifest).collect::<Vec<_>>(),
            Err(error) => return tracing::error!("cannot read items: {}", error.info().message),
        };
        if !self.looks.is_empty() || items.is_empty() {
            return;
        }
        let surroundings = Arc::clone(&self.surroundings);
        self.looks.spawn_blocking(move || {
            let Surroundings { folder, layers, store, .. } = &*surroundings;
            examine(folder, layers, store, &items, depth)
        });
    }

    /// What is wanted is fetched anew; of the rest nothing is kept that is not whole.
    async fn found(&mut self, findings: Findings, asking: &mpsc::Sender<Want>) {
        if findings.damaged.is_empty() {
            return;
        }
        // What is being fetched just now was only looked at too early.
        let under_way: HashSet<Digest> =
            self.job_of.keys().map(|(Name::Blob(digest) | Name::Tree(digest))| *digest).collect();
        let wrong = findings.contents.into_iter().filter(|digest| !under_way.contains(digest));
        self.wrong.extend(wrong);
        self.trusted.retain(|digest| !self.wrong.contains(digest));
        let rows = match self.surroundings.database.items().await {
            Ok(rows) => rows,
            Err(error) => return tracing::error!("cannot read items: {}", error.info().message),
        };
        for row in rows.into_iter().filter(|row| findings.damaged.contains(&row.manifest)) {
            if row.removed_at.is_some() {
                if let Err(error) = self.drop_row(&row).await {
                    tracing::error!("cannot drop a damaged item: {}", error.info().message);
                }
                continue;
            }
            tracing::warn!("{} {} is damaged, what is wrong is fetched anew", row.item, row.version);
            let (folder, manifest) = (self.surroundings.folder.clone(), row.manifest);
            let _ = blocking(move || drop_wrong_documents(&folder, &manifest)).await;
            let key = Key { item: row.item, version: row.version, manifest };
            self.ready.remove(&key);
            self.install(key, None, asking);
        }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

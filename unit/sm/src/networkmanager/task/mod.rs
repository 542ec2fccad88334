//! The task that owns the networks: takes orders, asks CM, lets the plumbing work, answers.
//!
//! Orders that wait are taken together and carried out in few pieces of kernel work. An order that needs CM
//! waits in the lane and holds up nobody. What CM was not told is told after the next comparison of states.

mod kernel;
mod manager;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::dns::{Dns, Names};
use super::lane::{Allocation, Job, Lane};
use super::period::Ledger;
use super::plumbing::Plumbing;
use super::{InstanceNetwork, NodeNetwork, Prepared, Surroundings, View, Wishes, netns, plan};
use crate::Error;
use crate::database::Database;
use crate::instance::InstanceInfo;

/// Orders carried out together.
const TOGETHER: usize = 64;
/// Traffic figures are stored that often while instances run.
const STORE_PERIOD: Duration = Duration::from_mins(1);
/// Pause before another subscription when CM ended the last one.
const RETRY: Duration = Duration::from_secs(2);
/// Where the traffic figures are in the database.
const LEDGER: &str = "traffic";

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the task is asked for.
pub enum Order {
    /// Network for a start.
    Prepare { info: Box<InstanceInfo>, wishes: Wishes, answer: Answer<Prepared> },
    /// Network of what runs.
    Adopt { id: String, answer: Answer<()> },
    /// No network any more.
    Stop { id: String, answer: Answer<()> },
    /// No address any more.
    Release { id: String, answer: Answer<()> },
    /// A new connection to CM.
    Synchronise { answer: Answer<()> },
    /// The day may be over.
    Turn { answer: oneshot::Sender<()> },
}

/// News of CM's stream.
enum News {
    Update(wire::PendingFirewallUpdate),
    Ended,
}

/// Who waits for an instance to be up.
enum Waiting {
    Start(Answer<Prepared>),
    Adoption(Answer<()>),
}

impl Waiting {
    fn fail(self, error: Error) {
        match self {
            Self::Start(answer) => drop(answer.send(Err(error))),
            Self::Adoption(answer) => drop(answer.send(Err(error))),
        }
    }
}

/// Work for kernel and disk that is collected before it is done.
#[derive(Default)]
struct Collected {
    up: Vec<(String, Waiting)>,
    down: Vec<(String, Option<Answer<()>>)>,
    /// To be remembered before anything of `up` is answered.
    given: Given,
}

/// What CM gave and nobody has stored yet.
#[derive(Default)]
struct Given {
    networks: BTreeMap<String, NodeNetwork>,
    instances: BTreeMap<String, InstanceNetwork>,
}

impl Given {
    fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.instances.is_empty()
    }
}

impl Collected {
    fn concerns(&self, id: &str) -> bool {
        self.up.iter().any(|(one, _)| one == id) || self.down.iter().any(|(one, _)| one == id)
    }
}

/// The task's state.
pub struct Task {
    publish: watch::Sender<View>,
    networks: BTreeMap<String, NodeNetwork>,
    instances: BTreeMap<String, InstanceNetwork>,
    running: BTreeSet<String>,
    names: BTreeMap<String, Names>,
    ledger: Ledger,
    folder: netns::Folder,
    plumbing: Option<Plumbing>,
    filtered: bool,
    dns: Dns,
    database: Database,
    lane: Lane,
    starting: BTreeMap<String, Answer<Prepared>>,
    synchronising: Vec<Answer<()>>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    reader: Option<AbortHandle>,
    retry: Option<Instant>,
    store_at: Option<Instant>,
}

impl Task {
    /// Reads what is stored and takes up what is in the kernel.
    pub async fn open(parts: Surroundings, publish: watch::Sender<View>) -> Result<Self, Error> {
        let Surroundings { database, cm, node_id, folder, dns, filtered } = parts;
        let stored = database.fact(LEDGER).await?.unwrap_or_default();
        let ledger = serde_json::from_slice(&stored).unwrap_or_default();
        let mut task = Self {
            publish,
            networks: database.networks().await?,
            instances: database.instance_networks().await?,
            running: BTreeSet::new(),
            names: BTreeMap::new(),
            ledger,
            folder: netns::Folder::open(folder)?,
            plumbing: None,
            filtered,
            dns,
            database,
            lane: Lane::new(cm, node_id),
            starting: BTreeMap::new(),
            synchronising: Vec::new(),
            news: mpsc::channel(16),
            reader: None,
            retry: None,
            store_at: None,
        };
        let day = task.ledger.day;
        task.plumb(|_| ()).await?;
        // Counters of a day that is not remembered would be taken for another day's at the next start.
        if task.ledger.day != day {
            task.store().await;
        }
        // What probably runs counts from the beginning, with its names: the first adoption must not take the
        // others' names away, nor the end of a dead instance the network of those that nobody has adopted yet.
        for (id, instance) in task.instances.iter().filter(|(id, _)| task.folder.is_alive(id)) {
            task.running.insert(id.clone());
            if let Err(error) = plan::claim(&mut task.names, id, instance) {
                tracing::warn!("names of {id} are not served: {error}");
            }
        }
        let used = task.instances.values().map(|instance| instance.network.clone()).collect();
        if let Err(error) = task.dns.retain(used).await {
            tracing::warn!("old names are not forgotten: {}", error.info().message);
        }
        task.show();
        Ok(task)
    }

    /// Works until nobody can order any more.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        let mut orders = Vec::new();
        loop {
            let alarm = self.retry.into_iter().chain(self.store_at).min();
            let mut collected = Collected::default();
            tokio::select! {
                count = queue.recv_many(&mut orders, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    for order in orders.drain(..) {
                        self.take(order, &mut collected).await;
                    }
                }
                done = self.lane.next() => {
                    let mut next = Some(done);
                    while let Some(done) = next {
                        if done.instance().is_some_and(|id| collected.concerns(id)) {
                            self.carry_out(std::mem::take(&mut collected)).await;
                        }
                        self.finish(done, &mut collected).await;
                        next = self.lane.try_next();
                    }
                }
                Some(news) = self.news.1.recv() => self.hear(news).await,
                () = until(alarm) => self.ring().await,
            }
            self.carry_out(collected).await;
            self.show();
            let Self { lane, instances, .. } = &mut self;
            lane.advance(|| instances.values().map(plan::state).collect());
        }
    }

    fn show(&self) {
        let addresses = self.instances.iter().map(|(id, network)| (id.clone(), network.ip.clone())).collect();
        self.publish.send_replace(View { addresses, day: self.ledger.day });
    }

    async fn take(&mut self, order: Order, collected: &mut Collected) {
        let id = match &order {
            Order::Prepare { info, .. } => info.id(),
            Order::Adopt { id, .. } | Order::Stop { id, .. } | Order::Release { id, .. } => id.clone(),
            Order::Synchronise { .. } | Order::Turn { .. } => String::new(),
        };
        if collected.concerns(&id) {
            self.carry_out(std::mem::take(collected)).await;
        }
        match order {
            Order::Prepare { info, wishes, answer } => self.prepare(*info, wishes, answer, collected).await,
            Order::Adopt { id, answer } => collected.up.push((id, Waiting::Adoption(answer))),
            Order::Stop { id, answer } => {
                self.cancel(&id);
                collected.down.push((id, Some(answer)));
            }
            Order::Release { id, answer } => {
                self.cancel(&id);
                let result = self.release(&id).await;
                let _ = answer.send(result);
            }
            Order::Synchronise { answer } => {
                self.synchronising.push(answer);
                self.lane.push(Job::Synchronise);
            }
            Order::Turn { answer } => {
                self.count().await;
                let _ = answer.send(());
            }
        }
    }

    /// A start that still waits for CM is not wanted any more.
    fn cancel(&mut self, id: &str) {
        if let Some(answer) = self.starting.remove(id) {
            let _ = answer.send(Err(Error::Ended("the start")));
        }
    }

    async fn prepare(
        &mut self,
        info: InstanceInfo,
        wishes: Wishes,
        answer: Answer<Prepared>,
        collected: &mut Collected,
    ) {
        let id = info.id();
        self.cancel(&id);
        if self.instances.get(&id).is_some_and(|known| known.network != info.owner)
            && let Err(error) = self.release(&id).await
        {
            let _ = answer.send(Err(error));
            return;
        }
        if self.instances.get(&id).is_some_and(|known| known.wishes == wishes) {
            collected.up.push((id, Waiting::Start(answer)));
            return;
        }
        let asked = Allocation {
            id: id.clone(),
            ident: info.ident,
            known: self.networks.get(&info.owner).cloned(),
            network: info.owner,
            wishes,
            refresh: false,
        };
        self.lane.push(Job::Allocate(Box::new(asked)));
        self.starting.insert(id, answer);
    }

    async fn ring(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.lane.push(Job::Synchronise);
        }
        if self.store_at.is_some_and(|at| at <= now) {
            self.store_at = Some(now + STORE_PERIOD);
            self.count().await;
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

//! The task that owns the networks: takes orders, asks CM, lets the plumbing work, answers.
//!
//! Orders that wait are taken together and carried out in few pieces of kernel work. An order that needs CM
//! waits in the lane and holds up nobody. What CM was not told is told after the next comparison of states.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use aos_unit_api::convert::instance;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wire::instance_network_update_notification::Update;

use super::dns::{Dns, Names};
use super::lane::{Allocation, Done, Job, Lane, Updates};
use super::period::{self, Ledger};
use super::plumbing::{Plumbing, Socketed};
use super::{
    InstanceNetwork, NodeNetwork, Prepared, Surroundings, View, Wishes, names, netns, now, plan, rules,
};
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

/// Kernel work that is collected before it is done.
#[derive(Default)]
struct Collected {
    up: Vec<(String, Waiting)>,
    down: Vec<(String, Option<Answer<()>>)>,
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
        // Names of what probably runs are there from the beginning: the first adoption must not take the
        // others' away.
        for (id, instance) in &task.instances {
            if task.folder.is_alive(id)
                && let Err(error) = plan::claim(&mut task.names, id, instance)
            {
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
                done = self.lane.next() => self.finish(done, &mut collected).await,
                Some(news) = self.news.1.recv() => self.hear(news).await,
                () = until(alarm) => self.ring().await,
            }
            self.carry_out(collected).await;
            self.show();
            let held = self.instances.values().map(plan::state).collect::<Vec<_>>();
            self.lane.advance(|| held.clone());
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

    async fn finish(&mut self, done: Done, collected: &mut Collected) {
        match done {
            Done::Allocated(asked, given) if asked.refresh => match given {
                Ok((_, given)) => self.refill(&asked.id, given.rules).await,
                Err(error) => {
                    tracing::debug!("rules of {} are not read anew: {}", asked.ident, error.info().message);
                }
            },
            Done::Allocated(asked, given) => {
                let stored = match given {
                    Ok((here, given)) => self.allocated(&asked.id, here, given).await,
                    Err(error) => Err(error),
                };
                let Some(answer) = self.starting.remove(&asked.id) else {
                    // Nobody waits any more; what was allocated for nothing is given back.
                    if !self.running.contains(&asked.id)
                        && stored.is_ok()
                        && let Err(error) = self.release(&asked.id).await
                    {
                        tracing::warn!("network of {}: {}", asked.ident, error.info().message);
                    }
                    return;
                };
                match stored {
                    Ok(()) => collected.up.push((asked.id, Waiting::Start(answer))),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Done::Released(ident, result) => {
                if let Err(error) = result {
                    let reason = error.info().message;
                    tracing::info!("network of {ident} is given back at the next comparison: {reason}");
                }
            }
            Done::Left(network, result) => self.left(&network, result).await,
            Done::Synchronised(result) => self.synchronised(result),
        }
    }

    /// Stores what CM gave. Parameters of a network that is in use stay as they are.
    async fn allocated(&mut self, id: &str, here: NodeNetwork, given: InstanceNetwork) -> Result<(), Error> {
        let network = given.network.clone();
        let in_use = self.users(&network).next().is_some();
        match self.networks.get(&network).cloned() {
            Some(known) if known == here => {}
            Some(_) if in_use => {
                tracing::warn!("network {network} has other parameters now, used when it is idle");
            }
            known => {
                if let Some(old) = known.as_ref().and_then(|known| plan::net(&network, known).ok()) {
                    self.plumb(move |plumbing| plumbing.down(&[], &[old])).await??;
                }
                self.database.set_network(network.clone(), Some(&here)).await?;
                self.networks.insert(network, here);
            }
        }
        if self.instances.get(id).is_some_and(|known| known.ip != given.ip || known.subnet != given.subnet) {
            self.take_down(&[id.to_owned()]).await?;
        }
        self.database.set_instance_network(id.to_owned(), Some(&given)).await?;
        self.instances.insert(id.to_owned(), given);
        Ok(())
    }

    fn users<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a String> {
        let of_network =
            move |id: &&String| self.instances.get(*id).is_some_and(|instance| instance.network == network);
        self.running.iter().filter(of_network)
    }

    async fn carry_out(&mut self, collected: Collected) {
        let Collected { up, down } = collected;
        if !down.is_empty() {
            let (ids, answers): (Vec<_>, Vec<_>) = down.into_iter().unzip();
            let result = self.take_down(&ids).await;
            for answer in answers.into_iter().flatten() {
                let own = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(Error::NotFound(format!("a complete end of a network ({error})"))),
                };
                let _ = answer.send(own);
            }
        }
        if !up.is_empty() {
            self.bring_up(up).await;
        }
    }

    async fn bring_up(&mut self, waiting: Vec<(String, Waiting)>) {
        let mut ready = Vec::new();
        let mut socketed = Vec::new();
        let mut carried = BTreeMap::new();
        for (id, waiting) in waiting {
            match self.plan(&id) {
                Ok(one) => {
                    carried.insert(id.clone(), self.ledger.of(&id));
                    socketed.push(one);
                    ready.push((id, waiting));
                }
                Err(error) => waiting.fail(error),
            }
        }
        let results = self.plumb(move |plumbing| plumbing.up(&socketed, &carried)).await;
        let mut results = match results {
            Ok(results) => results.into_iter(),
            Err(error) => {
                tracing::error!("networks are not set up: {}", error.info().message);
                Vec::new().into_iter()
            }
        };
        let mut networks = BTreeSet::new();
        let mut good = Vec::new();
        for (id, waiting) in ready {
            match results.next().unwrap_or(Err(Error::Ended("the network thread"))) {
                Ok(()) => {
                    networks.extend(self.instances.get(&id).map(|instance| instance.network.clone()));
                    self.running.insert(id.clone());
                    good.push((id, waiting));
                }
                Err(error) => {
                    self.forget_names(&id);
                    waiting.fail(error);
                }
            }
        }
        self.store_at = self.store_at.or_else(|| self.filtered.then(|| Instant::now() + STORE_PERIOD));
        for network in networks {
            if let Err(error) = self.serve_names(&network).await {
                tracing::warn!("names of network {network} are not served: {}", error.info().message);
            }
        }
        for (id, waiting) in good {
            match waiting {
                Waiting::Adoption(answer) => drop(answer.send(Ok(()))),
                Waiting::Start(answer) => drop(answer.send(self.prepared(&id))),
            }
        }
    }

    fn plan(&mut self, id: &str) -> Result<Socketed, Error> {
        let instance =
            self.instances.get(id).ok_or_else(|| Error::NotFound(format!("network of instance {id}")))?;
        let network = self
            .networks
            .get(&instance.network)
            .ok_or_else(|| Error::NotFound(format!("network {}", instance.network)))?;
        let one = plan::socketed(id, instance, network)?;
        plan::claim(&mut self.names, id, instance)?;
        Ok(one)
    }

    fn prepared(&self, id: &str) -> Result<Prepared, Error> {
        let missing = || Error::NotFound(format!("network of instance {id}"));
        let instance = self.instances.get(id).ok_or_else(missing)?;
        let network = self.networks.get(&instance.network).ok_or_else(missing)?;
        let InstanceNetwork { wishes, ip, dns, .. } = instance;
        Ok(Prepared {
            namespace: self.folder.path(id),
            hosts: names::hosts_text(ip, &instance.network, wishes.hostname.as_deref(), &wishes.hosts),
            resolv: names::resolv_text(&network.ip, dns),
            ip: ip.clone(),
        })
    }

    fn forget_names(&mut self, id: &str) {
        for names in self.names.values_mut() {
            names.release(id);
        }
    }

    async fn serve_names(&self, network: &str) -> Result<(), Error> {
        let Some(here) = self.networks.get(network) else { return Ok(()) };
        let table = self.names.get(network).map(Names::table).unwrap_or_default();
        let servers = self.instances.values().filter(|instance| instance.network == network);
        let mut upstream: Vec<IpAddr> =
            servers.flat_map(|instance| &instance.dns).filter_map(|server| server.parse().ok()).collect();
        let gateway = names::address_of(&here.ip)?;
        upstream.retain(|server| *server != IpAddr::V4(gateway));
        upstream.sort_unstable();
        upstream.dedup();
        self.dns.set(network, gateway, names::prefix_of(&here.subnet)?, table, upstream).await
    }

    /// Takes instances down, and networks that nobody uses any more.
    async fn take_down(&mut self, ids: &[String]) -> Result<(), Error> {
        self.count().await;
        let mut affected = BTreeSet::new();
        let mut list = Vec::new();
        for id in ids {
            self.running.remove(id);
            self.forget_names(id);
            affected.extend(self.instances.get(id).map(|instance| instance.network.clone()));
            list.push((id.clone(), names::veth_name(id)));
        }
        let mut idle = Vec::new();
        for network in affected {
            let named = if self.users(&network).next().is_some() {
                self.serve_names(&network).await
            } else {
                idle.extend(self.networks.get(&network).and_then(|here| plan::net(&network, here).ok()));
                self.names.remove(&network);
                self.dns.remove(&network).await
            };
            if let Err(error) = named {
                tracing::warn!("names of network {network} are not changed: {}", error.info().message);
            }
        }
        if self.running.is_empty() {
            self.store_at = None;
        }
        self.plumb(move |plumbing| plumbing.down(&list, &idle)).await?
    }

    async fn release(&mut self, id: &str) -> Result<(), Error> {
        self.take_down(&[id.to_owned()]).await?;
        if self.ledger.forget(id) {
            self.store().await;
        }
        let Some(instance) = self.instances.get(id).cloned() else { return Ok(()) };
        self.database.set_instance_network(id.to_owned(), None).await?;
        self.instances.remove(id);
        self.lane.push(Job::Release(instance.ident));
        self.leave_idle();
        Ok(())
    }

    /// Tells CM of networks without instances; they are remembered until CM knows.
    fn leave_idle(&mut self) {
        for network in self.networks.keys() {
            if !self.instances.values().any(|instance| instance.network == *network) {
                self.lane.push(Job::Leave(network.clone()));
            }
        }
    }

    async fn left(&mut self, network: &str, result: Result<(), Error>) {
        match result {
            // CM says no when it does not know the network or this node in it: that is as good.
            Ok(()) | Err(Error::Answer { .. }) => {}
            Err(error) => {
                tracing::info!("network {network} is given back later: {}", error.info().message);
                return;
            }
        }
        if self.instances.values().any(|instance| instance.network == network) {
            return;
        }
        if let Err(error) = self.database.set_network(network.to_owned(), None).await {
            tracing::warn!("network {network} is not forgotten: {}", error.info().message);
        }
        self.networks.remove(network);
    }

    fn synchronised(&mut self, result: Result<Option<Updates>, Error>) {
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
        let told = match result {
            Ok(updates) => {
                self.retry = None;
                self.reader =
                    updates.map(|updates| tokio::spawn(read(updates, self.news.0.clone())).abort_handle());
                self.leave_idle();
                Ok(())
            }
            Err(error) => {
                // Without connection the next one brings us here again.
                let connected = !matches!(error, Error::NotConnected { .. });
                self.retry = connected.then(|| Instant::now() + RETRY);
                Err(error)
            }
        };
        let reason = told.as_ref().err().map(|error| error.info().message);
        for answer in self.synchronising.drain(..) {
            let _ = answer.send(match &reason {
                None => Ok(()),
                Some(reason) => Err(Error::NotFound(format!("an agreement on networks ({reason})"))),
            });
        }
    }

    async fn hear(&mut self, news: News) {
        let update = match news {
            News::Update(update) => update,
            News::Ended => {
                self.reader = None;
                self.retry = Some(Instant::now() + RETRY);
                return;
            }
        };
        let Ok(ident) = instance(update.instance) else {
            tracing::warn!("rules for an instance nobody can name are dropped");
            return;
        };
        let id = ident.instance_id();
        let Some(known) = self.instances.get(&id).cloned() else {
            tracing::warn!("rules for {ident} are dropped, it is not here");
            return;
        };
        let more: Vec<_> = update.firewall_rules.into_iter().map(plan::rule).collect();
        match rules::appended(&known.rules, &more) {
            Ok(Some(list)) => self.refill(&id, list).await,
            Ok(None) => {}
            Err(error) => tracing::warn!("rules for {ident} are dropped: {error}"),
        }
        // Some managers send only what is new, so nothing is taken away by what they send; the answer to the
        // question for the instance's network is always the complete list.
        let asked = Allocation {
            id,
            ident: known.ident,
            known: self.networks.get(&known.network).cloned(),
            network: known.network,
            wishes: known.wishes,
            refresh: true,
        };
        self.lane.push(Job::Allocate(Box::new(asked)));
    }

    /// Gives an instance another list of rules; a list that cannot be used changes nothing.
    async fn refill(&mut self, id: &str, list: Vec<[String; 4]>) {
        let Some(known) = self.instances.get(id).filter(|known| known.rules != list).cloned() else { return };
        let next = InstanceNetwork { rules: list, ..known };
        let planned = self.networks.get(&next.network).map(|network| plan::socketed(id, &next, network));
        let one = match planned {
            Some(Ok(one)) => one,
            Some(Err(error)) => {
                tracing::warn!("rules for {} are dropped: {error}", next.ident);
                return;
            }
            None => return,
        };
        if let Err(error) = self.database.set_instance_network(id.to_owned(), Some(&next)).await {
            tracing::warn!("rules for {} are not stored: {}", next.ident, error.info().message);
        }
        let ident = next.ident.clone();
        self.instances.insert(id.to_owned(), next);
        if !self.running.contains(id) {
            return;
        }
        let result = self.plumb(move |plumbing| plumbing.refill(&[one])).await;
        let result = result.and_then(|results| results.into_iter().collect::<Result<(), _>>());
        match result {
            Ok(()) => tracing::info!("rules of {ident} have changed"),
            Err(error) => tracing::error!("rules of {ident} are not in force: {}", error.info().message),
        }
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

    /// Brings the remembered figures up to date, and begins a new period when the day is over.
    async fn count(&mut self) {
        if !self.filtered {
            return;
        }
        let over = self.ledger.turn(period::day_of(now()));
        let traffic = self
            .plumb(move |plumbing| {
                if over {
                    plumbing.reset()?;
                }
                plumbing.traffic()
            })
            .await;
        let changed = match traffic.and_then(|traffic| traffic) {
            Ok(traffic) => self.ledger.note(&traffic),
            Err(error) => {
                tracing::warn!("traffic is not counted: {}", error.info().message);
                false
            }
        };
        if changed || over {
            self.store().await;
        }
    }

    async fn store(&self) {
        let stored = match serde_json::to_vec(&self.ledger) {
            Ok(text) => self.database.set_fact(LEDGER, text).await,
            Err(source) => Err(Error::Encode { what: "traffic figures", source }),
        };
        if let Err(error) = stored {
            tracing::warn!("traffic figures are not stored: {}", error.info().message);
        }
    }

    /// Lets the plumbing work; one that broke is made anew from what is known.
    async fn plumb<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Plumbing) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let plumbing = if let Some(plumbing) = self.plumbing.take() {
            plumbing
        } else {
            let over = self.ledger.turn(period::day_of(now()));
            let known = self.known();
            let (folder, filtered, system) = (self.folder.clone(), self.filtered, self.ledger.system);
            Plumbing::open(folder, &known, filtered, system, over)?
        };
        let (plumbing, result) = plumbing.on_thread(work).await?;
        self.plumbing = Some(plumbing);
        Ok(result)
    }

    fn known(&self) -> Vec<Socketed> {
        let each = |(id, instance): (&String, &InstanceNetwork)| {
            let network: &NodeNetwork = self.networks.get(&instance.network)?;
            plan::socketed(id, instance, network).ok()
        };
        self.instances.iter().filter_map(each).collect()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn read(mut updates: Updates, news: mpsc::Sender<News>) {
    while let Ok(Some(message)) = updates.message().await {
        if let Some(Update::PendingFirewallUpdate(update)) = message.update
            && news.send(News::Update(update)).await.is_err()
        {
            return;
        }
    }
    let _ = news.send(News::Ended).await;
}

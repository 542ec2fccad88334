//! The task and the Communication Manager: what it answered, and what it sends by itself.

use aos_unit_api::convert::instance;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::instance_network_update_notification::Update;

use super::super::lane::{Allocation, Done, Job, Updates};
use super::super::{InstanceNetwork, NodeNetwork, plan, rules};
use super::{Collected, Given, News, RETRY, Task, Waiting};
use crate::Error;
use aos_unit_api::servicemanager::v5 as wire;

impl Task {
    pub(super) async fn finish(&mut self, done: Done, collected: &mut Collected) {
        match done {
            Done::Allocated(asked, given) if asked.refresh => match given {
                Ok((_, given)) => self.refill(&asked.id, given.rules).await,
                Err(error) => {
                    tracing::debug!("rules of {} are not read anew: {}", asked.ident, error.info().message);
                }
            },
            Done::Allocated(asked, given) => {
                let stored = match given {
                    Ok((here, given)) => self.allocated(&asked.id, here, given, &mut collected.given).await,
                    Err(error) => Err(error),
                };
                let Some(answer) = self.starting.remove(&asked.id) else {
                    // Nobody waits any more; what was allocated for nothing is given back.
                    collected.given.instances.remove(&asked.id);
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

    /// Takes what CM gave, and puts it into `store`. Parameters of a network that is in use stay as they are.
    pub(super) async fn allocated(
        &mut self,
        id: &str,
        here: NodeNetwork,
        given: InstanceNetwork,
        store: &mut Given,
    ) -> Result<(), Error> {
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
                store.networks.insert(network.clone(), here.clone());
                self.networks.insert(network, here);
            }
        }
        if self.instances.get(id).is_some_and(|known| known.ip != given.ip || known.subnet != given.subnet) {
            self.take_down(&[id.to_owned()]).await?;
        }
        store.instances.insert(id.to_owned(), given.clone());
        self.instances.insert(id.to_owned(), given);
        Ok(())
    }

    pub(super) fn users<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a String> {
        let of_network =
            move |id: &&String| self.instances.get(*id).is_some_and(|instance| instance.network == network);
        self.running.iter().filter(of_network)
    }

    pub(super) async fn release(&mut self, id: &str) -> Result<(), Error> {
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
    pub(super) fn leave_idle(&mut self) {
        for network in self.networks.keys() {
            if !self.instances.values().any(|instance| instance.network == *network) {
                self.lane.push(Job::Leave(network.clone()));
            }
        }
    }

    pub(super) async fn left(&mut self, network: &str, result: Result<(), Error>) {
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

    pub(super) fn synchronised(&mut self, result: Result<Option<Updates>, Error>) {
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

    pub(super) async fn hear(&mut self, news: News) {
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
    pub(super) async fn refill(&mut self, id: &str, list: Vec<[String; 4]>) {
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

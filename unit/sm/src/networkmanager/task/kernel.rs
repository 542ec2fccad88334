//! The task and the kernel: collected work is done, and what it means for names and figures follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::dns::Names;
use super::super::period;
use super::super::plumbing::{Plumbing, Socketed};
use super::super::{InstanceNetwork, NodeNetwork, Prepared, names, now, plan};
use super::{Collected, Given, LEDGER, STORE_PERIOD, Task, Waiting};
use crate::Error;

impl Task {
    pub(super) async fn carry_out(&mut self, collected: Collected) {
        let Collected { up, down, given } = collected;
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
        if !up.is_empty() || !given.is_empty() {
            self.bring_up(up, given).await;
        }
    }

    /// Brings instances up while what CM gave for them is stored.
    pub(super) async fn bring_up(&mut self, waiting: Vec<(String, Waiting)>, given: Given) {
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
        let database = self.database.clone();
        let storing = database.set_networks(&given.networks, &given.instances);
        let plumbing = self.plumb(move |plumbing| plumbing.up(&socketed, &carried));
        let (stored, results) = futures_util::future::join(storing, plumbing).await;
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
        if let Err(error) = stored {
            self.refuse(&mut good, &given, error).await;
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

    /// Takes back what was brought up but cannot be remembered: after a restart it would be nobody's.
    async fn refuse(&mut self, good: &mut Vec<(String, Waiting)>, given: &Given, error: Error) {
        let error = Arc::new(error);
        let (new, old) =
            std::mem::take(good).into_iter().partition(|(id, _)| given.instances.contains_key(id));
        *good = old;
        let new: Vec<(String, Waiting)> = new;
        let ids: Vec<String> = given.instances.keys().cloned().collect();
        if let Err(error) = self.take_down(&ids).await {
            tracing::error!("networks that are not stored are not taken down: {}", error.info().message);
        }
        for id in &ids {
            self.instances.remove(id);
        }
        for network in given.networks.keys() {
            self.networks.remove(network);
        }
        for (_, waiting) in new {
            waiting.fail(Error::Shared(Arc::clone(&error)));
        }
    }

    pub(super) fn plan(&mut self, id: &str) -> Result<Socketed, Error> {
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

    pub(super) fn prepared(&self, id: &str) -> Result<Prepared, Error> {
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

    pub(super) fn forget_names(&mut self, id: &str) {
        for names in self.names.values_mut() {
            names.release(id);
        }
        self.names.retain(|_, names| !names.is_empty());
    }

    pub(super) async fn serve_names(&self, network: &str) -> Result<(), Error> {
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
    pub(super) async fn take_down(&mut self, ids: &[String]) -> Result<(), Error> {
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

    /// Brings the remembered figures up to date, and begins a new period when the day is over.
    pub(super) async fn count(&mut self) {
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

    pub(super) async fn store(&self) {
        let stored = match serde_json::to_vec(&self.ledger) {
            Ok(text) => self.database.set_fact(LEDGER, text).await,
            Err(source) => Err(Error::Encode { what: "traffic figures", source }),
        };
        if let Err(error) = stored {
            tracing::warn!("traffic figures are not stored: {}", error.info().message);
        }
    }

    /// Lets the plumbing work; one that broke is made anew from what is known.
    pub(super) async fn plumb<T: Send + 'static>(
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

    pub(super) fn known(&self) -> Vec<Socketed> {
        let each = |(id, instance): (&String, &InstanceNetwork)| {
            let network: &NodeNetwork = self.networks.get(&instance.network)?;
            plan::socketed(id, instance, network).ok()
        };
        self.instances.iter().filter_map(each).collect()
    }
}

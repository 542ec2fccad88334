//! The launcher's start: takes up what runs, removes what nobody wants. Needs neither CM nor the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aos_ids::InstanceIdent;
use aos_keep::protocol::Exit;
use tokio::sync::{mpsc, watch};

use super::core::Core;
use super::events::{Ended, Facts, Found};
use super::probe::Prober;
use super::queue::Queue;
use super::workshop::{Workshop, facts_of};
use super::{Launcher, offline};
use crate::Error;
use crate::alerts::AlertSender;
use crate::database::Database;
use crate::imagemanager::ImageManager;
use crate::instance::InstanceInfo;
use crate::networkmanager::NetworkManager;
use crate::permissions::Permissions;
use crate::resourcemanager::ResourceManager;
use crate::resourcemanager::quotas::Quotas;
use crate::runtimes::head_start::HeadStart;
use crate::runtimes::keeper::{Keeper, Known};
use crate::runtimes::{Grace, Runtime};
use crate::smclient::Outgoing;

/// A runtime and the keeper behind it.
pub struct RuntimeEntry {
    /// The runtime.
    pub runtime: Box<dyn Runtime>,
    /// Its keeper.
    pub keeper: Keeper,
    /// What the keeper knew at start.
    pub known: Known,
}

/// What the launcher works with.
pub struct Parts {
    /// Runtimes by identifier.
    pub runtimes: BTreeMap<String, RuntimeEntry>,
    /// Images.
    pub images: ImageManager,
    /// Networks.
    pub networks: NetworkManager,
    /// Resources.
    pub resources: ResourceManager,
    /// Disk quotas.
    pub quotas: Quotas,
    /// Permissions at IAM.
    pub permissions: Permissions,
    /// Storage.
    pub database: Database,
    /// Messages to CM.
    pub outgoing: mpsc::Sender<Outgoing>,
    /// Alerts to CM.
    pub alerts: AlertSender,
    /// Exits from the keepers.
    pub exits: mpsc::Receiver<Exit>,
}

/// What runs at the start, and what ended before it.
#[derive(Default)]
struct Present {
    running: BTreeMap<String, (InstanceInfo, i32)>,
    missed: BTreeMap<String, Ended>,
}

impl Launcher {
    /// Takes up what runs and removes what nobody wants.
    pub async fn open(parts: Parts) -> Result<Self, Error> {
        let Parts {
            runtimes,
            images,
            networks,
            resources,
            quotas,
            permissions,
            database,
            outgoing,
            alerts,
            exits,
        } = parts;
        let stored = database.instances().await?;
        let starts = database.starts().await?;
        let ready = database.ready().await?;
        let wanted: BTreeSet<String> = stored.iter().map(InstanceInfo::id).collect();
        let mut present = Present::default();
        let mut entries = BTreeMap::new();
        for (name, entry) in runtimes {
            present.add(&wanted, &entry).await;
            entries.insert(name, (entry.runtime, entry.keeper));
        }
        let workshop = Arc::new(Workshop {
            runtimes: entries,
            images,
            networks,
            resources,
            quotas,
            permissions,
            database,
            alerts,
            prober: Prober::default(),
        });
        let running: BTreeSet<InstanceIdent> =
            present.running.values().map(|(info, _)| info.ident.clone()).collect();
        workshop.tidy(&wanted, &running).await;
        workshop.keep_storages(&stored).await;
        let mut first = Vec::new();
        for info in stored {
            let id = info.id();
            let running = present.running.remove(&id);
            let manifest = running.as_ref().map_or(info.manifest, |(actual, _)| actual.manifest);
            let image = workshop.images.present(&manifest);
            if let (Some(image), Some(_)) = (&image, &running) {
                workshop.resources.adopt(&id, &image.item.resources);
            }
            let facts: Option<Facts> = image.map(|image| facts_of(&image));
            let ready = running.as_ref().is_some_and(|(_, pid)| ready.get(&id) == Some(pid));
            first.push(Found { info, ready, running, missed: present.missed.remove(&id), facts });
        }
        let since = offline::since(&workshop.database).await;
        let core = Core::new(workshop.runtimes.keys().cloned().collect(), Some(since));
        Ok(Self {
            core,
            workshop,
            head_start: HeadStart::open(),
            first,
            queue: Queue::new(),
            open: BTreeMap::new(),
            images: BTreeMap::new(),
            starts,
            asked: BTreeMap::new(),
            start_times: BTreeMap::new(),
            outgoing,
            backlog: false,
            exits,
            watched: watch::Sender::new(Arc::new(Vec::new())),
        })
    }
}

impl Present {
    async fn add(&mut self, wanted: &BTreeSet<String>, entry: &RuntimeEntry) {
        let RuntimeEntry { runtime, keeper, known } = entry;
        for alive in runtime.attach(wanted, known).await {
            let id = alive.info.id();
            if self.running.contains_key(&id) {
                // One process for each instance; which one is kept does not matter, the wish corrects it.
                if let Err(error) = runtime.stop(&id, Grace::Configured).await {
                    tracing::error!("{id} runs twice: {}", error.info().message);
                }
                continue;
            }
            self.running.insert(id, (alive.info, alive.pid));
        }
        for (id, exit) in &known.exits {
            // Not acknowledged, it comes again with the keeper's next list.
            if let Err(error) = keeper.acknowledge(id.clone(), exit.pid).await {
                tracing::warn!("the end of {id} is not acknowledged: {}", error.info().message);
            }
            let ended = Ended { code: exit.code, signal: exit.signal, ..Ended::default() };
            self.missed.insert(id.clone(), ended);
        }
    }
}

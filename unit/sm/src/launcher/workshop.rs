//! Carries the launcher's orders out: everything a start or a stop consists of, in its order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aos_ids::InstanceIdent;
use aos_item_format::{ItemConfig, Probe};

use super::events::{Event, Facts, Failure, FailureKind, Why};
use super::health::{ProbeError, Question};
use super::probe::{Asked, Prober};
use super::restart::RunParameters;
use crate::Error;
use crate::alerts::AlertSender;
use crate::database::Database;
use crate::imagemanager::{Image, ImageManager};
use crate::instance::InstanceInfo;
use crate::networkmanager::{NetworkManager, Prepared, Wishes};
use crate::permissions::{Permissions, Secret};
use crate::resourcemanager::quotas::{Limits, Quotas};
use crate::resourcemanager::{Attached, ResourceManager};
use crate::runtimes::keeper::Keeper;
use crate::runtimes::{Grace, Runtime, StartJob};

/// What orders are carried out with.
pub struct Workshop {
    /// Runtimes by identifier, each with its keeper.
    pub runtimes: BTreeMap<String, (Box<dyn Runtime>, Keeper)>,
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
    /// Alerts to CM.
    pub alerts: AlertSender,
    /// Questions about health.
    pub prober: Prober,
}

/// What comes back from an order.
pub enum Done {
    /// Just what happened.
    Event(Event),
    /// The image is here.
    Prepared(Box<InstanceInfo>, Arc<Image>),
    /// Everything for a start is here; with the number of starts there have been.
    Provided(Box<StartJob>, Option<u64>),
}

impl Workshop {
    pub fn runtime(&self, name: &str) -> Result<&dyn Runtime, Error> {
        let (runtime, _) = self.runtimes.get(name).ok_or_else(|| Error::NotFound("runtime".to_owned()))?;
        Ok(runtime.as_ref())
    }

    async fn image(&self, info: &InstanceInfo) -> Result<Arc<Image>, Error> {
        self.images.install(info.ident.item.to_string(), info.version.clone(), info.manifest).await
    }

    pub async fn prepare(self: Arc<Self>, info: Box<InstanceInfo>) -> Done {
        match self.image(&info).await {
            Ok(image) => Done::Prepared(info, image),
            Err(error) => Done::Event(Event::Prepared(info, Err(failure(&error)))),
        }
    }

    /// First half of a start: everything but the process.
    pub async fn provide(self: Arc<Self>, info: Box<InstanceInfo>, image: Option<Arc<Image>>) -> Done {
        // Counted before it happens: a crash in between may count one too many, never one too few.
        let counting = self.database.count_start(info.id());
        let (counted, job) = futures_util::future::join(counting, self.everything(&info, image)).await;
        if let Err(error) = &counted {
            tracing::error!("{}", error.info().message);
        }
        match job {
            Ok(job) => Done::Provided(Box::new(job), counted.ok()),
            Err(error) => self.failed_start(info, &error).await,
        }
    }

    /// Second half of a start: the process.
    pub async fn start(self: Arc<Self>, job: Box<StartJob>) -> Done {
        let started = match self.runtime(&job.info.runtime) {
            Ok(runtime) => runtime.start(&job).await,
            Err(error) => Err(error),
        };
        let info = Box::new(job.info.clone());
        match started {
            Ok(pid) => Done::Event(Event::Started(info, Ok(pid))),
            Err(error) => self.failed_start(info, &error).await,
        }
    }

    async fn failed_start(&self, info: Box<InstanceInfo>, error: &Error) -> Done {
        self.take_back(&info, error).await;
        Done::Event(Event::Started(info, Err(failure(error))))
    }

    /// Everything an instance needs, before its process.
    async fn everything(&self, info: &InstanceInfo, image: Option<Arc<Image>>) -> Result<StartJob, Error> {
        let runtime = self.runtime(&info.runtime)?;
        let image = match image {
            Some(image) => image,
            None => self.image(info).await?,
        };
        let attached = self.resources.allocate(&info.id(), &image.item.resources)?;
        let data = runtime.places(info)?;
        let quotas = &image.item.quotas;
        let limits = Limits {
            uid: info.uid,
            gid: info.gid,
            storage: data.storage.clone().zip(quotas.storage_limit),
            state: data.state.clone().zip(quotas.state_limit),
        };
        let limiting = self.quotas.apply(limits);
        let (limited, secret, network) = futures_util::future::join3(
            limiting,
            self.secret(info, &image.item),
            self.network(info, &image, &attached),
        )
        .await;
        limited?;
        let (secret, network) = (secret?, network?);
        // Folders first: limits may need ones of a special kind.
        let data = data.make(info.uid, info.gid)?;
        Ok(StartJob { info: info.clone(), image, attached, network, secret, data })
    }

    async fn secret(&self, info: &InstanceInfo, item: &ItemConfig) -> Result<Option<Secret>, Error> {
        if item.permissions.is_empty() {
            // A version before this one may have had some.
            self.permissions.unregister(&info.ident).await?;
            return Ok(None);
        }
        self.permissions.register(&info.ident, &item.permissions).await.map(Some)
    }

    async fn network(
        &self,
        info: &InstanceInfo,
        image: &Image,
        attached: &Attached,
    ) -> Result<Option<Prepared>, Error> {
        if !self.runtime(&info.runtime)?.has_networks() {
            return Ok(None);
        }
        let quotas = &image.item.quotas;
        let wishes = Wishes {
            hostname: image.item.hostname.clone(),
            exposed_ports: image.config.config.exposed_ports.keys().cloned().collect(),
            allowed_connections: image.item.allowed_connections.iter().map(ToString::to_string).collect(),
            hosts: attached.hosts.clone(),
            upload_speed: quotas.upload_speed,
            download_speed: quotas.download_speed,
            upload_limit: quotas.upload_limit,
            download_limit: quotas.download_limit,
        };
        self.networks.prepare(info, wishes).await.map(Some)
    }

    /// After a start that failed others may have what this one got.
    async fn take_back(&self, info: &InstanceInfo, error: &Error) {
        let id = info.id();
        if let Error::ResourceTaken { resource, .. } = error {
            self.alerts.resource(&info.ident, resource, &error.info().message);
        }
        self.resources.release(&id);
        if let Err(error) = self.networks.stop(id.clone()).await {
            tracing::warn!(
                "the network of {id} is not taken down after a failed start: {}",
                error.info().message
            );
        }
    }

    pub async fn stop(
        self: Arc<Self>,
        info: Box<InstanceInfo>,
        why: Why,
        runtimes: BTreeSet<String>,
    ) -> Done {
        let id = info.id();
        let mut result = Ok(());
        // All steps run whatever fails; the first failure is reported.
        for (_, (runtime, _)) in self.runtimes.iter().filter(|(name, _)| runtimes.contains(*name)) {
            result = result.and(runtime.stop(&id, Grace::Configured).await);
        }
        let ended = result.is_ok();
        result = result.and(if why == Why::Remove {
            self.networks.release(id.clone()).await
        } else {
            self.networks.stop(id.clone()).await
        });
        if ended {
            // A process that could not be ended still has its devices.
            self.resources.release(&id);
        }
        if why != Why::Replace && why != Why::Unhealthy {
            result = result.and(self.permissions.unregister(&info.ident).await);
        }
        if why == Why::Remove {
            result = result.and(self.forget(&info).await);
        }
        Done::Event(Event::Stopped(info.ident.clone(), result.map_err(|error| failure(&error))))
    }

    async fn forget(&self, info: &InstanceInfo) -> Result<(), Error> {
        let id = info.id();
        let mut result = Ok(());
        for (runtime, _) in self.runtimes.values() {
            result = result.and(runtime.remove_log(&id));
        }
        if let Ok(data) = self.runtime(&info.runtime).and_then(|runtime| runtime.places(info)) {
            let nothing = |path| (path, 0);
            let (storage, state) = (data.storage.map(nothing), data.state.map(nothing));
            let limits = Limits { uid: info.uid, gid: info.gid, storage, state };
            result = result.and(self.quotas.remove(limits).await);
        }
        result.and(self.database.forget_starts(id).await)
    }

    pub async fn probe(
        self: Arc<Self>,
        info: Box<InstanceInfo>,
        pid: i32,
        question: Question,
        probe: Box<Probe>,
    ) -> Done {
        let id = info.id();
        let result = match self.runtime(&info.runtime) {
            Ok(runtime) => {
                let address = self.networks.addresses().get(&id).and_then(|text| text.parse().ok());
                let address = address.filter(|_| runtime.has_networks());
                self.prober.ask(&Asked { runtime, id: &id, pid, address }, &probe).await
            }
            Err(error) => Err(ProbeError::NoRuntime(error)),
        };
        Done::Event(Event::Probed { ident: info.ident.clone(), pid, question, result })
    }

    /// After the start of this program: ends what only storages of instances that are gone need.
    pub async fn keep_storages(&self, stored: &[InstanceInfo]) {
        let places = |info: &InstanceInfo| self.runtime(&info.runtime).ok()?.places(info).ok()?.storage;
        let wanted = stored.iter().filter_map(places).collect();
        if let Err(error) = self.quotas.retain(wanted).await {
            tracing::error!("storages of the past are not let go: {}", error.info().message);
        }
    }

    pub async fn acknowledge(&self, id: String, pid: i32) {
        for (_, keeper) in self.runtimes.values() {
            if let Err(error) = keeper.acknowledge(id.clone(), pid).await {
                tracing::debug!("{}", error.info().message);
            }
        }
    }

    /// What is left of instances that do not run, after the start of this program.
    pub async fn tidy(&self, wanted: &BTreeSet<String>, running: &BTreeSet<InstanceIdent>) {
        let alive: BTreeSet<String> = running.iter().map(InstanceIdent::instance_id).collect();
        for id in self.networks.addresses().into_keys() {
            let cleaned = if !wanted.contains(&id) {
                self.networks.release(id.clone()).await
            } else if alive.contains(&id) {
                self.networks.adopt(id.clone()).await
            } else {
                self.networks.stop(id.clone()).await
            };
            // What is left is in nobody's way: a start makes it anew, a release is tried again next time.
            if let Err(error) = cleaned {
                tracing::error!("the network of {id} is not as it should be: {}", error.info().message);
            }
        }
        if let Err(error) = self.permissions.retain(running).await {
            tracing::warn!("permissions of the past are not taken back: {}", error.info().message);
        }
    }
}

pub fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::ResourceTaken { .. } | Error::Taken { .. } => FailureKind::Conflict,
        error if error.is_passing() => FailureKind::Passing,
        _ => FailureKind::Lasting,
    };
    Failure { error: error.info(), kind }
}

pub fn facts_of(image: &Image) -> Facts {
    let run = &image.item.run_parameters;
    Facts {
        run: RunParameters {
            start_interval: run.start_interval.get(),
            start_burst: u32::try_from(run.start_burst.max(0)).unwrap_or(u32::MAX),
            restart_interval: run.restart_interval.get(),
        },
        offline_ttl: image
            .item
            .offline_ttl
            .map(aos_duration_text::DurationText::get)
            .filter(|ttl| *ttl > Duration::ZERO),
        probes: Some(image.item.probes.clone()).filter(|probes| !probes.is_empty()).map(Arc::new),
        storage_limit: image.item.quotas.storage_limit.filter(|limit| *limit > 0),
        state_limit: image.item.quotas.state_limit.filter(|limit| *limit > 0),
    }
}

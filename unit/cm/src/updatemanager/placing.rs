//! The coordinator's work with nodes and instances.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use aos_ids::NodeId;

use super::accept::run_requests;
use super::coordinator::{Coordinator, CoordinatorError};
use super::machine::Event as Step;
use crate::launcher::core::{Images, Surroundings};
use crate::launcher::placement::Space;
use crate::launcher::records::Change;
use crate::launcher::{messages, numbers, store};
use crate::smcontroller::{Command, Event};
use crate::{database, imagemanager, images, unitconfig};

impl Coordinator {
    pub(super) fn on_node(&mut self, event: Event) -> Result<(), CoordinatorError> {
        let now = Instant::now();
        match event {
            Event::Info(node, info) => {
                let new = !self.nodes.connected().any(|known| *known == node);
                self.nodes.sm_says(&node, info);
                if new {
                    self.links.reset(&node);
                    self.bring_up_to_date(&node);
                    self.ask_again_for_logs(&node);
                }
                self.reporter.touch(now);
                self.nodes_changed()?;
            }
            Event::Gone(node) => {
                self.nodes.sm_gone(&node, now);
                self.links.reset(&node);
                self.logs_lost(&node)?;
                self.reporter.touch(now);
                self.nodes_changed()?;
            }
            Event::AllInstances(node, reports) => {
                self.launcher.node_reports(&node, reports);
                self.nodes.reported(&node);
                if let Some(command) = self.links.spoke(&node) {
                    self.environments_told(&node, &command)?;
                }
                self.instances_changed(&node)?;
                self.try_launch()?;
            }
            Event::SomeInstances(node, reports) => {
                self.launcher.update_reports(&node, reports);
                self.instances_changed(&node)?;
            }
            Event::Alert(node, alert) => self.alerts.push(&node, alert, now),
            Event::Monitoring(node, samples) => self.samples.push(&node, samples, now),
            Event::Log(node, log) => self.on_log(&node, log)?,
        }
        Ok(())
    }

    fn instances_changed(&mut self, node: &NodeId) -> Result<(), CoordinatorError> {
        let now = Instant::now();
        self.reporter.touch(now);
        self.note_states();
        self.command(node);
        let starting = self.launcher.starting();
        let actions = self.machine.on(now, Step::Instances { starting });
        self.act(actions)
    }

    /// A node came, went or changed: waiting instances may find a place now.
    pub(super) fn nodes_changed(&mut self) -> Result<(), CoordinatorError> {
        self.note_states();
        let usable: BTreeSet<NodeId> = self.usable_nodes().into_iter().map(|node| node.id).collect();
        if usable != self.seen {
            self.seen.clone_from(&usable);
            self.reporter.touch(Instant::now());
        }
        self.try_launch()?;
        if self.is_launching() {
            return Ok(());
        }
        let lost = |node: &NodeId| !usable.contains(node) && self.nodes.is_lost(node, Instant::now());
        let homeless = self.launcher.records().values().any(|record| record.node.as_ref().is_some_and(lost));
        let changed = self.placed_on != usable;
        if changed && (homeless || self.launcher.has_unplaced()) {
            self.placed_on = usable;
            self.balance()?;
        }
        Ok(())
    }

    /// The Unit's subjects changed.
    pub(super) fn rebalance_for_subjects(&mut self) -> Result<(), CoordinatorError> {
        let concerned = self.launcher.requests().iter().any(|request| request.unit_subject);
        if concerned && !self.is_launching() { self.balance() } else { Ok(()) }
    }

    fn usable_nodes(&self) -> Vec<crate::launcher::placement::Node> {
        self.nodes.for_placement(Instant::now(), |node, kind| {
            let config = self.configs.current();
            config.map(|config| config.for_node(node.as_str(), kind)).unwrap_or_default()
        })
    }

    /// Takes over what the wish wants to run.
    pub(super) fn take_requests(&mut self) -> Result<(), CoordinatorError> {
        let requests = self.machine.desired().and_then(|desired| run_requests(desired, &self.parts.book));
        if let Some(requests) = requests {
            self.launcher.set_requests(requests);
            let kept = database::put_document(&self.parts.db, database::REQUESTS, &self.launcher.requests());
            kept.map_err(CoordinatorError::from)?;
        }
        Ok(())
    }

    /// Places all instances and tells the nodes.
    pub(super) fn balance(&mut self) -> Result<(), CoordinatorError> {
        let nodes = self.usable_nodes();
        let connected = self.nodes.connected().cloned().collect();
        let images = self.images();
        let system =
            ["/etc/passwd", "/etc/group"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
        let system_numbers = system.iter().flat_map(|file| numbers::numbers_of(file)).collect();
        let changes = self.launcher.balance(&Surroundings {
            nodes: &nodes,
            connected: &connected,
            withdrawn: &self.nodes.withdrawn(),
            images: &images,
            space: self.space(),
            subjects: &self.subjects,
            system_numbers: &system_numbers,
            now: SystemTime::now(),
        });
        self.placed_on = nodes.into_iter().map(|node| node.id).collect();
        self.keep_instances(&changes)?;
        self.set_environments()?;
        self.reporter.touch(Instant::now());
        for node in self.links.nodes() {
            self.command(&node);
        }
        Ok(())
    }

    fn images(&self) -> Images {
        let wanted =
            self.launcher.requests().iter().map(|request| (request.item.clone(), request.version.clone()));
        let wanted: BTreeSet<_> = wanted.collect();
        let load = |(id, version): (aos_ids::ItemId, String)| {
            let image = match self.parts.book.get(&id, &version) {
                Some(record) => record
                    .error
                    .clone()
                    .filter(|_| record.state == aos_status::ItemState::Failed)
                    .map_or_else(|| images::load(&self.parts.store, &record.index), Err),
                None => Err(imagemanager::not_here(&id, &version)),
            };
            ((id, version), image)
        };
        wanted.into_iter().map(load).collect()
    }

    fn space(&self) -> Space {
        let Some(main) = self.parts.main_node.borrow().clone() else { return Space::default() };
        let storage = self.nodes.partition(&main, "storages");
        let state = self.nodes.partition(&main, "states");
        let common = matches!((&storage, &state), (Some(one), Some(other)) if one.0 == other.0);
        let size =
            |partition: Option<(String, u64)>| partition.map(|(_, size)| size).filter(|size| *size > 0);
        Space { storage: size(storage), state: size(state), common }
    }

    /// Stores changed records, makes the data folders of new ones and removes those of forgotten ones.
    pub(super) fn keep_instances(&mut self, changes: &[Change]) -> Result<(), CoordinatorError> {
        store::apply(&mut self.parts.db, changes)?;
        for ((ident, _), record) in changes {
            match record {
                Some(record) if record.node.is_some() => {
                    if let Err(error) = self.data.prepare(ident, record) {
                        tracing::error!("storage of instance {ident} cannot be made: {error}");
                    }
                    self.set_up_state(ident, record)?;
                }
                Some(record) => self.set_up_state(ident, record)?,
                None if self.launcher.records().keys().any(|(known, _)| known == ident) => {}
                None => {
                    self.data.remove(ident);
                    self.states.forget(&self.parts.db, ident)?;
                }
            }
        }
        Ok(())
    }

    /// Tells a node what to do, when there is something and it is ready for it.
    pub(super) fn command(&mut self, node: &NodeId) {
        if self.machine.desired().is_none() {
            // Nobody ever told us what should run, or we lost it: what runs is left alone.
            return;
        }
        let command = self.launcher.command(node);
        if !self.links.send(node, &command, Instant::now()) {
            return;
        }
        tracing::info!("node {node}: {} to run, {} to stop", command.start.len(), command.stop.len());
        let update = Command::Update(node.clone(), messages::update(&command));
        if !self.parts.controller.send(update) {
            tracing::warn!("instances of node {node} cannot be sent now");
            self.links.not_sent(node, Instant::now());
        }
    }

    pub(super) fn bring_up_to_date(&self, node: &NodeId) {
        let Some(config) = self.configs.current().cloned() else { return };
        let connected = self.nodes.connected_with_types();
        let Some((node, kind)) = connected.into_iter().find(|(known, _)| known == node) else { return };
        let controller = self.parts.controller.clone();
        tokio::spawn(async move { unitconfig::bring_up_to_date(&controller, &node, &kind, &config).await });
    }
}

//! Where instances run: a pure and deterministic choice.
//!
//! Instances are placed in the order given (priority first). An instance that runs stays where it is as long
//! as that place still fits it. Only when keeping everything in place would leave an instance without room is
//! the order of priority enforced strictly, and instances of lower priority may move.
//!
//! Candidates are filtered by node, labels, resources, runtime type, platform, CPU, RAM and room for one more
//! instance; of the nodes left those with the highest priority count; of these the one with most free CPU, then
//! most free RAM, then the lowest identifier wins.

mod candidates;

use std::collections::{BTreeMap, BTreeSet};

use aos_ids::{Digest, ItemKind, NodeId, RuntimeId};
use aos_item_format::Platform;
use aos_status::{AosCode, ErrorInfo};

/// Runtime types that an item without a list of its own accepts.
const DEFAULT_RUNTIMES: [&str; 2] = ["crun", "runc"];
/// Instances of a runtime that names no limit.
const DEFAULT_MAX_INSTANCES: u64 = 256;
/// Share of a quota that is reserved when nothing else is said, percent.
const DEFAULT_RATIO: f64 = 50.0;

/// Percentages of quotas that a node reserves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ratios {
    /// CPU, percent.
    pub cpu: Option<f64>,
    /// RAM, percent.
    pub ram: Option<f64>,
    /// Storage, percent.
    pub storage: Option<f64>,
    /// State, percent.
    pub state: Option<f64>,
}

/// A runtime of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Its identifier.
    pub id: RuntimeId,
    /// Its type: `crun`, `runc`, or the codename of a component.
    pub kind: String,
    /// Own CPU pool, DMIPS; `None` = the node's.
    pub cpu: Option<u64>,
    /// Own RAM pool, bytes; `None` = the node's.
    pub ram: Option<u64>,
    /// Most instances; 0 = 256.
    pub max_instances: u64,
    /// What it runs on.
    pub platform: Platform,
}

/// A node that may take instances.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its identifier.
    pub id: NodeId,
    /// Higher is preferred.
    pub priority: u64,
    /// Labels it carries.
    pub labels: Vec<String>,
    /// Shares of quotas reserved on it.
    pub ratios: Ratios,
    /// CPU capacity, DMIPS.
    pub cpu: u64,
    /// RAM capacity, bytes.
    pub ram: u64,
    /// Shared resources and how many instances may have each; 0 = unlimited.
    pub resources: Vec<(String, u64)>,
    /// Its runtimes.
    pub runtimes: Vec<Runtime>,
}

/// Amounts of the four resources an instance asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// DMIPS.
    pub cpu: Option<u64>,
    /// Bytes.
    pub ram: Option<u64>,
    /// Bytes.
    pub storage: Option<u64>,
    /// Bytes.
    pub state: Option<u64>,
}

/// One way to run an item: a manifest of its index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variant {
    /// Digest of the manifest.
    pub manifest: Option<Digest>,
    /// Platform of the image.
    pub platform: Platform,
    /// Accepted runtime types; empty = `crun` and `runc`.
    pub runtimes: Vec<String>,
    /// All requests count as 0.
    pub skip_limits: bool,
    /// Limits.
    pub quota: Amounts,
    /// What is to be reserved, when it differs from the rule.
    pub requested: Amounts,
    /// Node resources needed.
    pub resources: Vec<String>,
}

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Node.
    pub node: NodeId,
    /// Runtime on it.
    pub runtime: RuntimeId,
    /// Manifest to run there.
    pub manifest: Option<Digest>,
}

/// An instance to be placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish<'a> {
    /// Services have limits and need resources, components do not.
    pub kind: ItemKind,
    /// Labels the node must carry.
    pub labels: &'a [String],
    /// The item's variants in order of preference, or why there are none.
    pub variants: Result<&'a [Variant], ErrorInfo>,
    /// Where it runs now.
    pub present: Option<(&'a NodeId, &'a RuntimeId)>,
    /// The only place it may run.
    pub pinned: Option<(&'a NodeId, &'a RuntimeId)>,
}

/// Storage and state space of the Unit; `None` = not known, not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes for storages.
    pub storage: Option<u64>,
    /// Bytes for states.
    pub state: Option<u64>,
    /// Both lie on one partition: `storage` counts for both.
    pub common: bool,
}

/// Decides a place for every wish, in the order given. Instances may stay on any of `nodes`; only those that
/// are `connected` take new ones.
pub fn place(
    wishes: &[Wish<'_>],
    nodes: &[Node],
    connected: &BTreeSet<NodeId>,
    space: Space,
) -> Vec<Result<Place, ErrorInfo>> {
    let attempt = |keep| attempt(wishes, nodes, connected, space, keep);
    let kept = attempt(true);
    let short = |result: &Result<Place, ErrorInfo>| result.is_err();
    let Some(first) = kept.iter().position(short) else { return kept };
    let strict = attempt(false);
    match strict.iter().position(short) {
        None => strict,
        Some(place) if place > first => strict,
        Some(_) => kept,
    }
}

/// One pass. With `keep`, all instances that run reserve their places before any other is placed.
fn attempt(
    wishes: &[Wish<'_>],
    nodes: &[Node],
    connected: &BTreeSet<NodeId>,
    space: Space,
    keep: bool,
) -> Vec<Result<Place, ErrorInfo>> {
    let mut room = Room::new(nodes, connected, space);
    let mut results: Vec<Option<Result<Place, ErrorInfo>>> = vec![None; wishes.len()];
    if keep {
        for (wish, result) in wishes.iter().zip(&mut results) {
            if wish.present.is_some() {
                *result = room.keep(wish).map(Ok);
            }
        }
    }
    let rest = wishes.iter().zip(results).map(|(wish, result)| match result {
        Some(result) => result,
        None => room.keep(wish).map_or_else(|| room.choose(wish), Ok),
    });
    rest.collect()
}

/// Free own CPU, own RAM, instances of a runtime.
type RuntimeRoom = (Option<u64>, Option<u64>, u64);

struct Room<'a> {
    nodes: &'a [Node],
    connected: &'a BTreeSet<NodeId>,
    /// Per node: free CPU and RAM.
    free: Vec<(u64, u64)>,
    runtimes: Vec<Vec<RuntimeRoom>>,
    /// Per node and resource name: left; `None` = unlimited.
    resources: Vec<BTreeMap<&'a str, Option<u64>>>,
    space: Space,
}

#[derive(Clone, Copy)]
struct Needs {
    cpu: u64,
    ram: u64,
    storage: u64,
    state: u64,
}

impl<'a> Room<'a> {
    fn new(nodes: &'a [Node], connected: &'a BTreeSet<NodeId>, space: Space) -> Self {
        let count = |max: u64| if max == 0 { DEFAULT_MAX_INSTANCES } else { max };
        Self {
            nodes,
            connected,
            free: nodes.iter().map(|node| (node.cpu, node.ram)).collect(),
            runtimes: nodes
                .iter()
                .map(|node| node.runtimes.iter().map(|r| (r.cpu, r.ram, count(r.max_instances))).collect())
                .collect(),
            resources: nodes
                .iter()
                .map(|node| {
                    let left = |count: u64| if count == 0 { None } else { Some(count) };
                    node.resources.iter().map(|(name, count)| (name.as_str(), left(*count))).collect()
                })
                .collect(),
            space,
        }
    }

    /// Reserves the present place when it still fits.
    fn keep(&mut self, wish: &Wish<'_>) -> Option<Place> {
        let (node, runtime) = wish.present?;
        let variants = wish.variants.as_ref().ok()?;
        let n = self.nodes.iter().position(|known| known.id == *node)?;
        let r = self.nodes[n].runtimes.iter().position(|known| known.id == *runtime)?;
        variants.iter().find_map(|variant| {
            let fits = self.candidates(wish, variant).ok()?.contains(&(n, r));
            if fits { self.reserve(wish, variant, n, r).ok() } else { None }
        })
    }

    /// The best place by the rules, for the first variant that has one.
    fn choose(&mut self, wish: &Wish<'_>) -> Result<Place, ErrorInfo> {
        let variants = wish.variants.clone()?;
        let mut last = not_found("item has no manifest");
        for variant in variants {
            match self.best(wish, variant).and_then(|(n, r)| self.reserve(wish, variant, n, r)) {
                Ok(place) => return Ok(place),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn best(&self, wish: &Wish<'_>, variant: &Variant) -> Result<(usize, usize), ErrorInfo> {
        let mut candidates = self.candidates(wish, variant)?;
        candidates.retain(|(n, _)| self.connected.contains(&self.nodes[*n].id));
        let top = candidates.iter().map(|(n, _)| self.nodes[*n].priority).max().unwrap_or(0);
        let rank = |&(n, r): &(usize, usize)| {
            let node = &self.nodes[n];
            let (cpu, ram) = (self.cpu(n, r), self.ram(n, r));
            (std::cmp::Reverse((cpu, ram)), node.id.clone(), node.runtimes[r].kind.clone())
        };
        candidates
            .into_iter()
            .filter(|(n, _)| self.nodes[*n].priority == top)
            .min_by_key(rank)
            .ok_or_else(|| not_found("no connected nodes"))
    }

    fn cpu(&self, n: usize, r: usize) -> u64 {
        self.runtimes[n][r].0.unwrap_or(self.free[n].0)
    }

    fn ram(&self, n: usize, r: usize) -> u64 {
        self.runtimes[n][r].1.unwrap_or(self.free[n].1)
    }

    fn reserve(
        &mut self,
        wish: &Wish<'_>,
        variant: &Variant,
        n: usize,
        r: usize,
    ) -> Result<Place, ErrorInfo> {
        let node = &self.nodes[n];
        if wish.kind != ItemKind::Component {
            let needs = needs(variant, &node.ratios);
            self.space = self.space.take(needs)?;
            let runtime = &mut self.runtimes[n][r];
            let cpu = runtime.0.as_mut().unwrap_or(&mut self.free[n].0);
            *cpu = cpu.saturating_sub(needs.cpu);
            let ram = runtime.1.as_mut().unwrap_or(&mut self.free[n].1);
            *ram = ram.saturating_sub(needs.ram);
            for name in &variant.resources {
                if let Some(Some(count)) = self.resources[n].get_mut(name.as_str()) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        self.runtimes[n][r].2 = self.runtimes[n][r].2.saturating_sub(1);
        Ok(Place { node: node.id.clone(), runtime: node.runtimes[r].id.clone(), manifest: variant.manifest })
    }
}

impl Space {
    fn take(mut self, needs: Needs) -> Result<Self, ErrorInfo> {
        let less = |pool: &mut Option<u64>, amount: u64, what: &str| {
            if let Some(left) = pool {
                *left = left.checked_sub(amount).ok_or_else(|| ErrorInfo::new(AosCode::NoMemory, what))?;
            }
            Ok::<(), ErrorInfo>(())
        };
        less(&mut self.storage, needs.storage, "not enough storage space")?;
        let state = if self.common { &mut self.storage } else { &mut self.state };
        less(state, needs.state, "not enough state space")?;
        Ok(self)
    }
}

fn not_found(what: &str) -> ErrorInfo {
    ErrorInfo::new(AosCode::NotFound, what)
}

fn needs(variant: &Variant, ratios: &Ratios) -> Needs {
    let one = |requested: Option<u64>, quota: Option<u64>, ratio: Option<f64>| -> u64 {
        if variant.skip_limits {
            return 0;
        }
        match (requested, quota) {
            (Some(requested), quota) => requested.min(quota.unwrap_or(u64::MAX)),
            (None, Some(quota)) => share(quota, ratio.unwrap_or(DEFAULT_RATIO)),
            (None, None) => 0,
        }
    };
    Needs {
        cpu: one(variant.requested.cpu, variant.quota.cpu, ratios.cpu),
        ram: one(variant.requested.ram, variant.quota.ram, ratios.ram),
        storage: one(variant.requested.storage, variant.quota.storage, ratios.storage),
        state: one(variant.requested.state, variant.quota.state, ratios.state),
    }
}

/// `percent` of `amount`, at most all of it, rounded half up.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // 0..=amount
fn share(amount: u64, percent: f64) -> u64 {
    ((amount as f64) * (percent.clamp(0.0, 100.0) / 100.0) + 0.5).floor() as u64
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;

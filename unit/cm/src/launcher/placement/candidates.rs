//! Which places an instance may have: the filters, and what is said when none is left.
//!
//! The error names the first filter that left nothing, what was wanted, and what the nodes have, in at most 200
//! characters: it is read by whoever assigned the item.

use aos_ids::{ItemKind, NodeId};
use aos_item_format::Platform;
use aos_status::ErrorInfo;

use super::{DEFAULT_RUNTIMES, Needs, Room, Variant, Wish, needs, not_found};

/// Longest reason, characters.
const MAX_REASON: usize = 200;

impl<'a> Room<'a> {
    /// All places that pass every filter; the error names the first filter that left none, what was wanted, and
    /// what there is.
    pub(super) fn candidates(
        &self,
        wish: &Wish<'_>,
        variant: &Variant,
    ) -> Result<Vec<(usize, usize)>, ErrorInfo> {
        let service = wish.kind != ItemKind::Component;
        let mut left: Vec<usize> = (0..self.nodes.len()).collect();
        left.retain(|n| wish.pinned.is_none_or(|(node, _)| self.nodes[*n].id == *node));
        if left.is_empty() {
            return Err(not_found("no nodes with given ID"));
        }
        let before = left.clone();
        left.retain(|n| wish.labels.iter().all(|label| self.nodes[*n].labels.contains(label)));
        if left.is_empty() {
            let have = self.each(&before, |n| self.nodes[n].labels.clone());
            return Err(lacking("labels", wish.labels, &have));
        }
        if service {
            let before = left.clone();
            let free =
                |n: usize, name: &str| self.resources[n].get(name).is_some_and(|left| *left != Some(0));
            left.retain(|n| variant.resources.iter().all(|name| free(*n, name)));
            if left.is_empty() {
                let names = |n: usize| self.resources[n].keys().map(|name| (*name).to_owned());
                let have = self.each(&before, |n| names(n).filter(|name| free(n, name)).collect());
                return Err(lacking("resources", &variant.resources, &have));
            }
        }
        let nodes = left;
        let mut places: Vec<(usize, usize)> =
            nodes.iter().flat_map(|n| (0..self.nodes[*n].runtimes.len()).map(|r| (*n, r))).collect();
        places.retain(|&(n, r)| {
            let runtime = &self.nodes[n].runtimes[r];
            let listed = if variant.runtimes.is_empty() {
                DEFAULT_RUNTIMES.contains(&runtime.kind.as_str())
            } else {
                variant.runtimes.contains(&runtime.kind)
            };
            listed && wish.pinned.is_none_or(|(_, id)| runtime.id == *id)
        });
        if places.is_empty() {
            let kinds = |n: usize| self.nodes[n].runtimes.iter().map(|one| one.kind.clone()).collect();
            let mut wanted = variant.runtimes.clone();
            if wanted.is_empty() {
                wanted = DEFAULT_RUNTIMES.map(str::to_owned).into();
            }
            return Err(lacking("runtime", &wanted, &self.each(&nodes, kinds)));
        }
        let before = places.clone();
        places.retain(|&(n, r)| runs_on(&variant.platform, &self.nodes[n].runtimes[r].platform));
        if places.is_empty() {
            let platforms = |n: usize| {
                let of = before.iter().filter(|(node, _)| *node == n);
                of.map(|&(n, r)| platform_text(&self.nodes[n].runtimes[r].platform)).collect()
            };
            let wanted = [platform_text(&variant.platform)];
            return Err(lacking("platform", &wanted, &self.each(&nodes, platforms)));
        }
        if service {
            let short = |what: &str, wanted: u64, most: u64, unit: &str| {
                not_found(&format!(
                    "no nodes with available {what}: {wanted} {unit} wanted, at most {most} free"
                ))
            };
            let need = |n: usize| needs(variant, &self.nodes[n].ratios);
            let least = |amount: fn(Needs) -> u64, places: &[(usize, usize)]| {
                places.iter().map(|(n, _)| amount(need(*n))).min().unwrap_or_default()
            };
            let before = places.clone();
            places.retain(|&(n, r)| self.cpu(n, r) >= need(n).cpu);
            if places.is_empty() {
                let most = before.iter().map(|&(n, r)| self.cpu(n, r)).max().unwrap_or_default();
                return Err(short("CPU", least(|needs| needs.cpu, &before), most, "DMIPS"));
            }
            let before = places.clone();
            places.retain(|&(n, r)| self.ram(n, r) >= need(n).ram);
            if places.is_empty() {
                let most = before.iter().map(|&(n, r)| self.ram(n, r)).max().unwrap_or_default();
                return Err(short("RAM", least(|needs| needs.ram, &before), most, "bytes"));
            }
        }
        places.retain(|&(n, r)| self.runtimes[n][r].2 > 0);
        if places.is_empty() {
            return Err(not_found("no runtime with room for an instance"));
        }
        Ok(places)
    }

    /// What each of these nodes has.
    fn each(&self, nodes: &[usize], what: impl Fn(usize) -> Vec<String>) -> Vec<(&'a NodeId, Vec<String>)> {
        nodes.iter().map(|n| (&self.nodes[*n].id, what(*n))).collect()
    }
}

/// No node has what is wanted: says both.
fn lacking(what: &str, wanted: &[String], have: &[(&NodeId, Vec<String>)]) -> ErrorInfo {
    let have: Vec<String> = have.iter().map(|(node, names)| format!("{node} has {}", list(names))).collect();
    let text = format!("no nodes with instance {what}: {} wanted, {}", list(wanted), have.join(", "));
    not_found(&text.chars().take(MAX_REASON).collect::<String>())
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn platform_text(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/")
}

/// An image that names no architecture, such as a component's payload, runs wherever its runtime is.
pub(super) fn runs_on(image: &Platform, runtime: &Platform) -> bool {
    image.architecture.is_empty() || image.runs_on(runtime)
}

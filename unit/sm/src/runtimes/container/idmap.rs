//! The user namespace of an instance: which user and group ids inside are which on the host.
//!
//! The process keeps its own ids: what it writes belongs to the same user on the host with and without a user
//! namespace, so storage and state need no change of owner when the mode changes. Its groups are kept as well,
//! they open devices. Every other id inside, root first of all, is an id of a range on the host that belongs to
//! nobody. Ranges are chosen by the instance's user, so two instances share none as long as fewer than
//! [`SLOTS`] users are given out.

use serde_json::{Value, json};

use crate::Error;
use crate::instance::InstanceInfo;

/// First id of the first range. Above what login tools and container managers hand out by default, below
/// the ids that some programs take for negative.
const FIRST: u32 = 0x7000_0000;
/// Ids of one range.
const RANGE: u32 = 0x1_0000;
/// Ranges there are.
const SLOTS: u32 = 0x0FFF;
/// Most ids that keep their number; the kernel takes 340 lines, each kept id needs up to two.
const MAX_KEPT: usize = 128;

/// One line of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub host: u32,
    /// Number of ids.
    pub count: u32,
}

/// Both mappings of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Users.
    pub users: Vec<Line>,
    /// Groups.
    pub groups: Vec<Line>,
}

impl IdMap {
    /// The mappings of an instance with these additional groups. The host's root is never one of the ids.
    pub fn of(info: &InstanceInfo, groups: &[u32]) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid(format!("ids of {}", info.ident), reason);
        if info.uid == 0 || info.gid == 0 {
            return Err(refuse("with user namespaces an instance cannot be the host's root"));
        }
        // Group 0 inside is not the host's group 0, so what that group may do is not given.
        let mut kept: Vec<u32> = groups.iter().copied().filter(|&id| id != 0).collect();
        kept.push(info.gid);
        if kept.len() > MAX_KEPT {
            return Err(refuse("it has too many groups for a user namespace"));
        }
        let first = FIRST + (info.uid % SLOTS) * RANGE;
        Ok(Self { users: lines(first, vec![info.uid]), groups: lines(first, kept) })
    }

    /// Adds the namespace and its mappings to the `linux` part of a specification.
    pub fn put(&self, linux: &mut serde_json::Map<String, Value>) {
        let lines = |lines: &[Line]| -> Vec<Value> {
            lines
                .iter()
                .map(|l| json!({"containerID": l.inside, "hostID": l.host, "size": l.count}))
                .collect()
        };
        linux.insert("uidMappings".into(), json!(lines(&self.users)));
        linux.insert("gidMappings".into(), json!(lines(&self.groups)));
        if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
            namespaces.push(json!({"type": "user"}));
        }
    }
}

/// `kept` ids as they are, all others below [`RANGE`] shifted to `first`.
fn lines(first: u32, mut kept: Vec<u32>) -> Vec<Line> {
    kept.sort_unstable();
    kept.dedup();
    let mut lines = Vec::new();
    let mut next = 0;
    for id in kept {
        if next < id.min(RANGE) {
            lines.push(Line { inside: next, host: first + next, count: id.min(RANGE) - next });
        }
        lines.push(Line { inside: id, host: id, count: 1 });
        next = id.saturating_add(1);
    }
    if next < RANGE {
        lines.push(Line { inside: next, host: first + next, count: RANGE - next });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host_of(lines: &[Line], id: u32) -> Option<u32> {
        let line = lines.iter().find(|l| id >= l.inside && id - l.inside < l.count)?;
        Some(line.host + (id - line.inside))
    }

    proptest! {
        // Whatever ids are kept: they stay, all others below the range are the host's nobody, and no id of
        // either side is named twice, which the kernel would refuse.
        #[test]
        fn kept_ids_stay_and_no_other_id_is_of_the_host(
            slot in 0..SLOTS, kept in proptest::collection::vec(1u32..FIRST, 1..8),
        ) {
            let first = FIRST + slot * RANGE;
            let lines = lines(first, kept.clone());
            for &id in &kept {
                prop_assert_eq!(host_of(&lines, id), Some(id));
            }
            for id in (0..RANGE).filter(|id| !kept.contains(id)) {
                prop_assert_eq!(host_of(&lines, id), Some(first + id));
            }
            prop_assert!(lines.len() <= 2 * kept.len() + 1);
            let apart = |mut spans: Vec<(u64, u64)>| {
                spans.sort_unstable();
                spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
            };
            prop_assert!(apart(lines.iter().map(|l| (u64::from(l.inside), u64::from(l.count))).collect()));
            prop_assert!(apart(lines.iter().map(|l| (u64::from(l.host), u64::from(l.count))).collect()));
        }
    }

    #[test]
    fn the_last_range_ends_before_negative_ids() {
        assert!(u64::from(FIRST) + u64::from(SLOTS) * u64::from(RANGE) <= 0x8000_0000);
    }
}

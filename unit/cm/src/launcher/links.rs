//! When a node is told what to do: one command at a time, and the same one again only after a pause.
//!
//! Pure. A Service Manager answers a command with its complete word. If that word does not show what was
//! asked for, the command is repeated with growing pauses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aos_backoff::Backoff;
use aos_ids::NodeId;

use super::core::Command;

/// Time a node may take for a command.
const ANSWER_TIME: Duration = Duration::from_mins(10);
/// Pauses before the same command again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));

#[derive(Debug)]
struct Link {
    /// A command is under way until then.
    busy: Option<Instant>,
    last: Option<Command>,
    backoff: Backoff,
    retry: Option<Instant>,
}

impl Default for Link {
    fn default() -> Self {
        Self { busy: None, last: None, backoff: Backoff::new(PAUSE.0, PAUSE.1, 0.2), retry: None }
    }
}

/// All nodes that have told about their instances.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<NodeId, Link>);

impl Links {
    /// The node's complete word came: it is ready for a command. Answers the command that it has carried out.
    pub fn spoke(&mut self, node: &NodeId) -> Option<Command> {
        let link = self.0.entry(node.clone()).or_default();
        link.busy.take()?;
        link.last.clone()
    }

    /// The node connected anew or went away: nothing is known of it until it speaks.
    pub fn reset(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// Whether `command` goes out now.
    pub fn send(&mut self, node: &NodeId, command: &Command, now: Instant) -> bool {
        let Some(link) = self.0.get_mut(node) else { return false };
        if !command.needed {
            (link.busy, link.last, link.retry) = (None, None, None);
            link.backoff.reset();
            return false;
        }
        if link.busy.is_some_and(|until| until > now) {
            return false;
        }
        if link.last.as_ref() == Some(command) {
            match link.retry {
                None => {
                    link.retry = Some(now + link.backoff.next(aos_backoff::random_fraction()));
                    return false;
                }
                Some(at) if at > now => return false,
                Some(_) => {}
            }
        } else {
            link.backoff.reset();
        }
        (link.busy, link.last, link.retry) = (Some(now + ANSWER_TIME), Some(command.clone()), None);
        true
    }

    /// The command could not go out after all; it is due again after a pause.
    pub fn not_sent(&mut self, node: &NodeId, now: Instant) {
        if let Some(link) = self.0.get_mut(node) {
            link.busy = None;
            link.retry = Some(now + link.backoff.next(aos_backoff::random_fraction()));
        }
    }

    /// When a node is to be looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|link| link.retry.or(link.busy)).min()
    }

    /// Nodes to look at.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(needed: bool) -> Command {
        Command { stop: vec![], start: vec![], needed }
    }

    #[test]
    fn a_node_is_not_flooded() {
        let (mut links, node, now) = (Links::default(), NodeId::new("n").unwrap(), Instant::now());
        assert!(!links.send(&node, &command(true), now), "it has not spoken");
        assert_eq!(links.spoke(&node), None);
        assert!(links.send(&node, &command(true), now));
        assert!(!links.send(&node, &command(true), now), "it is busy");
        assert_eq!(links.spoke(&node), Some(command(true)));
        assert_eq!(links.spoke(&node), None, "nothing was asked for");
        assert!(!links.send(&node, &command(true), now), "the same again waits");
        let later = links.deadline().unwrap();
        assert!(later > now && later <= now + PAUSE.0);
        assert!(links.send(&node, &command(true), later));
        assert!(links.send(&node, &command(true), later + ANSWER_TIME) || links.deadline().is_some());
        links.spoke(&node);
        assert!(!links.send(&node, &command(false), later));
        assert!(links.send(&node, &command(true), later), "a new need goes out at once");
        links.not_sent(&node, later);
        let again = links.deadline().unwrap();
        assert!(again > later && again <= later + PAUSE.0);
        assert!(links.send(&node, &command(true), again));
    }
}

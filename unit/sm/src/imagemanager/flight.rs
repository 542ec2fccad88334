//! Which contents are being fetched and who waits for each. Pure: waiters are whatever the caller has.

use std::collections::HashMap;
use std::hash::Hash;

/// Contents under way by their name.
#[derive(Debug)]
pub struct Flight<N, W> {
    waiting: HashMap<N, Vec<W>>,
}

impl<N: Eq + Hash + Clone, W> Flight<N, W> {
    /// Nothing is under way.
    pub fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    /// Somebody wants a content; true when fetching it has to be begun.
    pub fn want(&mut self, name: N, waiter: W) -> bool {
        let waiting = self.waiting.entry(name).or_default();
        waiting.push(waiter);
        waiting.len() == 1
    }

    /// Fetching ended; answers who waited.
    pub fn landed(&mut self, name: &N) -> Vec<W> {
        self.waiting.remove(name).unwrap_or_default()
    }

    /// Forgets the waiters that are gone; answers the contents that nobody waits for now.
    pub fn left(&mut self, gone: impl Fn(&W) -> bool) -> Vec<N> {
        let mut unwanted = Vec::new();
        self.waiting.retain(|name, waiting| {
            waiting.retain(|waiter| !gone(waiter));
            if waiting.is_empty() {
                unwanted.push(name.clone());
            }
            !waiting.is_empty()
        });
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_fetched_once_for_all_who_ask() {
        let mut flight = Flight::new();
        assert!(flight.want('a', 1));
        assert!(!flight.want('a', 2));
        assert!(flight.want('b', 3));
        assert_eq!(flight.landed(&'a'), [1, 2]);
        assert!(flight.want('a', 4), "it is asked for anew");
    }

    #[test]
    fn what_nobody_waits_for_is_given_up() {
        let mut flight = Flight::new();
        flight.want('a', 1);
        flight.want('a', 2);
        flight.want('b', 1);
        assert_eq!(flight.left(|&waiter| waiter == 1), ['b']);
        assert_eq!(flight.left(|&waiter| waiter == 1), Vec::<char>::new());
        assert_eq!(flight.landed(&'a'), [2]);
        assert!(flight.landed(&'b').is_empty());
    }
}

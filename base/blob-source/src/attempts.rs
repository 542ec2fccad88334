//! When which address is tried again. Pure.

use std::time::Duration;

use aos_backoff::Backoff;

/// Rounds over all addresses that bring nothing before it is given up.
const ROUNDS: u32 = 3;
/// Broken connections that brought something before it is given up nevertheless.
const MAX_RESUMED: u32 = 1000;
/// Pauses between rounds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// This address will not give the blob, however often it is asked.
    Refused,
    /// It may work another time.
    Broken,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Try the address with this index now.
    Try(usize),
    /// Wait, then try the address with this index.
    Wait(Duration, usize),
    /// Nothing more to be tried.
    GiveUp,
}

/// State of one blob's download.
#[derive(Debug, Clone)]
pub struct Attempts {
    refused: Vec<bool>,
    at: usize,
    rounds: u32,
    resumed: u32,
    pause: Backoff,
}

impl Attempts {
    /// Begins with the first of `addresses` addresses.
    pub fn new(addresses: usize) -> Self {
        Self {
            refused: vec![false; addresses],
            at: 0,
            rounds: 0,
            resumed: 0,
            pause: Backoff::new(PAUSE.0, PAUSE.1, 0.2),
        }
    }

    /// The address tried now.
    pub fn current(&self) -> usize {
        self.at
    }

    /// The present attempt failed; `progress` says whether it brought any bytes, `random` in 0..1 shortens the
    /// pause.
    pub fn failed(&mut self, failure: Failure, progress: bool, random: f64) -> Next {
        if failure == Failure::Refused
            && let Some(refused) = self.refused.get_mut(self.at)
        {
            *refused = true;
        }
        if progress {
            self.rounds = 0;
            self.pause.reset();
            self.resumed += 1;
            if self.resumed > MAX_RESUMED {
                return Next::GiveUp;
            }
            if failure == Failure::Broken && self.at < self.refused.len() {
                // What worked so far is asked for the rest.
                return Next::Try(self.at);
            }
        }
        let usable = |(index, refused): (usize, &bool)| (!refused).then_some(index);
        let mut left = self.refused.iter().enumerate().filter_map(usable);
        let Some(first) = left.next() else { return Next::GiveUp };
        let later = std::iter::once(first).chain(left).find(|index| *index > self.at);
        if let Some(next) = later {
            self.at = next;
            return Next::Try(next);
        }
        self.rounds += 1;
        if self.rounds >= ROUNDS {
            return Next::GiveUp;
        }
        self.at = first;
        Next::Wait(self.pause.next(random), first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_tried_in_order_and_in_three_rounds() {
        let mut attempts = Attempts::new(2);
        let steps: Vec<Next> = (0..6).map(|_| attempts.failed(Failure::Broken, false, 0.0)).collect();
        let second = Duration::from_secs(1);
        let expected = [
            Next::Try(1),
            Next::Wait(second, 0),
            Next::Try(1),
            Next::Wait(2 * second, 0),
            Next::Try(1),
            Next::GiveUp,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_refuses_is_not_asked_again() {
        let mut attempts = Attempts::new(2);
        assert_eq!(attempts.failed(Failure::Refused, false, 0.0), Next::Try(1));
        assert!(matches!(attempts.failed(Failure::Broken, false, 0.0), Next::Wait(_, 1)));
        assert_eq!(attempts.failed(Failure::Refused, false, 0.0), Next::GiveUp);
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let mut attempts = Attempts::new(1);
        for _ in 0..50 {
            assert!(matches!(attempts.failed(Failure::Broken, false, 0.0), Next::Wait(_, 0)));
            assert_eq!(attempts.failed(Failure::Broken, true, 0.0), Next::Try(0));
        }
    }

    proptest! {
        // Whatever happens, it ends, and never names an address that refused or does not exist.
        #[test]
        fn it_always_ends(addresses in 0..5usize, outcomes in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..50)) {
            let mut attempts = Attempts::new(addresses);
            let mut refused = vec![false; addresses];
            let mut steps = 0u32;
            for (broken, progress) in outcomes.iter().cycle() {
                steps += 1;
                prop_assert!(steps < 100_000);
                let failure = if *broken { Failure::Broken } else { Failure::Refused };
                if !broken && let Some(mark) = refused.get_mut(attempts.current()) {
                    *mark = true;
                }
                match attempts.failed(failure, *progress, 0.5) {
                    Next::GiveUp => break,
                    Next::Try(index) | Next::Wait(_, index) => prop_assert_eq!(refused.get(index), Some(&false)),
                }
            }
        }
    }
}

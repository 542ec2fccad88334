//! Two ends over a network that loses, delays, repeats and reorders frames and cuts connections, with ends that
//! crash and start again from what they had on disk.
//!
//! The ends are the smallest honest shells of the session: the Unit has one session for all connections, the
//! cloud a new one for each, and old ones may still be at work when a new one has begun. What is on disk is
//! a [`store::Store`]: received transactions kept in one step with the effect, and an outbox. A second
//! model puts a peer like upstream's at the other end: no recognition of repetitions, acknowledgements before
//! the work, four tries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod checks;
mod content;
mod network;
mod store;
mod upstream;
mod world;

use std::time::Duration;

use aos_cloud_session::Event;
use network::{Fate, fate};
use proptest::prelude::*;
use world::{CLOUD, Step, UNIT, Verdict, World};

fn step() -> impl Strategy<Value = Step> {
    let verdict =
        prop_oneof![17 => Just(Verdict::Take), 2 => Just(Verdict::Refuse), 1 => Just(Verdict::TakeAndCrash)];
    prop_oneof![
        7 => (0..2_usize, any::<u8>()).prop_map(|(end, kind)| Step::Send(end, kind)),
        1 => (0..2_usize, any::<u8>()).prop_map(|(end, kind)| Step::SendAndCrash(end, kind)),
        6 => prop_oneof![0..300_u32, 0..20_000_u32].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Cut),
        2 => Just(Step::Connect),
        1 => (0..2_usize).prop_map(Step::Restart),
        7 => (0..2_usize, any::<u8>(), verdict).prop_map(|(end, which, verdict)| Step::Decide(end, which, verdict)),
    ]
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::with_cases(count) }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// PRO-19, PRO-22, PRO-26: what must arrive takes effect exactly once, acknowledged only when on disk, in
    /// the order of its kind; statuses end at the newest; queues keep their bounds; nothing spins.
    // REL-16
    #[test]
    fn effect_exactly_once(
        steps in prop::collection::vec(step(), 1..100),
        fates in prop::collection::vec(fate(), 1..40),
        in_order: bool,
        queue in prop_oneof![3 => Just(1000_usize), 1 => 3..12_usize],
    ) {
        let mut world = World::new(fates, in_order, queue);
        world.run(steps);
        world.heal();
        world.check();
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// With an upstream peer, at either end: what we must deliver takes effect at least once and is acknowledged;
    /// what it sends takes effect at most once, and exactly once when it saw our acknowledgement.
    // REL-16
    #[test]
    fn upstream_peer_at_least_once(
        ours in 0..2_usize,
        steps in prop::collection::vec(upstream::step(), 1..80),
        fates in prop::collection::vec(upstream::fate(), 1..30),
    ) {
        let mut world = upstream::World::new(ours, fates);
        world.run(steps);
        world.heal();
        world.check();
    }

    /// On a perfect network every message is sent exactly once and nothing is given up.
    #[test]
    fn perfect_network_needs_no_repetition(kinds in prop::collection::vec((0..2_usize, any::<u8>()), 1..60)) {
        let mut world = World::new(Vec::new(), true, 1000);
        world.connect();
        world.pass(Duration::from_millis(60), true);
        for (end, kind) in kinds {
            world.send(end, kind);
            world.pass(Duration::from_millis(60), true);
        }
        world.pass(Duration::from_secs(5), true);
        world.check();
        prop_assert_eq!(world.repeated(), 0);
        prop_assert_eq!(world.given_up(), 0);
    }

    /// A peer that answers nothing costs a bounded number of frames an hour, whatever waits: four for the first
    /// tries of each message, then one at a time, at most one every ten seconds at each end.
    #[test]
    fn silent_peer_costs_little(kinds in prop::collection::vec(any::<u8>(), 1..40), hours in 2..6_u32) {
        let mut world = World::new(vec![Fate::new()], true, 1000);
        world.connect();
        for kind in &kinds {
            world.send(UNIT, *kind);
        }
        world.pass(Duration::from_hours(1), false);
        let first = world.transmissions();
        // A dropped delta of the status is followed by a full one.
        prop_assert!(first <= 8 * (kinds.len() + 2) + 720, "{} frames", first);
        world.pass(Duration::from_hours(1) * hours, false);
        let waiting = world.outstanding(UNIT) + world.outstanding(CLOUD);
        let later = world.transmissions() - first;
        prop_assert!(later <= hours as usize * (6 * waiting).min(720), "{} frames, {} waiting", later, waiting);
    }
}

/// Without a connection nothing at all is due, however much waits.
#[test]
fn offline_end_sleeps() {
    let mut world = World::new(Vec::new(), true, 1000);
    for kind in 0..=255 {
        world.send(UNIT, kind);
        world.send(CLOUD, kind);
    }
    assert!(world.outstanding(UNIT) > 200);
    assert_eq!(world.deadline(), None);
    world.on_unit(Event::Tick);
    assert_eq!(world.transmissions(), 0);
}

//! A thousand lives of a Unit and its cloud in virtual time, with everything going wrong that may: clouds away
//! for months, lost questions and answers, kills, a token that fails, clocks of 1970 and of ten years ahead.
//! Both ends decide with their real rules. In every life the Unit is back with good certificates at the end:
//! by itself while its offline certificate lasts, else by an operator's token.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use aos_cert_life::{Clock, Event, Keeper, Life, Reading, Settings, Time};
use aos_cloud_fleet::{Recorded, may_recover, renewal_due_at, renewal_pause};

const LIVES: u64 = 1000;
const DAY: i64 = 86_400;
const HOUR: i64 = 3600;
const T: i64 = 1_700_000_000;
const TYPES: [&str; 5] = ["online", "iam", "cm", "sm", "offline"];
/// The cloud's certificates begin that long before they are made.
const BACKDATE: i64 = HOUR;
const CLOUD_PERCENT: u8 = 67;

/// Reproducible random numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.roll() % end.unsigned_abs().max(1)).unwrap()
    }

    fn chance(&mut self, in_hundred: i64) -> bool {
        self.below(100) < in_hundred
    }

    #[allow(clippy::cast_precision_loss, reason = "a fraction")]
    fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A certificate as both sides have it.
#[derive(Clone, Debug)]
struct Certificate {
    cert_type: &'static str,
    not_before: i64,
    not_after: i64,
    issued_at: i64,
}

#[derive(Default)]
struct Cloud {
    /// How many times longer an offline certificate lives.
    offline_lives: i64,
    record: Vec<Certificate>,
    /// When it is away.
    away: Vec<(i64, i64)>,
    last_renewal: i64,
}

impl Cloud {
    fn is_away(&self, now: i64) -> bool {
        self.away.iter().any(|(from, to)| (*from..*to).contains(&now))
    }

    fn issue(&mut self, cert_type: &'static str, now: i64, life: i64) -> Certificate {
        let life = if cert_type == "offline" { life * self.offline_lives } else { life };
        let made =
            Certificate { cert_type, not_before: now - BACKDATE, not_after: now + life, issued_at: now };
        // Older ones decide nothing: the newest stays, and those that count for the bound of a day.
        let newest = |one: &Certificate| one.not_after;
        let last = self.record.iter().filter(|one| one.cert_type == cert_type).map(newest).max();
        self.record.retain(|one| {
            one.cert_type != cert_type || one.issued_at > now - 2 * DAY || Some(one.not_after) == last
        });
        self.record.push(made.clone());
        made
    }

    /// The recovery endpoint: proof, then the bound by number.
    fn recover(
        &mut self,
        types: &[&'static str],
        offline: Option<&Certificate>,
        token: bool,
        now: i64,
        life: i64,
    ) -> Option<Vec<Certificate>> {
        if !token && offline.is_none_or(|held| held.not_after < now) {
            return None;
        }
        let mut made = Vec::new();
        for cert_type in types {
            let recorded: Vec<Recorded<'_>> = self
                .record
                .iter()
                .map(|one| Recorded {
                    node_id: "main",
                    cert_type: one.cert_type,
                    not_before: one.not_before,
                    not_after: one.not_after,
                    issued_at: one.issued_at,
                    revoked: false,
                })
                .collect();
            if may_recover(&recorded, "main", cert_type, now).is_ok() {
                made.push(self.issue(cert_type, now, life));
            }
        }
        Some(made)
    }

    /// What the cloud has renewed by itself at `now`, judged by its record.
    fn due(&self, now: i64) -> Vec<&'static str> {
        let newest = |kind: &str| {
            self.record.iter().filter(|one| one.cert_type == kind).max_by_key(|one| one.not_after).unwrap()
        };
        let due: Vec<&'static str> = TYPES
            .into_iter()
            .filter(|kind| {
                let one = newest(kind);
                renewal_due_at(one.not_before, one.not_after, CLOUD_PERCENT) <= now
            })
            .collect();
        let pause =
            due.iter().map(|kind| newest(kind)).map(|one| renewal_pause(one.not_before, one.not_after));
        match pause.min() {
            Some(pause) if now - self.last_renewal >= pause => due,
            _ => Vec::new(),
        }
    }
}

/// How wrong the wall clock is in one run of the Unit.
#[derive(Clone, Copy)]
enum Wall {
    Right,
    /// Counts from 1970 with each start.
    Epoch,
    Ahead(i64),
    Behind(i64),
}

struct Unit {
    held: Vec<Certificate>,
    keeper: Keeper,
    clock: Clock,
    stored_floor: i64,
    started: i64,
    wall: Wall,
    switched_on: bool,
    changed: bool,
}

impl Unit {
    fn reading(&self, truth: i64) -> Reading {
        let monotonic = truth - self.started;
        let system = match self.wall {
            Wall::Right => truth,
            Wall::Epoch => monotonic,
            Wall::Ahead(by) => truth + by,
            Wall::Behind(by) => truth - by,
        };
        Reading { system, monotonic }
    }

    fn time(&self, truth: i64) -> Time {
        self.clock.time(self.reading(truth))
    }

    fn newest(&self, kind: &str) -> Option<&Certificate> {
        self.held.iter().filter(|one| one.cert_type == kind).max_by_key(|one| one.not_after)
    }

    /// What it holds now, if that is not what the keeper knows.
    fn news(&mut self, truth: i64) -> Option<Vec<Life>> {
        let count = self.held.len();
        self.trim();
        let changed = std::mem::take(&mut self.changed) || count != self.held.len();
        changed.then(|| self.lives(truth))
    }

    fn lives(&mut self, truth: i64) -> Vec<Life> {
        let newest: Vec<Certificate> = TYPES.iter().filter_map(|kind| self.newest(kind).cloned()).collect();
        for one in &newest {
            self.clock.proved(one.not_before, self.reading(truth));
        }
        let life = |one: &Certificate| Life {
            cert_type: one.cert_type.to_owned(),
            not_before: one.not_before,
            not_after: one.not_after,
        };
        newest.iter().map(life).collect()
    }

    /// Starts again with what is on disk.
    fn start(&mut self, truth: i64, wall: Wall) {
        self.started = truth;
        self.wall = wall;
        self.clock = Clock::new(self.stored_floor, self.reading(truth));
        self.keeper = Keeper::new(Settings::default());
        self.switched_on = true;
        self.changed = true;
    }

    fn save(&mut self, truth: i64, dice: &mut Dice) {
        let Some(floor) = self.clock.to_save(self.reading(truth)) else { return };
        if dice.chance(5) {
            self.clock.not_saved();
        } else {
            assert!(floor >= self.stored_floor && floor <= truth, "the floor is true and never sinks");
            self.stored_floor = floor;
        }
    }

    /// A token keeps two of each type, the newest ones.
    fn trim(&mut self) {
        if self.held.len() <= 2 * TYPES.len() {
            return;
        }
        self.held.sort_by_key(|one| std::cmp::Reverse(one.not_after));
        for kind in TYPES {
            let surplus: Vec<i64> = self
                .held
                .iter()
                .filter(|one| one.cert_type == kind)
                .skip(2)
                .map(|one| one.issued_at)
                .collect();
            self.held.retain(|one| one.cert_type != kind || !surplus.contains(&one.issued_at));
        }
    }

    fn is_good(&self, truth: i64) -> bool {
        TYPES.iter().all(|kind| self.newest(kind).is_some_and(|one| one.not_after >= truth))
    }
}

struct Outcome {
    expired: bool,
    token: bool,
    asked: u64,
}

/// Lives `years`; the last ten days nothing fails any more and the clock is right.
#[allow(clippy::too_many_lines, reason = "one life, step by step")]
fn live(seed: u64) -> Outcome {
    let mut dice = Dice(seed);
    let days =
        if dice.chance(3) { 730 } else { [10, 20, 30, 60, 90][usize::try_from(dice.below(5)).unwrap()] };
    let life = days * DAY;
    let end = T + life * (2 + dice.below(3));
    let calm = end - 10 * DAY;
    let mut cloud = Cloud { offline_lives: 1 + dice.below(5), ..Cloud::default() };
    let held = TYPES.map(|kind| cloud.issue(kind, T, life)).to_vec();
    for _ in 0..dice.below(6) {
        let from = T + dice.below(end - T);
        let length =
            if dice.chance(30) { life / 2 + dice.below(life * 2) } else { DAY * (1 + dice.below(60)) };
        cloud.away.push((from, (from + length).min(calm)));
    }
    let reading = Reading { system: T, monotonic: 0 };
    let mut unit = Unit {
        held,
        keeper: Keeper::new(Settings::default()),
        clock: Clock::new(0, reading),
        stored_floor: 0,
        started: T,
        wall: Wall::Right,
        switched_on: true,
        changed: true,
    };
    let unreliable = dice.below(60);
    let mut now = T;
    let mut outcome = Outcome { expired: false, token: false, asked: 0 };
    let mut next_trouble = T + dice.below(60 * DAY);
    let mut next_look = T;
    let mut switched_off_until = 0;
    let mut wakes_at = T;
    let mut was_calm = false;
    while now < end {
        let is_calm = now >= calm;
        if is_calm && !was_calm {
            was_calm = true;
            unit.start(now, Wall::Right);
            wakes_at = now;
        }
        // A kill, a reboot or a long time in a warehouse; the wall clock may be anything afterwards.
        if now >= next_trouble && !is_calm {
            let wall = match dice.below(6) {
                0 => Wall::Epoch,
                1 => Wall::Ahead(10 * 365 * DAY),
                2 => Wall::Ahead(dice.below(400 * DAY)),
                3 => Wall::Behind(dice.below(400 * DAY)),
                _ => Wall::Right,
            };
            if dice.chance(15) {
                unit.switched_on = false;
                switched_off_until = now + dice.below(life * 3 / 2);
            }
            let on = unit.switched_on;
            unit.start(now, wall);
            unit.switched_on = on;
            next_trouble = now + HOUR + dice.below(90 * DAY);
            wakes_at = now;
        }
        if !unit.switched_on && (now >= switched_off_until || is_calm) {
            let wall = if is_calm { Wall::Right } else { unit.wall };
            unit.start(now, wall);
            wakes_at = now;
        }
        outcome.expired = outcome.expired || !unit.is_good(now);
        let fails = |dice: &mut Dice| !is_calm && dice.chance(unreliable);

        // The cloud has certificates renewed over the session, which needs a good online certificate.
        if now >= next_look {
            next_look = now + HOUR * 6;
            let online = unit.newest("online").is_some_and(|one| one.not_after >= now);
            let due = if cloud.is_away(now) { Vec::new() } else { cloud.due(now) };
            if unit.switched_on && online && !due.is_empty() {
                cloud.last_renewal = now;
                for kind in due {
                    if fails(&mut dice) {
                        continue;
                    }
                    let made = cloud.issue(kind, now, life);
                    // The answer may be lost, or the token fail: the cloud believes it is there.
                    if !fails(&mut dice) {
                        unit.held.push(made);
                        unit.changed = true;
                        wakes_at = now;
                    }
                }
            }
        }

        if unit.switched_on && now >= wakes_at {
            let event = unit.news(now).map_or(Event::Wake, Event::Lives);
            let order = unit.keeper.on(unit.time(now), dice.fraction(), event);
            if let Some(order) = order {
                outcome.asked += 1;
                let types: Vec<&'static str> =
                    TYPES.into_iter().filter(|kind| order.types.iter().any(|one| one == kind)).collect();
                let offline = unit.newest("offline").cloned();
                let reached = !cloud.is_away(now) && !fails(&mut dice);
                let made = reached
                    .then(|| cloud.recover(&types, offline.as_ref(), false, now, life))
                    .flatten()
                    .filter(|made| !made.is_empty() && !fails(&mut dice));
                let event = match made {
                    Some(made) => {
                        let newest = made.iter().map(|one| one.not_before).max().unwrap();
                        unit.held.extend(made.into_iter().filter(|_| !fails(&mut dice)));
                        unit.changed = true;
                        let reading = unit.reading(now);
                        unit.clock.proved_now(newest, reading);
                        Event::Done
                    }
                    None => Event::Failed,
                };
                if !is_calm && dice.chance(3) {
                    // Killed before it could tell anybody.
                    let wall = unit.wall;
                    unit.start(now, wall);
                } else {
                    if let Some(lives) = unit.news(now) {
                        let none = unit.keeper.on(unit.time(now), 0.0, Event::Lives(lives));
                        assert_eq!(none, None, "one order at a time");
                    }
                    let random = dice.fraction();
                    let again = unit.keeper.on(unit.time(now), random, event);
                    assert_eq!(again, None, "there is always a pause");
                }
            }
            unit.save(now, &mut dice);
            wakes_at = now + unit.keeper.wait(unit.time(now)).unwrap_or(HOUR);
            // Nobody lives by the minute for years: what only looks at its clock is asked every few hours.
            if unit.keeper.wait(unit.time(now)) == Some(aos_cert_life::LONGEST_WAIT) {
                wakes_at = now + 6 * HOUR;
            }
        }
        let offline_ended = unit.newest("offline").is_none_or(|one| one.not_after < now);
        if is_calm && offline_ended && !outcome.token {
            // The operator sees a Unit that has nothing left to prove itself with.
            outcome.token = true;
            let made = cloud.recover(&TYPES, None, true, now, life).unwrap();
            unit.held.extend(made);
            unit.changed = true;
            wakes_at = now;
        }
        let mut next = if was_calm { next_look } else { next_look.min(next_trouble) };
        next = next.min(if unit.switched_on { wakes_at } else { switched_off_until });
        if !was_calm {
            next = next.min(calm);
        }
        now = next.max(now + 1);
    }
    assert!(unit.is_good(end), "life {seed} ends with {:?}", TYPES.map(|kind| unit.newest(kind).cloned()));
    let days = (end - T) / DAY;
    assert!(outcome.asked < days.unsigned_abs() * 26 + 100, "life {seed} asked {} times", outcome.asked);
    outcome
}

#[test]
fn none_of_a_thousand_lives_ends_without_a_way_back() {
    let outcomes: Vec<Outcome> = (0..LIVES).map(live).collect();
    let expired = outcomes.iter().filter(|one| one.expired).count();
    let tokens = outcomes.iter().filter(|one| one.token).count();
    let asked: u64 = outcomes.iter().map(|one| one.asked).sum();
    println!("{expired} lives had something expired, {tokens} needed a token, {asked} requests in all");
    assert!(expired > 100, "the failures are worth the name: {expired}");
    assert!(tokens < 300, "most come back by themselves: {tokens}");
}

#[test]
fn a_life_is_reproducible() {
    let (one, other) = (live(77), live(77));
    assert_eq!((one.asked, one.expired, one.token), (other.asked, other.expired, other.token));
}

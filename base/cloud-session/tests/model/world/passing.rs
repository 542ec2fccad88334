//! Time passes in the world: messages arrive, sessions are woken, steps are taken.

use std::time::Duration;

use aos_cloud_session::Event;
use bytes::Bytes;

use super::{CLOUD, Step, UNIT, Verdict, World};

impl World {
    pub fn deadline(&self) -> Option<Duration> {
        self.next_tick().map(|(at, _, _)| at)
    }

    fn next_tick(&self) -> Option<(Duration, usize, usize)> {
        let all = [UNIT, CLOUD].into_iter().flat_map(|end| {
            self.lives[end].iter().enumerate().filter_map(move |(at, live)| {
                let due = live.session.next_deadline()?;
                Some((due.saturating_duration_since(self.start), end, at))
            })
        });
        all.min()
    }

    /// Lets time pass; with `decide` both ends take what they get at once.
    pub fn pass(&mut self, time: Duration, decide: bool) {
        let end_time = self.passed + time;
        let mut ticks = 0;
        loop {
            let frame = self.network.next_due();
            let tick = self.next_tick();
            let next = frame.into_iter().chain(tick.map(|(due, _, _)| due)).min();
            let Some(next) = next.filter(|next| *next <= end_time) else { break };
            if next > self.passed {
                self.nothing_before(next);
            }
            if let Some(frame) = self.network.take_due(self.passed) {
                self.arrive(&frame.bytes, frame.to, frame.connection);
                if decide {
                    self.decide_all();
                }
            } else if let Some((_, end, at)) = tick {
                self.on(end, at, Event::Tick);
                let after = self.lives[end].get(at).and_then(|live| live.session.next_deadline());
                assert!(
                    after.is_none_or(|after| after > self.now().instant),
                    "a due tick moves the deadline"
                );
                ticks += 1;
                assert!(ticks < 10_000 + 100 * time.as_secs(), "spins");
            }
        }
        self.passed = end_time;
    }

    /// Moves the clock to `next`. A tick just before it does nothing.
    fn nothing_before(&mut self, next: Duration) {
        self.passed = next.saturating_sub(Duration::from_nanos(1)).max(self.passed);
        let now = self.now();
        for live in self.lives.iter_mut().flatten() {
            assert_eq!(live.session.on(now, Event::Tick), []);
        }
        self.passed = next;
    }

    fn arrive(&mut self, bytes: &Bytes, end: usize, connection: usize) {
        if end == UNIT {
            if self.open == Some(connection) {
                self.on_unit(Event::Frame(bytes));
            }
        } else if let Some(at) = self.cloud_at(connection) {
            self.on(CLOUD, at, Event::Frame(bytes));
        }
    }

    fn decide_all(&mut self) {
        for end in [UNIT, CLOUD] {
            for at in 0..self.lives[end].len() {
                while self.lives[end].get(at).is_some_and(|live| !live.undecided.is_empty()) {
                    self.decide(end, at, Verdict::Take);
                }
            }
        }
    }

    pub fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(end, number) => self.send(end, number),
                Step::SendAndCrash(end, number) => {
                    self.write_down(end, number);
                    self.restart(end);
                }
                Step::Pass(millis) => self.pass(Duration::from_millis(millis.into()), false),
                Step::Cut(late) => self.cut(late),
                Step::Connect => self.connect(),
                Step::Restart(end) => self.restart(end),
                Step::Decide(end, which, verdict) => {
                    let open: Vec<usize> = (0..self.lives[end].len())
                        .filter(|at| !self.lives[end][*at].undecided.is_empty())
                        .collect();
                    if !open.is_empty() {
                        self.decide(end, open[usize::from(which) % open.len()], verdict);
                    }
                }
            }
        }
    }

    /// The network becomes perfect and both ends take everything.
    pub fn heal(&mut self) {
        self.network.fates.clear();
        self.decide_all();
        self.cut(false);
        for _ in 0..40 {
            self.connect();
            self.pass(Duration::from_mins(1), true);
            let waiting = self.outstanding(UNIT) + self.outstanding(CLOUD);
            if waiting == 0 && self.stores.iter().all(|store| store.outbox.is_empty()) {
                break;
            }
            // A full queue had refused some of the outbox.
            self.cut(false);
        }
    }
}

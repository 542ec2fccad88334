//! What probes say about a running instance. Pure: it tells when to ask and what the answers mean.
//!
//! From its start an instance is asked whether it is ready, until it is; it has a limited time for that. From
//! then on it is asked whether it lives. One question is open at a time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_item_format::{Probe, Probes};

use crate::Error;

/// Why a try was no success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The command says no.
    #[error("the command ended with status {0}")]
    Status(i32),
    /// The command did not run to its end.
    #[error("cannot run the command")]
    Exec(#[source] Error),
    /// Nobody can be talked to there.
    #[error("cannot ask port {port}")]
    Port {
        /// TCP port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The service says no.
    #[error("HTTP status {0}")]
    Http(u16),
    /// Whoever listens there speaks something else.
    #[error("no HTTP answer")]
    NotHttp,
    /// The time of a try is over.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    /// The instance's runtime is not there.
    #[error("cannot ask the service")]
    NoRuntime(#[source] Error),
    /// The try itself broke.
    #[error("the try broke off")]
    Broken,
}

/// Why a process has to be ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Unhealthy {
    /// It took too long to become ready.
    #[error("the service was not ready within {} s", limit.as_secs_f32())]
    NotReady {
        /// The time it had.
        limit: Duration,
        /// What the last try found; `None` before the first one ended.
        #[source]
        last: Option<Arc<ProbeError>>,
    },
    /// It does not live any more.
    #[error("the service failed {failures} probes in a row")]
    Failing {
        /// How many.
        failures: u32,
        /// What the last one found.
        #[source]
        last: Option<Arc<ProbeError>>,
    },
}

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Is it ready?
    Ready,
    /// Does it live?
    Alive,
}

/// The health of one process.
#[derive(Debug)]
pub struct Health {
    probes: Arc<Probes>,
    started: Instant,
    ready: bool,
    next: Instant,
    open: bool,
    good: u32,
    bad: u32,
    /// What the last failure was.
    last: Option<Arc<ProbeError>>,
}

impl Health {
    /// Of a process that began at `now`, or that is known to be ready already.
    pub fn new(probes: Arc<Probes>, now: Instant, ready: bool) -> Self {
        let ready = ready || probes.readiness.is_none();
        let mut health =
            Self { probes, started: now, ready, next: now, open: false, good: 0, bad: 0, last: None };
        health.next = now + health.probe().map_or(Duration::ZERO, |probe| probe.initial_delay.get());
        health
    }

    /// True when the instance counts as active.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    fn probe(&self) -> Option<&Probe> {
        if self.ready { self.probes.liveness.as_ref() } else { self.probes.readiness.as_ref() }
    }

    /// When [`Health::ask`] or [`Health::verdict`] has something new to say.
    pub fn due(&self) -> Option<Instant> {
        let deadline = (!self.ready).then(|| self.started + self.probes.start_timeout.get());
        let question = self.probe().filter(|_| !self.open).map(|_| self.next);
        deadline.into_iter().chain(question).min()
    }

    /// The question to be asked now, if there is one.
    pub fn ask(&mut self, now: Instant) -> Option<(Question, Probe)> {
        let probe = self.probe().filter(|_| !self.open && now >= self.next)?.clone();
        self.open = true;
        Some((if self.ready { Question::Alive } else { Question::Ready }, probe))
    }

    /// Takes an answer; true when the instance has just become ready.
    pub fn answer(&mut self, now: Instant, question: Question, result: Result<(), ProbeError>) -> bool {
        if !self.open || (question == Question::Alive) != self.ready {
            return false;
        }
        self.open = false;
        let Some(probe) = self.probe() else { return false };
        let enough = probe.success_threshold;
        let pause = probe.period.get();
        match result {
            Ok(()) => {
                self.good = self.good.saturating_add(1);
                if self.good >= enough {
                    self.bad = 0;
                }
            }
            Err(error) => {
                self.good = 0;
                self.bad = self.bad.saturating_add(1);
                self.last = Some(Arc::new(error));
            }
        }
        if self.ready || self.good < enough {
            self.next = now + pause;
            return false;
        }
        *self = Self::new(Arc::clone(&self.probes), now, true);
        true
    }

    /// Why the process has to be ended, if it has to.
    pub fn verdict(&self, now: Instant) -> Option<Unhealthy> {
        let last = || self.last.clone();
        if !self.ready {
            let limit = self.probes.start_timeout.get();
            return (now >= self.started + limit).then(|| Unhealthy::NotReady { limit, last: last() });
        }
        let failures = self.probes.liveness.as_ref()?.failure_threshold;
        (self.bad >= failures).then(|| Unhealthy::Failing { failures, last: last() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aos_duration_text::DurationText;
    use aos_item_format::TcpProbe;
    use proptest::prelude::*;

    fn probe(success: u32, failure: u32) -> Probe {
        Probe {
            tcp: Some(TcpProbe { port: 1 }),
            period: DurationText(Duration::from_secs(2)),
            success_threshold: success,
            failure_threshold: failure,
            ..Probe::default()
        }
    }

    fn probes(readiness: Option<Probe>, liveness: Option<Probe>) -> Arc<Probes> {
        let start_timeout = DurationText(Duration::from_secs(10));
        Arc::new(Probes { start_timeout, readiness, liveness })
    }

    fn refused() -> Result<(), ProbeError> {
        Err(ProbeError::Http(503))
    }

    #[test]
    fn an_instance_is_ready_after_enough_answers_and_asked_for_life_then() {
        let start = Instant::now();
        let mut health = Health::new(probes(Some(probe(2, 1)), Some(probe(1, 2))), start, false);
        let mut now = start;
        for (answer, ready) in [(Ok(()), false), (refused(), false), (Ok(()), false), (Ok(()), true)] {
            assert!(!health.is_ready());
            assert_eq!(health.ask(now).unwrap().0, Question::Ready);
            assert_eq!(health.ask(now), None, "one question at a time");
            assert_eq!(health.answer(now, Question::Ready, answer), ready);
            now += Duration::from_secs(2);
        }
        assert!(health.is_ready());
        assert!(health.verdict(start + Duration::from_hours(1)).is_none(), "the start is over");
        assert_eq!(health.ask(now).unwrap().0, Question::Alive);
        health.answer(now, Question::Alive, refused());
        assert!(health.verdict(now).is_none());
        now = health.due().unwrap();
        health.ask(now).unwrap();
        assert!(!health.answer(now, Question::Ready, Ok(())), "an answer to another question");
        health.answer(now, Question::Alive, refused());
        let Some(Unhealthy::Failing { failures: 2, last: Some(last) }) = health.verdict(now) else {
            panic!()
        };
        assert!(matches!(*last, ProbeError::Http(503)));
    }

    #[test]
    fn who_is_not_ready_in_time_has_failed() {
        let start = Instant::now();
        let mut health = Health::new(probes(Some(probe(1, 1)), None), start, false);
        health.ask(start).unwrap();
        assert_eq!(health.due(), Some(start + Duration::from_secs(10)), "an open question does not matter");
        health.answer(start, Question::Ready, refused());
        assert!(health.verdict(start + Duration::from_millis(9999)).is_none());
        let verdict = health.verdict(start + Duration::from_secs(10));
        let Some(Unhealthy::NotReady { limit, last: Some(_) }) = verdict else { panic!() };
        assert_eq!(limit, Duration::from_secs(10));
    }

    #[test]
    fn without_probes_it_is_ready_at_once_and_never_asked() {
        let now = Instant::now();
        let mut health = Health::new(probes(None, None), now, false);
        assert!(health.is_ready());
        assert_eq!((health.due(), health.ask(now)), (None, None));
        assert!(health.verdict(now).is_none());
    }

    proptest! {
        // Whatever is answered: life is only denied after as many failures in a row as were asked for, with no
        // success in between, and readiness only granted after as many successes.
        #[test]
        fn thresholds_are_kept(
            answers in proptest::collection::vec(any::<bool>(), 1..60), success in 1u32..4, failure in 1u32..5,
        ) {
            let mut now = Instant::now();
            let mut health = Health::new(probes(Some(probe(success, 1)), Some(probe(1, failure))), now, false);
            let (mut good, mut bad) = (0, 0);
            for answer in answers {
                let was_ready = health.is_ready();
                now = now.max(health.due().unwrap());
                let Some((question, _)) = health.ask(now) else { break };
                (good, bad) = if answer { (good + 1, 0) } else { (0, bad + 1) };
                let became = health.answer(now, question, if answer { Ok(()) } else { refused() });
                prop_assert_eq!(became, !was_ready && good >= success);
                if became {
                    (good, bad) = (0, 0);
                } else if was_ready {
                    prop_assert_eq!(health.verdict(now).is_some(), bad >= failure);
                    if bad >= failure {
                        break;
                    }
                }
            }
        }
    }
}

//! Many virtual Units, each a task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};

use crate::error::SimError;
use crate::fleet::Fleet;
use crate::messages::{full_status, monitoring};
use crate::unit::{Target, Unit};

/// Instances in the status of each Unit.
const INSTANCES: usize = 50;
/// Failures that are described.
const SHOWN: usize = 3;

/// What a Unit is told.
enum Order {
    /// Send samples one after another until then, this far apart from start to start.
    Send { from: Instant, until: Instant, apart: Duration, done: oneshot::Sender<Vec<Duration>> },
}

/// What became of connecting.
#[derive(Debug, Default, serde::Serialize)]
pub struct Connected {
    /// Units that are connected and have exchanged their statuses.
    pub connected: usize,
    /// Units that failed.
    pub failed: usize,
    /// Some of the reasons.
    pub reasons: Vec<String>,
    /// Time for all, milliseconds.
    pub millis: u128,
}

/// What became of messages.
#[derive(Debug, Default, serde::Serialize)]
pub struct Sent {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Units whose connection broke meanwhile.
    pub lost: usize,
    /// Time from the first to the last, milliseconds.
    pub millis: u128,
    /// Half of the acknowledgements came within this, microseconds.
    pub p50_micros: u128,
    /// All but a hundredth came within this, microseconds.
    pub p99_micros: u128,
}

/// Units of a fleet that are connected.
pub struct Swarm {
    fleet: Fleet,
    target: Arc<Target>,
    live: Vec<mpsc::Sender<Order>>,
    next: usize,
}

impl Swarm {
    /// A swarm of nobody yet.
    pub fn new(fleet: Fleet, target: Target) -> Self {
        Self { fleet, target: Arc::new(target), live: Vec::new(), next: 0 }
    }

    /// Connects `count` more Units, `parallel` at the same time. Each sends a full status of 50 instances and
    /// takes its desired status.
    pub async fn connect(&mut self, count: usize, parallel: usize) -> Result<Connected, SimError> {
        let since = Instant::now();
        let greeting = full_status(INSTANCES)?;
        let identities: Vec<_> = (self.next..self.next + count)
            .map(|number| self.fleet.identity(number))
            .collect::<Result<_, _>>()?;
        self.next += count;
        let connecting = identities.into_iter().map(|identity| {
            let (target, greeting) = (Arc::clone(&self.target), greeting.clone());
            async move {
                let mut unit = Unit::connect(&target, identity, greeting).await?;
                unit.settle().await?;
                Ok::<_, SimError>(unit)
            }
        });
        let mut connected = Connected::default();
        let mut done = futures_util::stream::iter(connecting).buffer_unordered(parallel.max(1));
        while let Some(outcome) = done.next().await {
            match outcome {
                Ok(unit) => {
                    connected.connected += 1;
                    let (orders, queue) = mpsc::channel(1);
                    tokio::spawn(live(unit, queue));
                    self.live.push(orders);
                }
                Err(error) => {
                    connected.failed += 1;
                    if connected.reasons.len() < SHOWN {
                        connected.reasons.push(with_causes(&error));
                    }
                }
            }
        }
        connected.millis = since.elapsed().as_millis();
        Ok(connected)
    }

    /// Has all Units send samples for `time`, each one message at a time: `per_second` in all, or as fast as
    /// they are acknowledged when that is 0.
    pub async fn send(&mut self, time: Duration, per_second: u32) -> Sent {
        let count = u32::try_from(self.live.len()).unwrap_or(u32::MAX).max(1);
        let apart =
            if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) * count / per_second };
        let start = Instant::now() + Duration::from_millis(200);
        let mut answers = Vec::new();
        for (number, orders) in (0_u32..).zip(&self.live) {
            let (done, answer) = oneshot::channel();
            let from = start + apart.mul_f64(f64::from(number) / f64::from(count));
            let order = Order::Send { from, until: start + time, apart, done };
            if orders.send(order).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut sent = Sent { lost: self.live.len() - answers.len(), ..Sent::default() };
        let mut times = Vec::new();
        for answer in answers {
            match answer.await {
                Ok(more) => times.extend(more),
                Err(_) => sent.lost += 1,
            }
        }
        sent.millis = start.elapsed().as_millis();
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).map_or(0, Duration::as_micros);
        sent.acknowledged = times.len();
        sent.p50_micros = at(50);
        sent.p99_micros = at(99);
        sent
    }

    /// Makes `count` TLS handshakes, `parallel` at the same time, and closes each connection. Returns how
    /// many succeeded.
    pub async fn shake_hands(
        &self,
        target: &Target,
        count: usize,
        parallel: usize,
    ) -> Result<usize, SimError> {
        let identity = self.fleet.identity(0)?;
        let shaking = (0..count).map(|_| target.shake_hands(&identity));
        let done = futures_util::stream::iter(shaking).buffer_unordered(parallel.max(1));
        Ok(done.filter(|outcome| std::future::ready(outcome.is_ok())).count().await)
    }
}

/// The life of a connected Unit.
async fn live(mut unit: Unit, mut orders: mpsc::Receiver<Order>) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Send { from, until, apart, done }) => {
                    let mut times = Vec::new();
                    if send_until(&mut unit, from, until, apart, &mut times).await.is_err() {
                        return;
                    }
                    // Nobody waits any more when the swarm is gone.
                    let _ = done.send(times);
                }
            },
            step = unit.step() => if step.is_err() {
                return;
            },
        }
    }
}

async fn send_until(
    unit: &mut Unit,
    from: Instant,
    until: Instant,
    apart: Duration,
    times: &mut Vec<Duration>,
) -> Result<(), SimError> {
    let body = monitoring()?;
    let mut due = from;
    while due < until && Instant::now() < until {
        tokio::time::sleep_until(due.into()).await;
        times.push(unit.send(body.clone()).await?);
        due += apart;
        if apart.is_zero() {
            due = Instant::now();
        }
    }
    Ok(())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

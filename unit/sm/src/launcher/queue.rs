//! Orders that wait for a free place: the most important one goes first.
//!
//! Each kind of work has its own places, and each runtime has its own for starts: a runtime that hangs holds
//! nobody else up. An order that takes long gives its place up and goes on without one, so that a few that
//! hang do not hold up the others of their runtime either.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// Time after which an order is slow.
const PATIENCE: Duration = Duration::from_secs(3);

/// A kind of work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// Getting images.
    Prepare,
    /// Getting network, resources, limits and secret for a start; what is asked for together is made together.
    Provide,
    /// Starting in a runtime.
    Start(String),
    /// Stopping.
    Stop,
    /// Asking about health.
    Probe,
}

impl Pool {
    /// Orders carried out at a time.
    const fn places(&self) -> usize {
        match self {
            Self::Provide => 32,
            Self::Prepare | Self::Start(_) => 4,
            Self::Stop => 16,
            Self::Probe => 8,
        }
    }
}

/// Orders that wait, by rank and number.
type Waiting<L, T> = BTreeMap<(u64, u64), (L, BoxFuture<'static, T>)>;

/// The orders that wait, each with a label.
pub struct Queue<L, T> {
    waiting: BTreeMap<Pool, Waiting<L, T>>,
    busy: BTreeMap<Pool, usize>,
    next: u64,
    freed: mpsc::UnboundedReceiver<Pool>,
    free: mpsc::UnboundedSender<Pool>,
}

/// A place at work; free again when dropped.
struct Place {
    pool: Option<Pool>,
    free: mpsc::UnboundedSender<Pool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let _ = self.free.send(pool);
        }
    }
}

impl<L, T: 'static> Queue<L, T> {
    /// Nothing waits.
    pub fn new() -> Self {
        // One message for each place at most.
        let (free, freed) = mpsc::unbounded_channel();
        Self { waiting: BTreeMap::new(), busy: BTreeMap::new(), next: 0, freed, free }
    }

    /// Puts an order in; the lowest rank goes first, of equal ones the oldest.
    pub fn push(&mut self, pool: Pool, rank: u64, label: L, work: BoxFuture<'static, T>) {
        self.next += 1;
        self.waiting.entry(pool).or_default().insert((rank, self.next), (label, work));
    }

    /// Takes an order out that still waits.
    pub fn withdraw(&mut self, pool: &Pool, which: impl Fn(&L) -> bool) -> Option<L> {
        let waiting = self.waiting.get_mut(pool)?;
        let key = *waiting.iter().find(|(_, (label, _))| which(label))?.0;
        waiting.remove(&key).map(|(label, _)| label)
    }

    /// The orders that may be carried out now.
    pub fn take(&mut self) -> Vec<(L, impl Future<Output = T> + Send + use<L, T>)> {
        while let Ok(pool) = self.freed.try_recv() {
            self.release(&pool);
        }
        let mut ready = Vec::new();
        for (pool, waiting) in &mut self.waiting {
            let busy = self.busy.entry(pool.clone()).or_default();
            while *busy < pool.places()
                && let Some((_, (label, work))) = waiting.pop_first()
            {
                *busy += 1;
                let place = Place { pool: Some(pool.clone()), free: self.free.clone() };
                ready.push((label, carry_out(place, work)));
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        ready
    }

    /// Waits until a place is free again.
    pub async fn freed(&mut self) {
        if let Some(pool) = self.freed.recv().await {
            self.release(&pool);
        }
    }

    fn release(&mut self, pool: &Pool) {
        if let Some(busy) = self.busy.get_mut(pool) {
            *busy = busy.saturating_sub(1);
        }
    }
}

async fn carry_out<T>(place: Place, mut work: BoxFuture<'static, T>) -> T {
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    drop(place);
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    fn note(log: &Arc<Mutex<Vec<u64>>>, number: u64) -> BoxFuture<'static, ()> {
        let log = Arc::clone(log);
        Box::pin(async move { log.lock().unwrap().push(number) })
    }

    async fn run(queue: &mut Queue<(), ()>) {
        loop {
            let ready = queue.take();
            if ready.is_empty() {
                return;
            }
            for ((), work) in ready {
                work.await;
            }
        }
    }

    #[tokio::test]
    async fn the_lowest_rank_goes_first_and_the_oldest_of_equals() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut queue = Queue::new();
        for (rank, number) in [(5, 1), (1, 2), (5, 3), (0, 4), (9, 5), (1, 6)] {
            queue.push(Pool::Prepare, rank, (), note(&log, number));
        }
        run(&mut queue).await;
        assert_eq!(*log.lock().unwrap(), [4, 2, 6, 1, 3, 5]);
    }

    // An order that hangs keeps its place for a while only, and never one of another runtime.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_holds_nobody_up_for_long() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let never = Arc::new(Notify::new());
        let mut queue = Queue::new();
        for _ in 0..4 {
            let never = Arc::clone(&never);
            queue.push(Pool::Start("bad".into()), 0, (), Box::pin(async move { never.notified().await }));
        }
        queue.push(Pool::Start("bad".into()), 1, (), note(&log, 1));
        queue.push(Pool::Start("good".into()), 1, (), note(&log, 2));
        let mut jobs = tokio::task::JoinSet::new();
        for ((), work) in queue.take() {
            jobs.spawn(work);
        }
        jobs.join_next().await.unwrap().unwrap();
        assert_eq!(*log.lock().unwrap(), [2]);
        // The place of the good one, then one of the bad ones, which go on without.
        for _ in 0..2 {
            queue.freed().await;
        }
        for ((), work) in queue.take() {
            jobs.spawn(work);
        }
        jobs.join_next().await.unwrap().unwrap();
        assert_eq!(*log.lock().unwrap(), [2, 1]);
        never.notify_waiters();
        while jobs.join_next().await.is_some() {}
    }
}

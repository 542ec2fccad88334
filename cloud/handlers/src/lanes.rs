//! Runs messages of many Units at the same time, and those of one Unit one after the other.
//!
//! What waits for the disk shares commits, so a handler gains from working on many messages at once; the
//! messages of a Unit keep their order.

use std::collections::{HashMap, VecDeque};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

/// Units that are worked for at the same time.
const AT_ONCE: usize = 256;

/// Takes messages from `queue` until it ends, and runs `work` for each. `unit` names the lane of a message.
pub(crate) async fn run<M, F, W>(mut queue: mpsc::Receiver<M>, unit: impl Fn(&M) -> String, work: W)
where
    F: Future<Output = ()>,
    W: Fn(M) -> F,
{
    let mut waiting: HashMap<String, VecDeque<M>> = HashMap::new();
    let mut held = 0;
    let mut running = FuturesUnordered::new();
    let start = |lane: String, message: M| {
        let done = work(message);
        async move {
            done.await;
            lane
        }
    };
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            // What is held counts as well: the queue is the bound, not this.
            message = queue.recv(), if open && running.len() + held < AT_ONCE => match message {
                Some(message) => {
                    let lane = unit(&message);
                    if let Some(behind) = waiting.get_mut(&lane) {
                        behind.push_back(message);
                        held += 1;
                    } else {
                        waiting.insert(lane.clone(), VecDeque::new());
                        running.push(start(lane, message));
                    }
                }
                None => open = false,
            },
            Some(lane) = running.next(), if !running.is_empty() => {
                if let Some(next) = waiting.get_mut(&lane).and_then(VecDeque::pop_front) {
                    held -= 1;
                    running.push(start(lane, next));
                } else {
                    waiting.remove(&lane);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn units_do_not_wait_for_each_other_and_a_unit_keeps_its_order() {
        let (sender, queue) = mpsc::channel(16);
        for message in [("a", 1), ("a", 2), ("b", 1), ("a", 3), ("b", 2)] {
            sender.send(message).await.unwrap();
        }
        drop(sender);
        let (seen, gate) = (RefCell::new(Vec::new()), Semaphore::new(0));
        run(
            queue,
            |message| message.0.to_owned(),
            |message| {
                let (seen, gate) = (&seen, &gate);
                async move {
                    if message == ("a", 1) {
                        gate.acquire().await.unwrap().forget();
                    } else if message == ("b", 2) {
                        gate.add_permits(1);
                    }
                    seen.borrow_mut().push(message);
                }
            },
        )
        .await;
        assert_eq!(seen.into_inner(), [("b", 1), ("b", 2), ("a", 1), ("a", 2), ("a", 3)]);
    }
}

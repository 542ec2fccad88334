//! The task of the cloud link: attempts, pauses, and one link after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_backoff::random_fraction;
use aos_ids::SystemId;
use aos_logging::with_causes;
use aos_supervise::Shutdown;
use tokio::sync::{mpsc, watch};

use super::connector::{ConnectError, Connector, Socket};
use super::log::MessageLog;
use super::mail::{Mail, Times};
use super::pause::Pauses;
use super::sealed::Opener;
use super::serving::{End, close};
use super::{CloudState, Event, Inbox, Stored};

/// Units that a cloud sends away come back within this time, or within the pause that it wished.
const SPREAD: Duration = Duration::from_secs(1);

/// The task.
pub struct Task {
    pub(super) inbox: Inbox,
    pub(super) stored: Stored,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) connected: watch::Sender<bool>,
    pub(super) state: watch::Sender<CloudState>,
    pub(super) system_id: watch::Receiver<Option<SystemId>>,
    pub(super) identity: watch::Receiver<Option<Arc<aos_token::Identity>>>,
    pub(super) times: Times,
    pub(super) opener: Option<Opener>,
    pub(super) log: Option<MessageLog>,
    pub(super) connector: Connector,
}

/// What an attempt led to.
enum Attempt {
    Linked(Box<Socket>, String),
    Failed(ConnectError),
    /// There is another certificate to try with.
    NewIdentity,
    /// Nobody is left to work for.
    Alone,
}

impl Task {
    /// Runs until told to stop.
    pub async fn run(mut self, stop: Shutdown) {
        let Some(system_id) = self.wait_for_identity(&stop).await else { return };
        let stored = std::mem::take(&mut self.stored);
        let mut mail = Mail::new(system_id.clone(), self.times, stored, self.events.clone());
        let mut pauses = Pauses::default();
        loop {
            let identity = self.identity.borrow_and_update().clone();
            let leaf = identity.as_ref().and_then(|identity| identity.leaf()).map(|leaf| leaf.to_vec());
            self.state.send_modify(|state| state.enter("connecting"));
            let attempt = tokio::select! {
                () = stop.wait() => return,
                attempt = self.attempt(&system_id, leaf.as_deref(), &mut mail) => attempt,
            };
            let pause = match attempt {
                Attempt::Alone => return,
                Attempt::NewIdentity => continue,
                Attempt::Linked(mut socket, url) => {
                    let started = Instant::now();
                    tracing::info!("connected to {url}");
                    self.state.send_modify(|state| {
                        state.enter("connected");
                        (state.url, state.last_error) = (Some(url), None);
                    });
                    let end = tokio::select! {
                        biased;
                        () = stop.wait() => End::Stopped,
                        end = self.serve(&mut socket, &mut mail, leaf.as_deref()) => end,
                    };
                    close(&mut socket, &end).await;
                    drop(socket);
                    if matches!(end, End::Stopped) {
                        return;
                    }
                    self.disconnected(&mut mail).await;
                    let good = started.elapsed() >= self.times.good;
                    self.after(&end, good, &mut pauses)
                }
                Attempt::Failed(error) => {
                    let reason = with_causes(&error);
                    tracing::warn!("no link to the cloud: {reason}");
                    self.state.send_modify(|state| state.last_error = Some(reason));
                    match error {
                        ConnectError::Later(delay) => delay,
                        _ => pauses.next(self.connector.delay(), random_fraction()),
                    }
                }
            };
            if pause.is_zero() {
                continue;
            }
            tracing::debug!("next attempt in {} ms", pause.as_millis());
            let go_on = tokio::select! {
                () = stop.wait() => false,
                go_on = self.sleep(pause, leaf.as_deref(), &mut mail) => go_on,
            };
            if !go_on {
                return;
            }
        }
    }

    /// The pause after a link.
    fn after(&mut self, end: &End, good: bool, pauses: &mut Pauses) -> Duration {
        if good {
            pauses.reset();
        }
        match end {
            End::Stopped => Duration::ZERO,
            End::NewIdentity => {
                tracing::info!("new online certificate: connecting anew");
                self.connector.forget();
                pauses.reset();
                Duration::ZERO
            }
            End::Away(reason) => {
                tracing::info!("link to the cloud ended: {reason}");
                self.state.send_modify(|state| state.last_error = Some(reason.clone()));
                // Elsewhere is what discovery says now.
                self.connector.leave_address();
                let spread = self.connector.delay().unwrap_or(SPREAD).mul_f64(random_fraction());
                if good { spread } else { pauses.next(self.connector.delay(), random_fraction()) }
            }
            End::Lost(reason) => {
                tracing::warn!("link to the cloud lost: {reason}");
                self.state.send_modify(|state| state.last_error = Some(reason.clone()));
                if good {
                    return Duration::ZERO;
                }
                // An address that opens links and does not hold them is no better than one that opens none.
                self.connector.leave_address();
                pauses.next(self.connector.delay(), random_fraction())
            }
        }
    }

    /// Tells how things are.
    pub(super) fn publish(&self, mail: &Mail) {
        self.state.send_modify(|state| {
            (state.queued, state.kept, state.counters) = (mail.queued(), mail.kept(), mail.counters());
        });
    }

    /// Waits for the Unit's identity and its `online` certificate; messages wait with us.
    async fn wait_for_identity(&mut self, stop: &Shutdown) -> Option<SystemId> {
        loop {
            let id = self.system_id.borrow_and_update().clone().filter(|_| self.identity.borrow().is_some());
            if id.is_some() {
                return id;
            }
            tokio::select! {
                () = stop.wait() => return None,
                Ok(()) = self.system_id.changed() => {}
                Ok(()) = self.identity.changed() => {}
            }
        }
    }

    async fn attempt(&mut self, system_id: &SystemId, leaf: Option<&[u8]>, mail: &mut Mail) -> Attempt {
        let Self { connector, inbox, identity, .. } = self;
        {
            let mut attempt = std::pin::pin!(connector.connect(system_id, leaf));
            loop {
                tokio::select! {
                    result = &mut attempt => return match result {
                        Ok((socket, url)) => Attempt::Linked(Box::new(socket), url),
                        Err(error) => Attempt::Failed(error),
                    },
                    Ok(()) = identity.changed() => if is_other(identity, leaf) { break },
                    told = inbox.next() => match told {
                        Some(told) => drop(mail.told(told)),
                        None => return Attempt::Alone,
                    },
                }
            }
        }
        self.connector.forget();
        Attempt::NewIdentity
    }

    /// Sleeps before the next attempt, less when a new certificate comes; false when nobody is left to work
    /// for.
    async fn sleep(&mut self, pause: Duration, leaf: Option<&[u8]>, mail: &mut Mail) -> bool {
        let mut timer = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            self.publish(mail);
            tokio::select! {
                () = &mut timer => return true,
                Ok(()) = self.identity.changed() => {
                    if self.has_other_identity(leaf) {
                        self.connector.forget();
                        return true;
                    }
                }
                told = self.inbox.next() => match told {
                    Some(told) => drop(mail.told(told)),
                    None => return false,
                },
            }
        }
    }

    pub(super) fn has_other_identity(&mut self, leaf: Option<&[u8]>) -> bool {
        is_other(&mut self.identity, leaf)
    }

    async fn disconnected(&mut self, mail: &mut Mail) {
        mail.disconnected();
        if *self.connected.borrow() {
            self.connected.send_replace(false);
            let _ = self.events.send(Event::Disconnected).await;
        }
        self.state.send_modify(|state| state.enter("connecting"));
    }
}

fn is_other(identity: &mut watch::Receiver<Option<Arc<aos_token::Identity>>>, leaf: Option<&[u8]>) -> bool {
    let identity = identity.borrow_and_update();
    identity.as_ref().is_some_and(|identity| identity.leaf().map(AsRef::as_ref) != leaf)
}

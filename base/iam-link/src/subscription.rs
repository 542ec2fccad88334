//! One server stream, and when to ask for the whole state beside it.
//!
//! Streams of IAM tell changes only. Whoever follows one must ask for the present state after the stream
//! stands. Some servers do not acknowledge a stream before its first message, so silence counts as standing.

use std::time::{Duration, Instant};

use aos_backoff::Backoff;
use futures_util::future::BoxFuture;
use tonic::{Response, Status, Streaming};

/// First pause before a broken stream is opened again; it doubles up to [`RESUBSCRIBE`]. At a node's start all
/// daemons come up together, and each waiting for whole seconds would add up.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a broken stream is opened again.
pub(crate) const RESUBSCRIBE: Duration = Duration::from_secs(3);
/// Silence of a server after which the stream is taken to stand.
const SILENT: Duration = Duration::from_secs(1);

/// The pauses between the streams of one subscription.
pub(crate) struct Pauses(Backoff);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self(Backoff::new(FIRST_PAUSE, RESUBSCRIBE, 0.0))
    }

    /// Waits; `since` is when the stream that broke was begun. One that held is followed by short pauses again.
    pub(crate) async fn wait(&mut self, since: Instant) {
        if since.elapsed() >= RESUBSCRIBE {
            self.0.reset();
        }
        tokio::time::sleep(self.0.next(0.0)).await;
    }
}

type Opening<T> = BoxFuture<'static, Result<Response<Streaming<T>>, Status>>;

enum State<T> {
    Opening(Opening<T>, bool),
    Open(Box<Streaming<T>>),
}

/// What a subscription tells next.
pub(crate) enum Event<T> {
    /// Ask for the present state now.
    Resync,
    /// A change.
    Message(T),
    /// The stream is over.
    Ended(Option<Status>),
}

pub(crate) struct Subscription<T>(State<T>);

impl<T: Send + 'static> Subscription<T> {
    pub(crate) fn new(
        opening: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> Self {
        Self(State::Opening(Box::pin(opening), false))
    }

    /// May be cancelled without losing anything.
    pub(crate) async fn next(&mut self) -> Event<T> {
        let opened = match &mut self.0 {
            State::Open(stream) => {
                return match stream.message().await {
                    Ok(Some(message)) => Event::Message(message),
                    Ok(None) => Event::Ended(None),
                    Err(status) => Event::Ended(Some(status)),
                };
            }
            State::Opening(opening, true) => opening.await,
            State::Opening(opening, silent) => {
                let Ok(opened) = tokio::time::timeout(SILENT, opening).await else {
                    *silent = true;
                    return Event::Resync;
                };
                opened
            }
        };
        match opened {
            Ok(response) => {
                self.0 = State::Open(Box::new(response.into_inner()));
                Event::Resync
            }
            Err(status) => Event::Ended(Some(status)),
        }
    }
}

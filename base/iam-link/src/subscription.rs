//! One server stream, and when to ask for the whole state beside it.
//!
//! Streams of IAM tell changes only. Whoever follows one must ask for the present state after the stream
//! stands. Some servers do not acknowledge a stream before its first message, so silence counts as standing.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tonic::{Response, Status, Streaming};

/// Pause before a broken stream is opened again.
pub(crate) const RESUBSCRIBE: Duration = Duration::from_secs(3);
/// Silence of a server after which the stream is taken to stand.
const SILENT: Duration = Duration::from_secs(1);

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

//! One attempt at one server: the bytes of a blob from an offset on.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::attempts::Failure;
use crate::{Dialer, SourceError};

/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(30);

/// Where the bytes go, one piece after the other.
pub(crate) trait Sink {
    /// Takes a piece; false when nobody wants more.
    fn put(&mut self, piece: Bytes) -> impl Future<Output = bool> + Send;
}

/// What is to be read.
pub(crate) struct Wish<'a> {
    pub dialer: &'a Dialer,
    pub uri: &'a Uri,
    /// For messages.
    pub address: &'a str,
    /// Announced length, bytes.
    pub size: Option<u64>,
    /// Most bytes taken when no length is announced.
    pub limit: u64,
}

impl SourceError {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Connect { .. } | Self::Http { .. } | Self::Silent(_) | Self::Short { .. } => {
                Failure::Broken
            }
            Self::Tls(_) => Failure::Broken,
            Self::Status { status, .. }
                if status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT
                            | StatusCode::TOO_MANY_REQUESTS
                            | StatusCode::RANGE_NOT_SATISFIABLE
                    ) =>
            {
                Failure::Broken
            }
            _ => Failure::Refused,
        }
    }
}

/// Reads from `*offset` to the end; `*offset` counts what was handed on. False when nobody wants more.
pub(crate) async fn read(
    wish: &Wish<'_>,
    offset: &mut u64,
    sink: &mut impl Sink,
) -> Result<bool, SourceError> {
    let broke = |source| SourceError::Http { address: wish.address.to_owned(), source };
    let stream = wish.dialer.dial(wish.uri, wish.address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broke)?;
    let mut connection = std::pin::pin!(connection);
    let target = wish.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = wish.uri.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit('@').next().unwrap_or_default();
    let mut request = http::Request::get(target)
        .header(header::HOST, host)
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if *offset > 0 {
        request = request.header(header::RANGE, format!("bytes={offset}-"));
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|_| SourceError::Address(wish.address.to_owned()))?;
    let mut work = std::pin::pin!(async {
        let sent = tokio::time::timeout(SILENCE, sender.send_request(request));
        let response = sent.await.map_err(|_| SourceError::Silent(wish.address.to_owned()))?;
        receive(wish, response.map_err(broke)?, offset, sink).await
    });
    tokio::select! {
        result = &mut work => result,
        ended = &mut connection => {
            ended.map_err(broke)?;
            work.await
        }
    }
}

async fn receive(
    wish: &Wish<'_>,
    response: http::Response<Incoming>,
    offset: &mut u64,
    sink: &mut impl Sink,
) -> Result<bool, SourceError> {
    let address = || wish.address.to_owned();
    let text = |name| response.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let mut skip = 0;
    let mut total = wish.size;
    match response.status() {
        StatusCode::OK => {
            // The server knows no ranges: what is known already comes again.
            skip = *offset;
            let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
            total = total.or(length);
            check_length(wish, length)?;
        }
        StatusCode::PARTIAL_CONTENT => {
            let (start, length) = text(header::CONTENT_RANGE).and_then(content_range).unwrap_or((0, None));
            if *offset == 0 || start != *offset {
                return Err(SourceError::Status { address: address(), status: response.status() });
            }
            total = total.or(length);
            check_length(wish, length)?;
        }
        status => return Err(SourceError::Status { address: address(), status }),
    }
    let limit = total.unwrap_or(wish.limit);
    if limit > wish.limit {
        return Err(SourceError::TooLong { address: address(), limit: wish.limit });
    }
    let mut body = response.into_body();
    while total != Some(*offset) {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = match frame.map_err(|_| SourceError::Silent(address()))? {
            Some(frame) => frame.map_err(|source| SourceError::Http { address: address(), source })?,
            None if total.is_none() => break,
            None => {
                return Err(SourceError::Short { address: address(), found: *offset, expected: limit });
            }
        };
        let Ok(mut piece) = frame.into_data() else { continue };
        let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= known as u64;
        let piece = piece.split_off(known);
        if piece.is_empty() {
            continue;
        }
        if *offset + piece.len() as u64 > limit {
            return Err(SourceError::TooLong { address: address(), limit });
        }
        let length = piece.len() as u64;
        if !sink.put(piece).await {
            return Ok(false);
        }
        *offset += length;
    }
    Ok(true)
}

fn check_length(wish: &Wish<'_>, found: Option<u64>) -> Result<(), SourceError> {
    match (found, wish.size) {
        (Some(found), Some(expected)) if found != expected => {
            Err(SourceError::Length { address: wish.address.to_owned(), found, expected })
        }
        _ => Ok(()),
    }
}

/// Start and whole length of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, length.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_are_understood() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("lines 5-9/10"), None);
    }
}

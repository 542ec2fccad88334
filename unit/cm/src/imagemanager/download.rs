//! Fetching the served bytes of one blob over HTTP, resumed where an earlier attempt ended.

use std::time::Duration;

use aos_content_store::{PartialBlob, StoreError};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use url::Url;

use crate::transport::{DialError, Dialer, over};

/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a blob did not arrive from one URL.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Not an http or https URL.
    #[error("'{0}' is no address of a blob")]
    Url(String),
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The exchange broke.
    #[error("fetching a blob")]
    Http(#[from] hyper::Error),
    /// The server refuses.
    #[error("the server answered with HTTP status {0}")]
    Status(StatusCode),
    /// Nothing arrived for 30 s.
    #[error("the server is silent")]
    Silent,
    /// The connection ended before the announced size.
    #[error("the connection ended after {0} of {1} bytes")]
    Short(u64, u64),
    /// The disk refuses, or more came than was announced.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Brings `partial` up to its announced size from `url`. What arrived stays when this fails or is dropped.
/// `arrived` is told how many bytes are here, at the beginning and after each piece.
pub async fn download(
    dialer: &Dialer,
    url: &str,
    partial: &mut PartialBlob,
    arrived: impl FnMut(u64),
) -> Result<(), DownloadError> {
    // What follows the question mark gives access.
    let wrong = || DownloadError::Url(url.split('?').next().unwrap_or_default().chars().take(200).collect());
    let url =
        Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
    if partial.is_complete() {
        return Ok(());
    }
    let stream = dialer.dial(&url).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut request = http::Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::CONNECTION, "close");
    if !partial.is_empty() {
        request = request.header(header::RANGE, format!("bytes={}-", partial.len()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| wrong())?;
    let work = async {
        let sent = tokio::time::timeout(SILENCE, sender.send_request(request));
        let response = sent.await.map_err(|_| DownloadError::Silent)??;
        receive(response, partial, arrived).await
    };
    over(connection, work).await
}

async fn receive(
    response: http::Response<Incoming>,
    partial: &mut PartialBlob,
    mut arrived: impl FnMut(u64),
) -> Result<(), DownloadError> {
    match response.status() {
        StatusCode::OK => partial.restart()?,
        StatusCode::PARTIAL_CONTENT if resumes_at(&response, partial.len()) => {}
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            // What we have is none of theirs: begin anew with the next attempt.
            partial.restart()?;
            return Err(DownloadError::Status(response.status()));
        }
        status => return Err(DownloadError::Status(status)),
    }
    let mut body = response.into_body();
    arrived(partial.len());
    while !partial.is_complete() {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| DownloadError::Silent)?;
        match frame {
            None => return Err(DownloadError::Short(partial.len(), partial.size())),
            Some(frame) => {
                if let Some(bytes) = frame?.data_ref() {
                    partial.append(bytes)?;
                    arrived(partial.len());
                }
            }
        }
    }
    Ok(())
}

fn resumes_at(response: &http::Response<Incoming>, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    start == Some(offset)
}

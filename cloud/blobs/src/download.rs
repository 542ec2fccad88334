//! The download server: encrypted bytes with ranges, for whoever holds an address that is still good.

use std::io::SeekFrom;
use std::pin::Pin;
use std::task::{Context, Poll};

use aos_byte_range::{Part, part};
use aos_cloud_store::{Served, now_micros};
use aos_ids::Digest;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::Stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{BlobError, Blobs, Counter};

const CHUNK: usize = 64 * 1024;

impl Blobs {
    /// The routes of the download listener.
    pub fn routes(&self) -> Router {
        Router::new().route("/blobs/{hex}", get(answer)).with_state(self.clone())
    }
}

async fn answer(
    State(blobs): State<Blobs>,
    method: Method,
    Path(hex): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let token = query.iter().find(|(name, _)| name == "t").map_or("", |(_, value)| value);
    if !blobs.admits(&hex, token, now_micros() / 1_000_000) {
        return plain(StatusCode::FORBIDDEN, "this address is not valid or has expired");
    }
    match serve(&blobs, &method, &hex, &headers).await {
        Ok(response) => response,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            tracing::error!("cannot serve blob {hex}: {error}{}", cause.unwrap_or_default());
            plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot serve the blob")
        }
    }
}

async fn serve(
    blobs: &Blobs,
    method: &Method,
    hex: &str,
    headers: &HeaderMap,
) -> Result<Response, BlobError> {
    let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
        return Ok(plain(StatusCode::NOT_FOUND, "no such blob"));
    };
    let Some(blob) = blobs.find(&digest).await? else {
        return Ok(plain(StatusCode::NOT_FOUND, "no such blob"));
    };
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let etag = format!("\"{}\"", blob.sha3);
    let builder = Response::builder()
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, &etag)
        .header(CACHE_CONTROL, "private, immutable, max-age=86400");
    let failed = |_| BlobError::Interrupted;
    if text(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag)) {
        return builder.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(failed);
    }
    // A range of another version of the file would corrupt the download: then the whole file is due.
    let same = text(IF_RANGE).is_none_or(|tag| tag == etag);
    let wanted = text(RANGE).filter(|_| same).map_or(Part::Whole, |range| part(range, blob.served_size));
    let size = blob.served_size;
    let (status, start, length) = match wanted {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Part::Unsatisfiable => {
            return builder
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{size}"))
                .body(Body::empty())
                .map_err(failed);
        }
    };
    let mut builder = builder
        .status(status)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, length);
    if status == StatusCode::PARTIAL_CONTENT {
        builder = builder.header(CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1));
    }
    if method == Method::HEAD {
        return builder.body(Body::empty()).map_err(failed);
    }
    let path = blobs.path(&blob);
    let mut file = tokio::fs::File::open(&path).await.map_err(BlobError::io("open", &path))?;
    file.seek(SeekFrom::Start(start)).await.map_err(BlobError::io("read", &path))?;
    let counter = blobs.inner.counter.clone();
    counter.add(&blob.digest, Served { requests: 1, bytes: 0 });
    let stream = Counted {
        bytes: ReaderStream::with_capacity(file.take(length), CHUNK),
        digest: blob.digest,
        sent: 0,
        counter,
    };
    builder.body(Body::from_stream(stream)).map_err(failed)
}

/// Counts what was handed out, also when the client goes away in the middle.
struct Counted<S> {
    bytes: S,
    digest: String,
    sent: u64,
    counter: Counter,
}

impl<S: Stream<Item = std::io::Result<Bytes>> + Unpin> Stream for Counted<S> {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.bytes).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.sent += bytes.len() as u64;
        }
        next
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.counter.add(&self.digest, Served { requests: 0, bytes: self.sent });
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

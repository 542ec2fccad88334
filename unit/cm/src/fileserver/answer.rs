//! One answer of the file server.

use std::convert::Infallible;
use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aos_byte_range::{Part, part};
use aos_content_store::Store;
use aos_ids::Digest;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, request::Parts};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
const FOLDER: &str = "/blobs/sha256/";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Answers a request; `moved` counts the pieces that were taken from the disk.
pub(super) async fn answer(
    store: Store,
    request: Parts,
    moved: Arc<AtomicU64>,
) -> Result<Response<Body>, Infallible> {
    if request.method != Method::GET && request.method != Method::HEAD {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let Some(digest) = digest(request.uri.path()) else { return Ok(empty(StatusCode::NOT_FOUND)) };
    let head = request.method == Method::HEAD;
    Ok(blob(&store, &digest, &request.headers, head, moved).await.unwrap_or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return empty(StatusCode::NOT_FOUND);
        }
        tracing::error!("file server: cannot serve blob {digest}: {error}");
        empty(StatusCode::INTERNAL_SERVER_ERROR)
    }))
}

/// The blob that a path names: exactly 64 digits, nothing to be unescaped.
fn digest(path: &str) -> Option<Digest> {
    let digits = path.strip_prefix(FOLDER)?;
    format!("sha256:{digits}").parse().ok()
}

async fn blob(
    store: &Store,
    digest: &Digest,
    headers: &HeaderMap,
    head: bool,
    moved: Arc<AtomicU64>,
) -> io::Result<Response<Body>> {
    let mut file = tokio::fs::File::open(store.path(digest)).await?;
    let facts = file.metadata().await?;
    if !facts.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let size = facts.len();
    let tag = format!("\"{}\"", digest.hex());
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // A name stands for one content for ever; another tag is of something that was never here.
    let same = text(IF_RANGE).is_none_or(|wanted| wanted == tag);
    let wanted = text(RANGE).filter(|_| same).map_or(Part::Whole, |range| part(range, size));
    let mut builder = Response::builder()
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, tag)
        .header(CONTENT_TYPE, "application/octet-stream");
    if let Some(time) = facts.modified().ok().and_then(http_date) {
        builder = builder.header(LAST_MODIFIED, time);
    }
    let (status, start, length) = match wanted {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes { start, length } => {
            let last = start + length - 1;
            builder = builder.header(CONTENT_RANGE, format!("bytes {start}-{last}/{size}"));
            (StatusCode::PARTIAL_CONTENT, start, length)
        }
        Part::Unsatisfiable => {
            builder = builder.header(CONTENT_RANGE, format!("bytes */{size}"));
            return builder
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .body(nothing())
                .map_err(io::Error::other);
        }
    };
    builder = builder.status(status).header(CONTENT_LENGTH, length);
    let body = if head {
        nothing()
    } else {
        file.seek(SeekFrom::Start(start)).await?;
        let pieces = ReaderStream::with_capacity(file.take(length), CHUNK).map(move |piece| {
            moved.fetch_add(1, Ordering::Relaxed);
            piece.map(Frame::data)
        });
        StreamBody::new(pieces).boxed_unsync()
    };
    builder.body(body).map_err(io::Error::other)
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(nothing());
    *response.status_mut() = status;
    response
}

/// A time as HTTP writes it.
fn http_date(time: std::time::SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn only_names_of_blobs_are_looked_at() {
        let good = format!("/blobs/sha256/{}", "a1".repeat(32));
        assert!(digest(&good).is_some());
        for bad in [
            "/",
            "/blobs/sha256/",
            "/blobs/sha256/../../cm.db",
            "/blobs/sha512/a1",
            "/partial/a1",
            "//blobs/sha256/a1",
            &good[1..],
            &format!("{good}0"),
            &format!("{good}/"),
            &good.replace("a1a1", "%61"),
            &good.replacen("sha256/", "sha256//", 1),
        ] {
            assert!(digest(bad).is_none(), "{bad}");
        }
    }
}

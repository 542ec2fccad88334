//! Upload of logs over HTTPS, where the cloud asks for that.
//!
//! Each part of a node's logs is one `PUT` to the address given, unchanged, with the bearer token given and
//! headers that name request, node and part. One that fails is tried four times in all, unless the server
//! refuses it for good. The token goes to `https` addresses only, and never after its end.

use std::time::Duration;

use aos_cloud_protocol::{Secret, UploadOptions, UploadType};
use aos_ids::NodeId;
use aos_status::{AosCode, ErrorInfo};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use url::Url;

use crate::transport::{DialError, Dialer, over};

/// Time for one part.
const PART_TIME: Duration = Duration::from_mins(1);
/// Pauses before further tries.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Bytes read of an answer's text, for nothing but a tidy end.
const MAX_ANSWER: usize = 64 * 1024;

/// Where parts go.
#[derive(Debug, Clone)]
pub struct Target {
    url: Url,
    token: Option<Secret>,
    until: Option<Timestamp>,
}

/// One part.
#[derive(Debug)]
pub struct Part {
    /// Its number.
    pub number: u64,
    /// How many there are.
    pub count: u64,
    /// As the node gave it.
    pub content: Bytes,
}

#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("sending a part of logs: {0}")]
    Http(#[from] hyper::Error),
    #[error("the server answered with HTTP status {0}")]
    Status(StatusCode),
    #[error("the server does not answer in time")]
    Silent,
    #[error("the request for the upload cannot be made")]
    Request(#[from] http::Error),
}

impl UploadError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => {
                !status.is_client_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Request(_) => false,
            Self::Dial(_) | Self::Http(_) | Self::Silent => true,
        }
    }
}

impl Target {
    /// Where to upload to: `None` for logs that go as messages.
    pub fn of(options: Option<&UploadOptions>, now: Timestamp) -> Result<Option<Self>, ErrorInfo> {
        let Some(options) = options.filter(|options| options.kind == UploadType::Https) else {
            return Ok(None);
        };
        let wrong = |reason: &str| ErrorInfo::new(AosCode::InvalidArgument, reason);
        let url = options.url.as_deref().ok_or_else(|| wrong("no address to upload logs to"))?;
        let url = Url::parse(url).ok().filter(|url| url.scheme() == "https" && url.has_host());
        let url = url.ok_or_else(|| wrong("logs are uploaded to https addresses only"))?;
        let token = options.bearer_token.clone().filter(|token| !token.expose().is_empty());
        let target = Self { url, token, until: options.bearer_token_ttl };
        target.check(now)?;
        Ok(Some(target))
    }

    fn check(&self, now: Timestamp) -> Result<(), ErrorInfo> {
        if self.token.is_some() && self.until.is_some_and(|until| until <= now) {
            return Err(ErrorInfo::new(AosCode::Timeout, "the token for the upload of logs has ended"));
        }
        Ok(())
    }
}

/// Uploads one part.
pub async fn upload(
    dialer: &Dialer,
    target: &Target,
    request: &str,
    node: &NodeId,
    part: &Part,
) -> Result<(), ErrorInfo> {
    let mut pauses = PAUSES.into_iter();
    loop {
        target.check(Timestamp::now())?;
        let work = put(dialer, target, request, node, part);
        let result = tokio::time::timeout(PART_TIME, work).await.unwrap_or(Err(UploadError::Silent));
        let Err(error) = result else { return Ok(()) };
        match pauses.next().filter(|_| error.may_pass()) {
            Some(pause) => {
                tracing::warn!("part {} of logs of node {node}: {error}; trying again", part.number);
                tokio::time::sleep(pause).await;
            }
            None => return Err(ErrorInfo::new(AosCode::Failed, format!("upload of logs: {error}"))),
        }
    }
}

async fn put(
    dialer: &Dialer,
    target: &Target,
    request_id: &str,
    node: &NodeId,
    part: &Part,
) -> Result<(), UploadError> {
    let url = &target.url;
    let mut request = http::Request::put(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/gzip")
        .header("Aos-Request", request_id)
        .header("Aos-Node", node.as_str())
        .header("Aos-Part", part.number)
        .header("Aos-Parts-Count", part.count);
    if let Some(token) = &target.token {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(http::Error::from)?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Full::new(part.content.clone()))?;
    let stream = dialer.dial(url).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let work = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let mut body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        while let Some(Ok(_)) = body.frame().await {}
        if status.is_success() { Ok(()) } else { Err(UploadError::Status(status)) }
    };
    over(connection, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: UploadType, url: Option<&str>, ttl: Option<i64>) -> UploadOptions {
        UploadOptions {
            kind,
            url: url.map(str::to_owned),
            bearer_token: Some(Secret::new("t")),
            bearer_token_ttl: ttl.map(|second| Timestamp::from_second(second).unwrap()),
        }
    }

    // PRO-89: the token is used in time and over TLS, or not at all.
    #[test]
    fn only_usable_targets_are_used() {
        let now = Timestamp::from_second(100).unwrap();
        let of = |options: UploadOptions| Target::of(Some(&options), now);
        let url = Some("https://cloud:9010/log-uploads/1?a=b");
        assert!(Target::of(None, now).unwrap().is_none());
        assert!(of(options(UploadType::Wss, None, None)).unwrap().is_none());
        assert!(of(options(UploadType::Https, url, Some(101))).unwrap().is_some());
        assert!(of(options(UploadType::Https, url, None)).unwrap().is_some());
        let over = of(options(UploadType::Https, url, Some(100))).unwrap_err();
        assert_eq!(over.code(), AosCode::Timeout);
        for bad in [None, Some("http://cloud/x"), Some("cloud"), Some("https:")] {
            let refused = of(options(UploadType::Https, bad, None)).unwrap_err();
            assert_eq!(refused.code(), AosCode::InvalidArgument, "{bad:?}");
        }
    }
}

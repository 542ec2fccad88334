//! Discovery: which URL to ask, and the question itself.

use std::time::Duration;

use aos_cloud_protocol::discovery::{self, DiscoveryError, Request, Response};
use aos_ids::SystemId;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use url::Url;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::transport::{DialError, Dialer, over};

/// Port of discovery on a host that only the certificate's organisation names.
const DEFAULT_PORT: u16 = 9000;
/// Time for the whole exchange.
const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// Why discovery gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no usable URL.
    #[error("no usable discovery URL: {0}")]
    Url(String),
    /// No connection.
    #[error("connecting for discovery")]
    Dial(#[from] DialError),
    /// The exchange broke.
    #[error("asking for the cloud's address")]
    Http(#[from] hyper::Error),
    /// Another status than 200.
    #[error("discovery answered with HTTP status {0}")]
    Status(u16),
    /// The body is too long or broke off.
    #[error("discovery answer could not be read: {0}")]
    Body(String),
    /// The body makes no sense.
    #[error("discovery answer is of no use")]
    Answer(#[from] DiscoveryError),
    /// Not within 30 s.
    #[error("discovery did not answer in time")]
    Timeout,
}

/// The URLs of the configuration.
#[derive(Debug, Clone)]
pub struct Configured {
    /// Wins over everything, when not empty.
    pub overriding: String,
    /// Used last; its path is used always.
    pub fallback: String,
}

/// Chooses the discovery URL: the overriding one, the one in the `online` certificate, its organisation's
/// host, the configured one. The path is that of the configured one.
pub fn choose(configured: &Configured, leaf: Option<&[u8]>) -> Result<Url, AskError> {
    let from_certificate = || leaf.and_then(named_in_certificate);
    let overriding = Some(configured.overriding.clone()).filter(|text| !text.is_empty());
    let text = overriding.or_else(from_certificate).unwrap_or_else(|| configured.fallback.clone());
    let bad =
        |reason: String| AskError::Url(format!("'{}': {reason}", text.chars().take(200).collect::<String>()));
    let mut url = Url::parse(&text).map_err(|error| bad(error.to_string()))?;
    let path = match Url::parse(&configured.fallback) {
        Ok(fallback) => fallback.path().to_owned(),
        Err(_) => discovery::PATH.to_owned(),
    };
    url.set_path(&path);
    if matches!(url.scheme(), "https" | "http") {
        Ok(url)
    } else {
        Err(bad("neither http nor https".to_owned()))
    }
}

fn named_in_certificate(leaf: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let uri = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::IssuerAlternativeName(names) => {
            names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
        }
        _ => None,
    });
    uri.or_else(|| {
        let organisation = certificate.subject().iter_organization().next()?.as_str().ok()?.to_owned();
        let host = url::Host::parse(&organisation).ok()?;
        Some(format!("https://{host}:{DEFAULT_PORT}"))
    })
}

/// Asks `url` where the Unit's cloud is.
pub async fn ask(dialer: &Dialer, url: &Url, system_id: &SystemId) -> Result<Response, AskError> {
    tokio::time::timeout(EXCHANGE_TIME, exchange(dialer, url, system_id))
        .await
        .map_err(|_| AskError::Timeout)?
}

async fn exchange(dialer: &Dialer, url: &Url, system_id: &SystemId) -> Result<Response, AskError> {
    let stream = dialer.dial(url).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = http::Request::post(target)
        .header("host", &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(Request::new(system_id.clone()).to_json())))
        .map_err(|error| AskError::Url(error.to_string()))?;
    let work = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status != http::StatusCode::OK {
            return Err(AskError::Status(status.as_u16()));
        }
        let body = Limited::new(response.into_body(), discovery::MAX_BODY);
        let body = body.collect().await.map_err(|error| AskError::Body(error.to_string()))?.to_bytes();
        Ok(Response::read(&body)?)
    };
    // Dropped with this future: one exchange, one connection.
    over(connection, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(organisation: Option<&str>, issuer_uri: Option<&str>) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "unit-1");
        if let Some(organisation) = organisation {
            params.distinguished_name.push(rcgen::DnType::OrganizationName, organisation);
        }
        if let Some(uri) = issuer_uri {
            let length = u8::try_from(uri.len()).unwrap();
            let mut der = vec![0x30, length + 2, 0x86, length];
            der.extend_from_slice(uri.as_bytes());
            params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 18], der));
        }
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    // CM-20, CM-54: order of preference; the path is always the configured one.
    #[test]
    fn the_discovery_url() {
        let configured = |overriding: &str| Configured {
            overriding: overriding.to_owned(),
            fallback: "https://fall.back:1/sd/v7/".to_owned(),
        };
        let chosen = |overriding: &str, leaf: Option<&[u8]>| {
            choose(&configured(overriding), leaf).unwrap().to_string()
        };
        let both = certificate(Some("org.example"), Some("https://named.example:9443/other"));
        assert_eq!(chosen("http://over:5/x", Some(&both)), "http://over:5/sd/v7/");
        assert_eq!(chosen("", Some(&both)), "https://named.example:9443/sd/v7/");
        assert_eq!(
            chosen("", Some(&certificate(Some("org.example"), None))),
            "https://org.example:9000/sd/v7/"
        );
        assert_eq!(chosen("", Some(&certificate(None, None))), "https://fall.back:1/sd/v7/");
        assert_eq!(
            chosen("", Some(&certificate(Some("An Organisation"), None))),
            "https://fall.back:1/sd/v7/"
        );
        assert_eq!(chosen("", Some(b"broken")), "https://fall.back:1/sd/v7/");
        assert_eq!(chosen("", None), "https://fall.back:1/sd/v7/");
        assert!(choose(&configured("ftp://x"), None).is_err());
        let bare = Configured { overriding: "https://o:1".into(), fallback: String::new() };
        assert_eq!(choose(&bare, None).unwrap().as_str(), "https://o:1/sd/v7/");
        // Scheme, host, port and query are those of the URL that is chosen.
        assert_eq!(chosen("http://over:5/x?fleet=a", None), "http://over:5/sd/v7/?fleet=a");
        let named = certificate(None, Some("http://named.example/x?fleet=b"));
        assert_eq!(chosen("", Some(&named)), "http://named.example/sd/v7/?fleet=b");
        let pathless = Configured { overriding: String::new(), fallback: "https://fall.back".into() };
        assert_eq!(choose(&pathless, Some(&named)).unwrap().path(), "/");
        // Without any configured URL the certificate alone names the cloud.
        let none = Configured { overriding: String::new(), fallback: String::new() };
        assert_eq!(choose(&none, Some(&both)).unwrap().as_str(), "https://named.example:9443/sd/v7/");
        assert!(choose(&none, None).is_err());
    }
}

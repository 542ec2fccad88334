//! The busy side of the benchmark of the Identity and Access Manager: a program of its own, so that it can run
//! inside a Unit's box and with a SoftHSM of its own.
//!
//! `getcert ADDRESS ROOT CALLS` asks a public server for a certificate, one call after the other;
//! `handshakes LIBRARY SECONDS` makes full handshakes with a key in a token and with one in a file, in turns. Both
//! print one line of JSON.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_tls::{ClientAuth, HostCheck, IdentitySlot, Incoming, Protocol, ServerIdentity};
use aos_token::{AuthPin, KeyKind, Library, SlotChoice};
use aos_unit_api::iamanager::v6::GetCertRequest;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WARM_UP: usize = 200;
const ROUNDS: u32 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into);
    let result = result.and_then(|runtime| match words.as_slice() {
        ["getcert", address, root, calls] => {
            runtime.block_on(get_cert(address, Path::new(root), calls.parse()?))
        }
        ["handshakes", library, seconds] => {
            runtime.block_on(handshakes(Path::new(library), seconds.parse()?))
        }
        _ => Err("usage: aos-iam-bench getcert ADDRESS ROOT CALLS | handshakes LIBRARY SECONDS".into()),
    });
    match result {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("aos-iam-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn get_cert(address: &str, root: &Path, calls: usize) -> Result<Value> {
    let roots = aos_tls::roots_from_pem_file(root)?;
    let channel =
        aos_tls::grpc_channel(address, &aos_tls::client_config(roots, None, HostCheck::ChainOnly)?)?;
    let mut client = IamPublicCertServiceClient::new(channel);
    let request = GetCertRequest { r#type: "iam".to_owned(), ..GetCertRequest::default() };
    for _ in 0..WARM_UP {
        client.get_cert(request.clone()).await?;
    }
    let mut times = Vec::with_capacity(calls);
    let started = Instant::now();
    for _ in 0..calls {
        let start = Instant::now();
        client.get_cert(request.clone()).await?;
        times.push(start.elapsed());
    }
    let all = started.elapsed();
    times.sort_unstable();
    let p99 = times.get(calls * 99 / 100).copied().unwrap_or_default();
    Ok(json!({"p99_us": p99.as_micros(), "per_second": per_second(calls, all)}))
}

async fn handshakes(library: &Path, seconds: u64) -> Result<Value> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut params = named("benchmark authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(params, authority_key);
    let roots = aos_tls::roots_from_pem(authority.pem().as_bytes())?;

    let (so_pin, pin) = (AuthPin::from("benchmark-so".to_owned()), AuthPin::from("benchmark".to_owned()));
    let token = Library::open(library)?.find_token(&SlotChoice::Label("benchmark".to_owned()))?;
    let token = token.ok_or("the library has no free token")?.init(&so_pin, "benchmark", &pin)?;
    let in_token = token.open(&pin)?.generate_key(KeyKind::EcP384, [1; 16], "benchmark")?;
    let certificate = named("localhost").signed_by(&in_token, &issuer)?;
    let with_token = CertifiedKey::new(vec![certificate.der().clone()], in_token.rustls_key());
    let with_file = in_memory(&rcgen::PKCS_ECDSA_P384_SHA384, &issuer)?;
    let client = in_memory(&rcgen::PKCS_ECDSA_P256_SHA256, &issuer)?;

    let mut connect = (*aos_tls::client_config(roots.clone(), Some(client), HostCheck::ChainOnly)?).clone();
    connect.alpn_protocols = vec![b"h2".to_vec()];
    let connect = Arc::new(connect);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (rates, key) in rates.iter_mut().zip([Arc::new(with_token.clone()), with_file.clone()]) {
            let identity: ServerIdentity = IdentitySlot::holding(key).into();
            let config = aos_tls::server_config(identity, ClientAuth::Required(roots.clone()))?;
            let incoming = Incoming::bind_tls("127.0.0.1:0", &config, Protocol::Grpc).await?;
            rates.push(rate(incoming, &connect, Duration::from_secs(seconds)).await?);
        }
    }
    let [token, file] = rates.map(|mut rates| {
        rates.sort_unstable();
        rates[rates.len() / 2]
    });
    Ok(json!({"token": token, "file": file}))
}

/// Handshakes in a second of processor time, one after the other, both sides on this thread: what else runs on the
/// machine does not count.
async fn rate(mut incoming: Incoming, connect: &Arc<rustls::ClientConfig>, time: Duration) -> Result<u64> {
    let port = incoming.local_addr().port();
    let (mut count, started, used) = (0, Instant::now(), processor_time()?);
    while started.elapsed() < time {
        let client = aos_tls::connect_tcp_tls("127.0.0.1", port, connect.clone(), "localhost");
        let (client, _server) = tokio::join!(client, incoming.accept());
        client?;
        count += 1;
    }
    Ok(per_second(count, processor_time()?.saturating_sub(used)))
}

/// Time that this program's first thread, its only busy one, was given.
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.ok_or("the kernel does not tell processor times")?))
}

fn in_memory(
    kind: &'static rcgen::SignatureAlgorithm,
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> Result<Arc<CertifiedKey>> {
    let key = rcgen::KeyPair::generate_for(kind)?;
    let certificate = named("localhost").signed_by(&key, issuer)?;
    let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = aos_tls::provider().key_provider.load_private_key(der)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

fn named(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn per_second(count: usize, time: Duration) -> u64 {
    let milliseconds = time.as_millis().max(1);
    u64::try_from(count as u128 * 1000 / milliseconds).unwrap_or(u64::MAX)
}

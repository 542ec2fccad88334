//! Who is let in and who is not, with TLS 1.3 and 1.2.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::SerialNumber;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::authority::Authority;
use crate::{
    ClientAuth, ConnectionPeer, HostCheck, IdentitySlot, Incoming, Limits, Protocol, TlsError, client_config,
    client_config_hot, connect_tcp_tls, server_config,
};

const DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn listen(config: &Arc<ServerConfig>) -> Incoming {
    Incoming::bind_tls("127.0.0.1:0", config, Protocol::Http1).await.unwrap()
}

/// Greets every connection and reports who came.
pub(super) fn greet(mut incoming: Incoming) -> (u16, tokio::sync::mpsc::Receiver<ConnectionPeer>) {
    let port = incoming.local_addr().port();
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let mut connection = incoming.accept().await;
            sender.send(connection.peer().clone()).await.unwrap();
            // A client that left at once is no failure of the test.
            let _ = connection.write_all(b"hello").await;
            let _ = connection.shutdown().await;
        }
    });
    (port, receiver)
}

/// Connects and reads the greeting. With TLS 1.3 a client learns of its refusal from the first read only.
pub(super) async fn greeting(port: u16, config: Arc<ClientConfig>, name: &str) -> Result<String, io::Error> {
    let work = async {
        let mut stream = connect_tcp_tls("127.0.0.1", port, config, name).await.map_err(io::Error::other)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::time::timeout(DEADLINE, work).await.unwrap()
}

fn client(roots: &Authority, key: Option<Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    client_config(Arc::clone(&roots.roots), key, HostCheck::ChainOnly).unwrap()
}

fn with_tls12(config: &ClientConfig, key: Option<Arc<CertifiedKey>>, roots: &Authority) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(Arc::clone(&roots.roots));
    let slot = key.map(IdentitySlot::holding).unwrap_or_default();
    let mut old = builder.with_client_cert_resolver(Arc::new(slot));
    old.resumption = config.resumption.clone();
    Arc::new(old)
}

// CLO-06, SM-25, ARC-10
#[tokio::test]
async fn required_client_certificate_is_verified_in_the_handshake() {
    let unit = Authority::new("Unit CA");
    let foreign = Authority::new("Unit CA");
    let required = ClientAuth::Required(Arc::clone(&unit.roots));
    let (port, mut came) = greet(listen(&server_config(unit.issue("server"), required).unwrap()).await);

    let refused = [None, Some(unit.issue_expired("late")), Some(foreign.issue("stranger"))];
    for key in refused {
        let modern = client(&unit, key.clone());
        let old = with_tls12(&modern, key, &unit);
        assert!(greeting(port, modern, "server").await.is_err());
        assert!(greeting(port, old, "server").await.is_err());
    }
    let key = unit.issue_with("sm", |params| params.serial_number = Some(SerialNumber::from(vec![0x91, 2])));
    let modern = client(&unit, Some(key.clone()));
    let old = with_tls12(&modern, Some(key), &unit);
    assert_eq!(greeting(port, modern, "server").await.unwrap(), "hello");
    assert_eq!(greeting(port, old, "server").await.unwrap(), "hello");

    // Only the two good ones came through, and they are known by their certificate.
    for _ in 0..2 {
        let identity = came.recv().await.unwrap().identity.unwrap();
        assert_eq!(identity.common_name.as_deref(), Some("sm"));
        assert_eq!(identity.serial, [0x91, 2]);
        assert!(identity.not_after > SystemTime::now());
        assert!(identity.issuer_der.windows(7).any(|part| part == b"Unit CA"));
    }
    assert!(came.try_recv().is_err());
}

#[tokio::test]
async fn optional_client_certificate_may_be_missing_but_not_wrong() {
    let ca = Authority::new("Users");
    let optional = ClientAuth::Optional(Arc::clone(&ca.roots));
    let (port, mut came) = greet(listen(&server_config(ca.issue("localhost"), optional).unwrap()).await);

    assert_eq!(greeting(port, client(&ca, None), "localhost").await.unwrap(), "hello");
    assert!(came.recv().await.unwrap().identity.is_none());
    assert!(greeting(port, client(&ca, Some(ca.issue_expired("late"))), "localhost").await.is_err());
    assert_eq!(greeting(port, client(&ca, Some(ca.issue("user"))), "localhost").await.unwrap(), "hello");
    assert!(came.recv().await.unwrap().identity.is_some());
}

#[tokio::test]
async fn servers_are_verified_by_chain_and_where_asked_by_name() {
    let ca = Authority::new("CA");
    let foreign = Authority::new("CA");
    let (port, _came) = greet(listen(&server_config(ca.issue("aosiam"), ClientAuth::None).unwrap()).await);
    let strict = client_config(Arc::clone(&ca.roots), None, HostCheck::Verify).unwrap();

    assert_eq!(greeting(port, client(&ca, None), "other").await.unwrap(), "hello");
    assert_eq!(greeting(port, Arc::clone(&strict), "aosiam").await.unwrap(), "hello");
    assert!(greeting(port, strict, "other").await.is_err());
    assert!(greeting(port, client(&foreign, None), "aosiam").await.is_err());

    let expired = server_config(ca.issue_expired("aosiam"), ClientAuth::None).unwrap();
    let (port, _came) = greet(listen(&expired).await);
    assert!(greeting(port, client(&ca, None), "aosiam").await.is_err());
}

/// The clock of this machine is behind that of the authority: nothing is "not yet valid".
#[tokio::test]
async fn a_clock_that_is_behind_locks_nobody_out() {
    let ca = Authority::new("CA");
    let later = |name: &str, year: i32| {
        ca.issue_with(name, |params| {
            params.not_before = rcgen::date_time_ymd(year, 1, 1);
            params.not_after = rcgen::date_time_ymd(year + 20, 1, 1);
        })
    };
    let roots = || Arc::clone(&ca.roots);
    let server = server_config(later("aosiam", 2060), ClientAuth::Required(roots())).unwrap();
    let (port, _came) = greet(listen(&server).await);
    assert_eq!(greeting(port, client(&ca, Some(later("unit", 2065))), "aosiam").await.unwrap(), "hello");
    let strict = client_config(roots(), Some(later("unit", 2070)), HostCheck::Verify).unwrap();
    assert_eq!(greeting(port, strict, "aosiam").await.unwrap(), "hello");
}

// SM-26
#[tokio::test]
async fn identities_are_swapped_without_a_restart() {
    let (first, second) = (Authority::new("First"), Authority::new("Second"));
    let both = [first.roots.roots.clone(), second.roots.roots.clone()].concat();
    let both = Arc::new(rustls::RootCertStore { roots: both });
    let (server_slot, client_slot) = (IdentitySlot::new(), IdentitySlot::new());
    let required = ClientAuth::Required(both);
    let (port, mut came) = greet(listen(&server_config(server_slot.clone(), required).unwrap()).await);
    let config =
        client_config_hot(Arc::clone(&first.roots), client_slot.clone(), HostCheck::ChainOnly).unwrap();

    // Both slots empty: the server has nothing to present.
    assert!(greeting(port, Arc::clone(&config), "server").await.is_err());
    server_slot.set(first.issue("server"));
    assert!(greeting(port, Arc::clone(&config), "server").await.is_err());
    client_slot.set(first.issue("before"));
    assert_eq!(greeting(port, Arc::clone(&config), "server").await.unwrap(), "hello");
    client_slot.set(second.issue("after"));
    assert_eq!(greeting(port, Arc::clone(&config), "server").await.unwrap(), "hello");
    server_slot.set(second.issue("server"));
    assert!(greeting(port, config, "server").await.is_err());

    let mut names = vec![];
    while let Ok(peer) = came.try_recv() {
        names.push(peer.identity.unwrap().common_name.clone().unwrap());
    }
    assert_eq!(names, ["before", "after"]);
}

#[tokio::test]
async fn a_stalled_handshake_ends_in_time_and_holds_up_nobody() {
    let ca = Authority::new("CA");
    let limits = Limits {
        handshakes: 2,
        handshakes_per_address: 2,
        connections: 3,
        handshake_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let incoming = listen(&server_config(ca.issue("server"), ClientAuth::None).unwrap()).await;
    let (port, _came) = greet(incoming.with_limits(limits));

    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(greeting(port, client(&ca, None), "server").await.unwrap(), "hello");
    let ended = tokio::time::timeout(DEADLINE, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));

    // More silent ones than may shake hands at a time only delay the next.
    let mut crowd = vec![];
    for _ in 0..4 {
        crowd.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    assert_eq!(greeting(port, client(&ca, None), "server").await.unwrap(), "hello");
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let ca = Authority::new("CA");
    let limits = Limits {
        handshakes: 4,
        handshakes_per_address: 2,
        connections: 16,
        handshake_time: Duration::from_mins(1),
        ..Limits::default()
    };
    let incoming = listen(&server_config(ca.issue("server"), ClientAuth::None).unwrap()).await;
    let counts = incoming.counts();
    let (port, _came) = greet(incoming.with_limits(limits));

    let mut silent = vec![];
    for _ in 0..2 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    // The third from there is turned away long before its handshake could time out; others get in.
    let mut third = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, third.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert_eq!(counts.failures()[3], ("address", 1));
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = other.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("server").unwrap();
    let connector = tokio_rustls::TlsConnector::from(client(&ca, None));
    let mut text = String::new();
    connector.connect(name, stream).await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");

    // Who gives up frees its place.
    silent.clear();
    let work = async {
        while greeting(port, client(&ca, None), "server").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, work).await.unwrap();
    assert_eq!(counts.accepted(), 2);
    assert_eq!(counts.failures()[0].1, 2, "the silent ones");
    let closed = async {
        while counts.open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, closed).await.unwrap();
}

// A client that has shaken hands and answers every ping would otherwise stay for ever.
#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let ca = Authority::new("CA");
    let limits = Limits { connections: 4, connections_per_address: 2, ..Limits::default() };
    for tls in [true, false] {
        let incoming = if tls {
            listen(&server_config(ca.issue("server"), ClientAuth::None).unwrap()).await
        } else {
            Incoming::bind_plain("127.0.0.1:0").await.unwrap()
        };
        let counts = incoming.counts();
        let mut incoming = incoming.with_limits(limits);
        let port = incoming.local_addr().port();
        let (held, mut open) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let connection = incoming.accept().await;
                let _ = held.send(connection).await;
            }
        });
        let connect = async |from: &str| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
            if tls {
                let name = rustls_pki_types::ServerName::try_from("server").unwrap();
                let connector = tokio_rustls::TlsConnector::from(client(&ca, None));
                return connector.connect(name, stream).await.map(|stream| stream.into_inner().0);
            }
            Ok(stream)
        };
        let _one = connect("127.0.0.1:0").await.unwrap();
        let two = connect("127.0.0.1:0").await.unwrap();
        let (_first, second) = (open.recv().await.unwrap(), open.recv().await.unwrap());
        if let Ok(mut third) = connect("127.0.0.1:0").await {
            let ended = tokio::time::timeout(DEADLINE, third.read(&mut [0; 16])).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)), "turned away");
        }
        assert_eq!(counts.failures()[3], ("address", 1));
        let _other = connect("127.0.0.2:0").await.unwrap();
        assert_eq!(open.recv().await.unwrap().peer().address.ip().to_string(), "127.0.0.2");
        drop((two, second));
        let _again = connect("127.0.0.1:0").await.unwrap();
        assert_eq!(open.recv().await.unwrap().peer().address.ip().to_string(), "127.0.0.1");
    }
}

#[tokio::test]
async fn wrong_addresses_and_roots_are_told() {
    assert!(matches!(Incoming::bind_plain("8090").await, Err(TlsError::Address { .. })));
    assert!(matches!(Incoming::bind_plain("127.0.0.1:http").await, Err(TlsError::Address { .. })));
    let any = Incoming::bind_plain(":0").await.unwrap();
    assert!(any.local_addr().ip().is_unspecified() && any.local_addr().is_ipv4());
    let taken = any.local_addr().to_string();
    assert!(matches!(Incoming::bind_plain(&taken).await, Err(TlsError::Listen { .. })));
    assert!(matches!(crate::roots_from_pem(b"nothing"), Err(TlsError::NoRoots)));
    let missing = std::path::Path::new("/nonexistent/root.pem");
    assert!(matches!(crate::roots_from_pem_file(missing), Err(TlsError::ReadRoots { .. })));
    assert!(matches!(crate::plain_grpc_channel(":8090"), Err(TlsError::Address { .. })));
    assert!(matches!(crate::plain_grpc_channel("host"), Err(TlsError::Address { .. })));
}

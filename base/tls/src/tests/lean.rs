//! The stream without idle buffers: bulk in both directions, odd pieces, and how connections end.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::Authority;
use crate::{ClientAuth, HostCheck, Incoming, Protocol, ServerConnection, client_config, server_config};

const DEADLINE: Duration = Duration::from_secs(20);

/// A listener that hands out connections, and clients for both protocol versions.
async fn listen() -> (Incoming, Vec<Arc<ClientConfig>>) {
    let ca = Authority::new("CA");
    let required = ClientAuth::Required(Arc::clone(&ca.roots));
    let config = server_config(ca.issue("server"), required).unwrap();
    let incoming = Incoming::bind_tls("127.0.0.1:0", &config, Protocol::Http1).await.unwrap();
    let key = ca.issue("client");
    let modern = client_config(Arc::clone(&ca.roots), Some(Arc::clone(&key)), HostCheck::Verify).unwrap();
    let old = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(Arc::clone(&ca.roots))
        .with_client_cert_resolver(Arc::new(crate::IdentitySlot::holding(key)));
    (incoming, vec![modern, Arc::new(old)])
}

async fn connect(port: u16, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect("server".try_into().unwrap(), stream).await.unwrap()
}

async fn echo(mut connection: ServerConnection) {
    let (mut read, mut write) = tokio::io::split(&mut connection);
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    connection.shutdown().await.unwrap();
}

#[tokio::test]
async fn bulk_goes_both_ways_at_once() {
    let (mut incoming, clients) = listen().await;
    let port = incoming.local_addr().port();
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()[..1].to_vec()).collect();
    for (config, expected) in clients.iter().zip([ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2]) {
        let work = async {
            let (client, connection) = tokio::join!(connect(port, config), incoming.accept());
            assert_eq!(client.get_ref().1.protocol_version(), Some(expected));
            assert!(connection.peer().identity.is_some());
            let (mut read, mut write) = tokio::io::split(client);
            let mut received = vec![];
            let ((), (), all) = tokio::join!(
                echo(connection),
                async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                },
                async { read.read_to_end(&mut received).await.unwrap() }
            );
            assert_eq!(all, sent.len());
            assert!(received == sent);
        };
        tokio::time::timeout(DEADLINE, work).await.unwrap();
    }
}

/// Passes bytes on in pieces of `piece`, each in a segment of its own.
async fn relay(listener: TcpListener, to: u16, piece: usize) {
    let (from, _) = listener.accept().await.unwrap();
    let to = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    to.set_nodelay(true).unwrap();
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (from.into_split(), to.into_split());
    let forward = async {
        let mut chunk = vec![0; piece];
        loop {
            match from_read.read(&mut chunk).await {
                Ok(count @ 1..) if to_write.write_all(&chunk[..count]).await.is_ok() => {
                    tokio::task::yield_now().await;
                }
                _ => break,
            }
        }
        let _ = to_write.shutdown().await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut to_read, &mut from_write).await;
        let _ = from_write.shutdown().await;
    };
    tokio::join!(forward, back);
}

#[tokio::test]
async fn records_in_pieces_are_put_together() {
    let (mut incoming, clients) = listen().await;
    let port = incoming.local_addr().port();
    for (config, piece) in clients.iter().zip([1, 7]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relayed = listener.local_addr().unwrap().port();
        let passing = tokio::spawn(relay(listener, port, piece));
        let work = async {
            let (mut client, connection) = tokio::join!(connect(relayed, config), incoming.accept());
            let echoing = tokio::spawn(echo(connection));
            let sent = vec![0x5a; 20_000];
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut received = vec![];
            client.read_to_end(&mut received).await.unwrap();
            assert!(received == sent);
            drop(client);
            echoing.await.unwrap();
        };
        tokio::time::timeout(DEADLINE, work).await.unwrap();
        passing.await.unwrap();
    }
}

#[tokio::test]
async fn an_end_without_goodbye_is_an_error_and_a_goodbye_is_the_end() {
    let (mut incoming, clients) = listen().await;
    let port = incoming.local_addr().port();
    let (mut client, mut connection) = tokio::join!(connect(port, &clients[0]), incoming.accept());
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = vec![];
    tokio::time::timeout(DEADLINE, connection.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, b"last words");
    // The other direction is still open.
    connection.write_all(b"and mine").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut heard = vec![];
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"and mine");

    let (client, mut connection) = tokio::join!(connect(port, &clients[0]), incoming.accept());
    drop(client);
    let ended = tokio::time::timeout(DEADLINE, connection.read(&mut [0; 8])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn garbage_gets_an_alert_and_the_end() {
    let (incoming, _) = listen().await;
    let port = incoming.local_addr().port();
    let counts = incoming.counts();
    let serving = tokio::spawn(async move {
        let mut incoming = incoming;
        incoming.accept().await
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    // A reset instead of the end is as good.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert record: {answer:?}");
    assert_eq!(counts.failures()[0], ("tls", 1));
    serving.abort();
}

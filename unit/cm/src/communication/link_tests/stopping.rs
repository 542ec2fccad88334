//! The task stops within a second, whatever it waits for.

use serde_json::json;
use tokio::net::TcpSocket;

use super::*;

fn rig(discovery: String) -> Rig {
    Rig::new(Setup { discovery, ..Setup::default() })
}

/// A listener that answers no further connection: its queue is full and nobody takes from it.
async fn black_hole() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

// Discovery that cannot be reached: the packets go nowhere.
// REL-18
#[tokio::test]
async fn while_connecting() {
    let (listener, _waiting) = black_hole().await;
    let address = listener.local_addr().unwrap();
    for scheme in ["http", "https"] {
        let rig = rig(format!("{scheme}://{address}/sd/v7/"));
        let early = tokio::time::timeout(Duration::from_millis(300), rig.way.clone().left("connecting"));
        assert!(early.await.is_err(), "it still connects");
        rig.stop().await;
    }
}

impl Communication {
    /// Waits until the state is another one, or an error is told.
    async fn left(mut self, state: &str) {
        let left = |now: &CloudState| now.state != state || now.last_error.is_some();
        let _ = self.state.wait_for(|now| now.state == state).await;
        let _ = self.state.wait_for(left).await;
    }
}

/// A server that takes connections and never says a word.
async fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

// REL-18
#[tokio::test]
async fn while_discovery_is_silent() {
    let (listener, address) = silent().await;
    let rig = rig(format!("http://{address}/sd/v7/"));
    let mut connection = in_time(listener.accept()).await.unwrap().0;
    let mut chunk = [0; 4];
    connection.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"POST");
    rig.stop().await;
}

// REL-18
#[tokio::test]
async fn in_the_tls_handshake() {
    let (listener, address) = silent().await;
    let rig = rig(format!("https://{address}/sd/v7/"));
    let mut connection = in_time(listener.accept()).await.unwrap().0;
    assert_eq!(connection.read_u8().await.unwrap(), 22, "a handshake begins");
    rig.stop().await;
}

// REL-18
#[tokio::test]
async fn in_the_upgrade() {
    let (listener, address) = silent().await;
    let discovery = Discovery::new([answer(&[format!("ws://{address}/ws/v7/")], json!({}))]).await;
    let rig = rig(discovery.url());
    let mut connection = in_time(listener.accept()).await.unwrap().0;
    let mut chunk = [0; 3];
    connection.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"GET");
    rig.stop().await;
}

// REL-18
#[tokio::test]
async fn in_a_pause() {
    let discovery = Discovery::new([answer(&[], json!({"errorCode": 2, "nextRequestDelay": 600_000}))]).await;
    let rig = rig(discovery.url());
    discovery.question(0).await;
    in_time(rig.way.clone().left("connecting")).await;
    rig.stop().await;
}

// REL-18
#[tokio::test]
async fn while_the_unit_does_not_say_what_it_is() {
    let (discovery, sockets) = cloud().await;
    let mut rig = rig(discovery.url());
    let _peer = sockets.accept().await;
    let Event::Connected(_question) = in_time(rig.events.recv()).await.unwrap() else { panic!() };
    rig.stop().await;
}

// A cloud that stopped reading: the Unit is in the middle of a message that finds no room any more.
// REL-18
#[tokio::test]
async fn while_the_cloud_reads_nothing() {
    let (discovery, sockets) = cloud().await;
    let mut rig = rig(discovery.url());
    let (_peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    let part = || {
        Body::PushLog(aos_cloud_protocol::PushLog {
            node: aos_cloud_protocol::AosIdentity::by_codename("n"),
            part: 1,
            parts_count: 1,
            content: vec![7; 200_000].into(),
            status: aos_cloud_protocol::LogStatus::Ok,
            error_info: None,
        })
    };
    // Commands are taken until the link is stuck; then they stay in the queue, which fills.
    in_time(async {
        let mut refused = 0;
        while refused < 10 {
            refused = if rig.way.send(part(), None) { 0 } else { refused + 1 };
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(rig.way.state().state, "connected");
    rig.stop().await;
}

// The receiver is stuck: what the cloud sends cannot be delivered.
// REL-18
#[tokio::test]
async fn while_nobody_takes_messages() {
    let (discovery, sockets) = cloud().await;
    let mut rig = rig(discovery.url());
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    for _ in 0..100 {
        let body = Body::DesiredStatus(aos_cloud_protocol::DesiredStatus::default());
        peer.send(&Envelope::new(unit(), jiff::Timestamp::now(), body)).await;
    }
    in_time(async {
        while rig.events.len() < 64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    rig.stop().await;
}

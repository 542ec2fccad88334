//! gRPC over both kinds of listeners.

use std::sync::Arc;
use std::time::Duration;

use aos_unit_api::iamanager::version::ApiVersion;
use aos_unit_api::iamanager::version::iam_version_service_client::IamVersionServiceClient;
use aos_unit_api::iamanager::version::iam_version_service_server::{
    IamVersionService, IamVersionServiceServer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Request, Response, Status};

use super::authority::Authority;
use crate::{
    ClientAuth, HostCheck, IdentitySlot, Incoming, Protocol, client_config, client_config_hot, grpc_channel,
    grpc_server, peer_of, plain_grpc_channel, server_config,
};

/// Answers with the last byte of the caller's serial number, or with 0 for the unknown.
struct WhoAsks;

#[tonic::async_trait]
impl IamVersionService for WhoAsks {
    async fn get_api_version(&self, request: Request<()>) -> Result<Response<ApiVersion>, Status> {
        let last = peer_of(&request).and_then(|peer| peer.serial.last().copied());
        Ok(Response::new(ApiVersion { version: last.unwrap_or(0).into() }))
    }
}

fn serve(incoming: Incoming) -> String {
    let address = format!("localhost:{}", incoming.local_addr().port());
    let server = grpc_server().add_service(IamVersionServiceServer::new(WhoAsks));
    tokio::spawn(server.serve_with_incoming(incoming.into_stream()));
    address
}

async fn ask(channel: tonic::transport::Channel) -> Result<u64, Status> {
    let mut client = IamVersionServiceClient::new(channel);
    Ok(client.get_api_version(()).await?.into_inner().version)
}

#[tokio::test]
async fn mutual_tls_tells_the_service_who_asks() {
    let ca = Authority::new("CA");
    let required = ClientAuth::Required(Arc::clone(&ca.roots));
    let server = server_config(ca.issue("localhost"), required).unwrap();
    let address = serve(Incoming::bind_tls("127.0.0.1:0", &server, Protocol::Grpc).await.unwrap());

    let key = ca.issue_with("cm", |params| params.serial_number = Some(77.into()));
    let config = client_config(Arc::clone(&ca.roots), Some(key), HostCheck::Verify).unwrap();
    assert_eq!(ask(grpc_channel(&address, &config).unwrap()).await.unwrap(), 77);

    let nobody = client_config(Arc::clone(&ca.roots), None, HostCheck::Verify).unwrap();
    assert!(ask(grpc_channel(&address, &nobody).unwrap()).await.is_err());
}

#[tokio::test]
async fn a_channel_recovers_by_itself_once_it_may() {
    let ca = Authority::new("CA");
    let required = ClientAuth::Required(Arc::clone(&ca.roots));
    let server = server_config(ca.issue("localhost"), required).unwrap();
    let address = serve(Incoming::bind_tls("127.0.0.1:0", &server, Protocol::Grpc).await.unwrap());
    let slot = IdentitySlot::new();
    let config = client_config_hot(Arc::clone(&ca.roots), slot.clone(), HostCheck::ChainOnly).unwrap();
    let channel = grpc_channel(&address, &config).unwrap();

    assert!(ask(channel.clone()).await.is_err());
    slot.set(ca.issue_with("sm", |params| params.serial_number = Some(5.into())));
    assert_eq!(ask(channel).await.unwrap(), 5);
}

#[tokio::test]
async fn plaintext_serves_without_identity() {
    let address = serve(Incoming::bind_plain("127.0.0.1:0").await.unwrap());
    assert_eq!(ask(plain_grpc_channel(&address).unwrap()).await.unwrap(), 0);
}

#[tokio::test]
async fn early_pings_are_answered_and_never_punished() {
    const PINGS: usize = 200;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let address = serve(Incoming::bind_plain("127.0.0.1:0").await.unwrap());
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let frame = |kind: u8, flags: u8, content: &[u8]| {
        let mut bytes = vec![0, 0, content.len().to_le_bytes()[0], kind, flags, 0, 0, 0, 0];
        bytes.extend_from_slice(content);
        bytes
    };
    stream.write_all(&[PREFACE, &frame(4, 0, &[])].concat()).await.unwrap();

    let work = async {
        let mut answered = 0;
        for _ in 0..PINGS {
            stream.write_all(&frame(6, 0, b"aosping!")).await.unwrap();
            while answered < PINGS {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = usize::from(head[1]) * 256 + usize::from(head[2]);
                let mut content = vec![0; length];
                stream.read_exact(&mut content).await.unwrap();
                match (head[3], head[4]) {
                    (6, 1) => {
                        answered += 1;
                        break;
                    }
                    (6, 0) => stream.write_all(&frame(6, 1, &content)).await.unwrap(),
                    (4, 0) => stream.write_all(&frame(4, 1, &[])).await.unwrap(),
                    (7, _) => panic!("the server said good-bye"),
                    _ => {}
                }
            }
        }
        answered
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), work).await.unwrap(), PINGS);
}

//! The Unit's identity from a Vehicle Information Service that follows a script.

use std::net::TcpListener;
use std::time::Duration;

use aos_tls::{ClientAuth, Incoming, Protocol, ServerConnection};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_identity_service_client::IamPublicIdentityServiceClient;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::authority::Authority;
use crate::rig::{PASSWORD, Rig, plain_channel, start, with_softhsm};

const VIN: &str = "Attribute.Vehicle.VehicleIdentification.VIN";
const MODEL: &str = "Attribute.Aos.UnitModel";
const SUBJECTS: &str = "Attribute.Aos.Subjects";

struct Service {
    incoming: Incoming,
}

impl Service {
    async fn open(authority: &Authority, port: u16) -> Self {
        let config = aos_tls::server_config(authority.server("localhost"), ClientAuth::None).unwrap();
        let address = format!("127.0.0.1:{port}");
        Self { incoming: Incoming::bind_tls(&address, &config, Protocol::Http1).await.unwrap() }
    }

    /// The next connection, with its subscription taken as `id` and the subjects told.
    async fn accept(&mut self, id: &str, subjects: Value) -> Talk {
        let connection = self.incoming.accept().await;
        let mut talk = Talk { socket: tokio_tungstenite::accept_async(connection).await.unwrap() };
        let subscribe = talk.hear().await;
        assert_eq!((&subscribe["action"], &subscribe["path"]), (&json!("subscribe"), &json!(SUBJECTS)));
        let request = subscribe["requestId"].clone();
        talk.say(json!({"action": "subscribe", "requestId": request, "subscriptionId": id, "timestamp": 0}))
            .await;
        talk.answer(SUBJECTS, subjects).await;
        talk
    }
}

struct Talk {
    socket: WebSocketStream<ServerConnection>,
}

impl Talk {
    async fn hear(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Answers the next request, which has to ask for `path`.
    async fn answer(&mut self, path: &str, value: Value) {
        let asked = self.hear().await;
        assert_eq!((&asked["action"], &asked["path"]), (&json!("get"), &json!(path)));
        self.say(json!({"action": "get", "requestId": asked["requestId"], "value": value})).await;
    }

    async fn refuse(&mut self, path: &str) {
        let asked = self.hear().await;
        assert_eq!(asked["path"], path);
        let error = json!({"number": 404, "reason": "invalid_path", "message": "no such path"});
        self.say(json!({"action": "get", "requestId": asked["requestId"], "error": error})).await;
    }

    async fn notify(&mut self, id: &str, value: Value) {
        self.say(json!({"action": "subscription", "subscriptionId": id, "value": value, "timestamp": 1}))
            .await;
    }
}

fn prepare(rig: &Rig, port: u16, timeout: &str) {
    let ca = rig.path("vis.pem");
    let vis = json!({"plugin": "visidentifier", "params": {
        "visServer": format!("wss://localhost:{port}"), "caCertFile": ca, "webSocketTimeout": timeout,
    }});
    rig.prepare(|config| config["identifier"] = vis);
}

type Client = IamPublicIdentityServiceClient<Channel>;

fn system(client: &Client) -> tokio::task::JoinHandle<Result<Response<v6::SystemInfo>, Status>> {
    let mut client = client.clone();
    tokio::spawn(async move { client.get_system_info(()).await })
}

// IAM-03, IAM 26.17
#[test]
fn identity_comes_from_the_service_and_follows_it() {
    with_softhsm("vis::identity_comes_from_the_service_and_follows_it", async |rig| {
        let authority = Authority::new("VIS CA");
        std::fs::write(rig.path("vis.pem"), authority.pem()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        prepare(&rig, port, "60s");
        // The start does not wait for the service, and questions wait for it.
        let daemon = rig.start("provisioning").await;
        let mut client = IamPublicIdentityServiceClient::new(plain_channel(&daemon.public));
        let waiting = system(&client);
        let mut changes = client.subscribe_subjects_changed(()).await.unwrap().into_inner();

        let mut service = Service::open(&authority, port).await;
        let mut talk = service.accept("7", json!(["one"])).await;
        talk.answer(VIN, json!("VIN-1")).await;
        talk.answer(MODEL, json!({MODEL: "model;2.0"})).await;
        let info = waiting.await.unwrap().unwrap().into_inner();
        assert_eq!((&*info.system_id, &*info.unit_model, &*info.version), ("VIN-1", "model", "2.0"));
        assert_eq!(changes.message().await.unwrap().unwrap().subjects, ["one"]);

        // Known values are not asked for again; the next answer of the script would not fit.
        assert_eq!(system(&client).await.unwrap().unwrap().into_inner(), info);
        assert_eq!(client.get_subjects(()).await.unwrap().get_ref().subjects, ["one"]);
        talk.notify("7", json!(["one"])).await;
        talk.notify("8", json!(["other subscription"])).await;
        talk.notify("7", json!({SUBJECTS: ["one", 2]})).await;
        let told = changes.message().await.unwrap().unwrap().subjects;
        assert_eq!(told, ["one", "2"], "the unchanged list was not told");
        assert_eq!(client.get_subjects(()).await.unwrap().get_ref().subjects, ["one", "2"]);

        // The subject of certificate requests is the system ID.
        assert_eq!(
            daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().get_ref().error,
            None
        );
        let csr = daemon.create_key("online").await;
        let (_, block) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).unwrap();
        assert!(block.contents.windows(5).any(|bytes| bytes == b"VIN-1"));

        // Another connection: it is subscribed again, values are asked for anew, equal subjects are not told.
        drop(talk);
        let mut talk = service.accept("1", json!(["one", "2"])).await;
        let waiting = system(&client);
        talk.refuse(VIN).await;
        talk.answer(MODEL, json!("model;2.0")).await;
        let refused = waiting.await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert!(refused.message().contains("404"), "{refused}");
        talk.notify("1", json!(["three"])).await;
        assert_eq!(changes.message().await.unwrap().unwrap().subjects, ["three"]);
        let waiting = system(&client);
        talk.answer(VIN, json!("VIN-2")).await;
        assert_eq!(waiting.await.unwrap().unwrap().get_ref().system_id, "VIN-2", "errors are not remembered");

        let farewell = async {
            assert_eq!(talk.hear().await["action"], "unsubscribeAll");
            drop(talk);
        };
        tokio::join!(daemon.stop(), farewell);
    });
}

// IAM 26.17
#[test]
fn an_absent_or_foreign_service_costs_the_configured_time() {
    with_softhsm("vis::an_absent_or_foreign_service_costs_the_configured_time", async |rig| {
        let authority = Authority::new("VIS CA");
        std::fs::write(rig.path("vis.pem"), Authority::new("Another CA").pem()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        prepare(&rig, port, "300ms");
        let daemon = rig.start("provisioning").await;
        let client = IamPublicIdentityServiceClient::new(plain_channel(&daemon.public));
        let refused = system(&client).await.unwrap().unwrap_err();
        assert!(refused.message().contains("does not answer"), "{refused}");
        let mut foreign = Service::open(&authority, port).await;
        let accepted = tokio::time::timeout(Duration::from_secs(4), foreign.incoming.accept()).await;
        assert!(accepted.is_err(), "its certificate is of another authority");
        assert!(system(&client).await.unwrap().is_err());
        daemon.stop().await;

        rig.prepare(|config| {
            config["identifier"] = json!({"plugin": "visidentifier", "params": {"visServer": "http://x"}});
        });
        let error = rig.start_refused("provisioning").await;
        assert!(error.contains("visServer"), "{error}");
    });
}

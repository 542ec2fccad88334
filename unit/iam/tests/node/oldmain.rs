//! A secondary node under a scripted main node of another make, which speaks generation 6 only.

use aos_tls::Incoming;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_incoming_messages::IamIncomingMessage as Ask;
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage as Say;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_client::IamPublicCurrentNodeServiceClient;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::{
    IamPublicNodesService, IamPublicNodesServiceServer,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::rig::{PASSWORD, plain_channel, with_softhsm};

const WRONG_STATE: i32 = 9;
const INVALID_ARGUMENT: i32 = 6;
const NOT_FOUND: i32 = 5;

type Out = mpsc::Sender<Result<v6::IamIncomingMessages, Status>>;

/// Hands every stream of a node to the test.
struct Main {
    streams: mpsc::Sender<Link>,
}

struct Link {
    said: Streaming<v6::IamOutgoingMessages>,
    out: Out,
}

impl Link {
    async fn hear(&mut self) -> Say {
        self.said.message().await.unwrap().unwrap().iam_outgoing_message.unwrap()
    }

    async fn describes(&mut self, state: &str) {
        let Say::NodeInfo(info) = self.hear().await else { panic!("a description is due") };
        assert_eq!((&*info.node_id, &*info.state), ("node-second", state));
    }

    async fn send(&self, request: Ask) {
        let message = v6::IamIncomingMessages { iam_incoming_message: Some(request) };
        self.out.send(Ok(message)).await.unwrap();
    }

    async fn ask(&mut self, request: Ask) -> Say {
        self.send(request).await;
        self.hear().await
    }

    /// The code in the error of the answer, 0 for none.
    async fn code(&mut self, request: Ask) -> i32 {
        let error = match self.ask(request).await {
            Say::StartProvisioningResponse(answer) => answer.error,
            Say::FinishProvisioningResponse(answer) => answer.error,
            Say::DeprovisionResponse(answer) => answer.error,
            Say::PauseNodeResponse(answer) => answer.error,
            Say::ResumeNodeResponse(answer) => answer.error,
            Say::CreateKeyResponse(answer) => answer.error,
            Say::ApplyCertResponse(answer) => answer.error,
            other => panic!("{other:?}"),
        };
        error.map_or(0, |error| error.aos_code)
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[async_trait]
impl IamPublicNodesService for Main {
    async fn get_all_node_i_ds(&self, _: Request<()>) -> Result<Response<v6::NodesId>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_node_info(
        &self,
        _: Request<v6::GetNodeInfoRequest>,
    ) -> Result<Response<v6::NodeInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    type SubscribeNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::NodeInfo>>, Status> {
        Err(Status::unimplemented(""))
    }

    type RegisterNodeStream = Answers<v6::IamIncomingMessages>;

    async fn register_node(
        &self,
        request: Request<Streaming<v6::IamOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterNodeStream>, Status> {
        let (out, answers) = mpsc::channel(4);
        self.streams.send(Link { said: request.into_inner(), out }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn start() -> Ask {
    Ask::StartProvisioningRequest(v6::StartProvisioningRequest {
        node_id: "node-second".into(),
        password: PASSWORD.into(),
    })
}

fn finish() -> Ask {
    Ask::FinishProvisioningRequest(v6::FinishProvisioningRequest::default())
}

fn deprovision() -> Ask {
    Ask::DeprovisionRequest(v6::DeprovisionRequest::default())
}

fn pause() -> Ask {
    Ask::PauseNodeRequest(v6::PauseNodeRequest { node_id: "node-second".into() })
}

fn resume() -> Ask {
    Ask::ResumeNodeRequest(v6::ResumeNodeRequest { node_id: "node-second".into() })
}

// IAM 26.13, IAM-05, IAM-29
#[test]
fn a_main_node_of_an_older_generation_is_obeyed() {
    with_softhsm("oldmain::a_main_node_of_an_older_generation_is_obeyed", async |rig| {
        let (streams, mut links) = mpsc::channel(4);
        let incoming = Incoming::bind_plain("127.0.0.1:0").await.unwrap();
        let address = incoming.local_addr().to_string();
        let server = aos_tls::grpc_server().add_service(IamPublicNodesServiceServer::new(Main { streams }));
        tokio::spawn(server.serve_with_incoming(incoming.into_stream()));
        rig.prepare(|config| {
            config["identifier"] = json!(null);
            config["nodeInfo"]["attrs"] = json!({"AosComponents": "iam,sm"});
            config["nodeReconnectInterval"] = json!("50ms");
            config["mainIAMPublicServerURL"] = json!(address);
            config["mainIAMProtectedServerURL"] = json!(address);
        });
        std::fs::write(rig.path("machine-id"), "node-second").unwrap();

        let daemon = rig.start("provisioning").await;
        let mut own = IamPublicCurrentNodeServiceClient::new(plain_channel(&daemon.public));
        let mut changes = own.subscribe_current_node_changed(()).await.unwrap().into_inner();
        let mut link = links.recv().await.unwrap();
        link.describes("unprovisioned").await;
        for wrong in [pause(), resume()] {
            // The description comes before the answer, whatever the answer is.
            link.send(wrong).await;
            link.describes("unprovisioned").await;
            match link.hear().await {
                Say::PauseNodeResponse(answer) => assert_eq!(answer.error.unwrap().aos_code, WRONG_STATE),
                Say::ResumeNodeResponse(answer) => assert_eq!(answer.error.unwrap().aos_code, WRONG_STATE),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(link.code(start()).await, 0);
        let Say::CertTypesResponse(types) =
            link.ask(Ask::GetCertTypesRequest(v6::GetCertTypesRequest::default())).await
        else {
            panic!("types are due")
        };
        assert_eq!(types.types, ["online", "offline", "iam", "cm"]);
        let key = |subject: &str| {
            let (r#type, subject) = ("iam".to_owned(), subject.to_owned());
            Ask::CreateKeyRequest(v6::CreateKeyRequest { r#type, subject, ..Default::default() })
        };
        assert_eq!(link.code(key("")).await, INVALID_ARGUMENT, "this node does not know the system ID");
        assert_eq!(link.code(key("unit")).await, 0);
        let apply = v6::ApplyCertRequest { r#type: "iam".into(), cert: String::new(), ..Default::default() };
        assert_eq!(link.code(Ask::ApplyCertRequest(apply)).await, NOT_FOUND);
        assert_eq!(link.code(finish()).await, 0);
        assert_eq!(
            changes.message().await.unwrap().unwrap().state,
            "provisioned",
            "a secondary node tells too"
        );
        assert_eq!(link.code(start()).await, WRONG_STATE);
        link.send(pause()).await;
        link.describes("paused").await;
        assert!(matches!(link.hear().await, Say::PauseNodeResponse(answer) if answer.error.is_none()));
        assert_eq!(changes.message().await.unwrap().unwrap().state, "paused");
        assert_eq!(link.code(start()).await, WRONG_STATE);
        assert_eq!(link.code(finish()).await, WRONG_STATE);
        link.send(resume()).await;
        link.describes("provisioned").await;
        assert!(matches!(link.hear().await, Say::ResumeNodeResponse(answer) if answer.error.is_none()));
        assert_eq!(link.code(deprovision()).await, 0);

        // A request of no known kind ends the stream; the node comes back.
        link.out.send(Ok(v6::IamIncomingMessages::default())).await.unwrap();
        assert!(link.said.message().await.map_or(true, |end| end.is_none()));
        let mut link = links.recv().await.unwrap();
        link.describes("unprovisioned").await;
        daemon.stop().await;
    });
}

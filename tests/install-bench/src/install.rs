//! One installation.

use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aos_blob_source::Dialer;
use aos_ids::Digest;
use aos_sm::parts::{CmCalls, Database, ImageManager, Retention};
use aos_unit_api::servicemanager::v5 as wire;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use wire::sm_service_server::{SmService, SmServiceServer};

/// Tells where blobs are.
struct Cm {
    address: String,
}

#[tonic::async_trait]
impl SmService for Cm {
    type RegisterSMStream = Pin<Box<dyn Stream<Item = Result<wire::SmIncomingMessages, Status>> + Send>>;

    async fn register_sm(
        &self,
        _: Request<Streaming<wire::SmOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterSMStream>, Status> {
        Err(Status::unimplemented("only addresses are told"))
    }

    async fn get_blobs_infos(
        &self,
        request: Request<wire::BlobsInfosRequest>,
    ) -> Result<Response<wire::BlobsInfos>, Status> {
        let digests = request.into_inner().digests;
        let url =
            |digest: &String| format!("http://{}/{}", self.address, digest.trim_start_matches("sha256:"));
        Ok(Response::new(wire::BlobsInfos { urls: digests.iter().map(url).collect() }))
    }
}

/// Installs the image below `dir`; the time from the wish to everything being durable.
pub fn run(dir: &Path, address: &str, manifest: Digest) -> Result<Duration> {
    let cm = play_cm(address.to_owned())?;
    // As in the Service Manager.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    runtime.block_on(async {
        let channel = aos_tls::plain_grpc_channel(&cm)?;
        let (_sender, channel) = tokio::sync::watch::channel(Some(channel));
        let database = Database::open(&dir.join("sm.db"))?;
        let retention =
            Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1), part_limit: 0 };
        let calls = CmCalls::new(channel);
        let (images, task) =
            ImageManager::open(dir.join("images"), retention, database, calls, Dialer::default())?;
        tokio::spawn(task);
        let begin = Instant::now();
        images.install("bench".to_owned(), "1.0.0".to_owned(), manifest).await?;
        Ok(begin.elapsed())
    })
}

fn play_cm(address: String) -> Result<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            tell.send(listener.local_addr()?.to_string())?;
            let server =
                tonic::transport::Server::builder().add_service(SmServiceServer::new(Cm { address }));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await?;
            Ok(())
        })
    });
    told.recv().context("the server of addresses did not start")
}

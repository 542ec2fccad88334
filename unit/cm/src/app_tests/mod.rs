//! The whole Communication Manager between a scripted cloud, a scripted IAM and a scripted Service Manager,
//! all over real TLS. A crash is a dropped program: nothing gets a chance to tidy up.

macro_rules! in_time {
    ($work:expr) => {
        tokio::time::timeout(LONG, $work).await.expect("in time")
    };
}

mod cloud;
mod crashes;
mod flow_certificates;
mod flow_envvars;
mod flow_logs;
mod flow_nodes;
mod flow_states;
pub(crate) mod iam;
pub(crate) mod iam_orders;
mod nodes;
pub(crate) mod pki;
mod sm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, DesiredStatus};
use aos_status::{AosCode, InstanceState, ItemState};
use aos_supervise::Shutdown;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::task::JoinHandle;

use self::cloud::{Cloud, wish};
use self::iam::Iam;
use self::pki::Pki;
use self::sm::Sm;
use crate::{Config, Error};

/// Time that nothing here should ever need.
const LONG: Duration = Duration::from_secs(15);

struct World {
    dir: tempfile::TempDir,
    pki: Pki,
    cloud: Cloud,
    iam: Iam,
    config: Config,
    port: u16,
    app: Option<(Shutdown, JoinHandle<Result<(), Error>>)>,
    sm: Sm,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The local status, as soon as it is served.
async fn document_in(run_dir: &Path) -> Value {
    loop {
        let dir = run_dir.to_owned();
        let read = tokio::task::spawn_blocking(move || aos_local_status::read(&dir, "cm")).await.unwrap();
        match read {
            Ok(document) => return document,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl World {
    async fn new() -> Self {
        if std::env::var_os("AOS_TEST_LOG").is_some() {
            let _ = aos_logging::init("cm", aos_logging::Level::Debug, aos_logging::Output::Stdout);
        }
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let cloud = Cloud::start(&pki).await;
        let (iam, iam_address) = Iam::start(&pki, "127.0.0.1:0").await;
        let port = free_port();
        let file = dir.path().join("aos_cm.cfg");
        let text = serde_json::json!({
            "caCert": pki.root_file(), "workingDir": dir.path().join("cm"),
            "overrideServiceDiscoveryUrl": cloud.discovery, "iamPublicServerUrl": iam_address,
            "iamProtectedServerUrl": iam_address, "cmServerUrl": format!("127.0.0.1:{port}"),
            "dnsStoragePath": dir.path().join("dns"), "unitStatusSendTimeout": "200ms",
            "stateChangeDelay": "200ms",
            "alerts": {"sendPeriod": "200ms"},
        });
        std::fs::write(&file, text.to_string()).unwrap();
        let config = Config::load(&file).unwrap();
        let sm = Sm::new(&pki, &format!("127.0.0.1:{port}"));
        let mut world = Self { dir, pki, cloud, iam, config, port, app: None, sm };
        world.start();
        world
    }

    fn start(&mut self) {
        let (config, shutdown) = (self.config.clone(), Shutdown::new());
        let (stop, run_dir) = (shutdown.clone(), self.run_dir());
        let app = tokio::spawn(async move { super::run_until(&config, stop, &run_dir).await });
        self.app = Some((shutdown, app));
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Ends the program as a crash does.
    async fn kill(&mut self) {
        let (_, app) = self.app.take().unwrap();
        app.abort();
        assert!(app.await.unwrap_err().is_cancelled());
        self.cloud.disconnect();
    }

    /// Waits until the local status satisfies `wanted`.
    async fn until(&self, wanted: impl Fn(&Value) -> bool) {
        while !wanted(&self.document().await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Connects the node's Service Manager and waits until it counts as connected: what the cloud asks of a
    /// node before that is answered with its absence.
    async fn connect_node(&mut self) {
        self.sm.connect().await;
        self.until(|document| document["nodes"][0]["connected"] == true).await;
    }

    async fn document(&self) -> Value {
        document_in(&self.run_dir()).await
    }

    /// Brings the first version up.
    async fn with_service(layer: &[u8]) -> (Self, Body) {
        let mut world = Self::new().await;
        let (index, _) = world.cloud.publish_image(layer);
        let greeting = world.cloud.connected().await;
        assert_eq!(greeting.items, Some(vec![]));
        world.sm.connect().await;
        let wish = wish("1.0.0", index);
        let txn = world.cloud.send(wish.clone()).await;
        let (update, status) = tokio::join!(world.sm.update(), world.cloud.status(is_active));
        assert_eq!((update.start_instances.len(), update.stop_instances.len()), (1, 0));
        assert!(world.cloud.acks.contains(&txn));
        assert_eq!(status.items.as_ref().unwrap()[0].state, ItemState::Installed);
        (world, wish)
    }
}

/// A full status after an update, with a running instance.
fn is_active(status: &aos_cloud_protocol::UnitStatus) -> bool {
    let mut instances = status.instances.iter().flatten().flat_map(|group| &group.instances);
    !status.is_delta_info && instances.any(|instance| instance.state == InstanceState::Active)
}

// CM-03, CM-04, CM-06, CM-07, CM-25, CM-26, CM-27, CM-41, CM-42, CM-43, CM-44, CM-45, CM-46
// From the wish to the running instance; and after
// crashes nothing is fetched, started or applied a second time.
#[tokio::test]
async fn a_wished_service_runs_and_crashes_repeat_nothing() {
    in_time!(async {
        let (mut world, wish) = World::with_service(&vec![5; 100_000]).await;
        let fulls = world.cloud.fulls();
        assert!(fulls.iter().all(|count| *count == 1), "{fulls:?}");
        let document = world.document().await;
        assert_eq!(document["systemId"], "unit-1");
        assert_eq!(document["cloud"]["state"], "connected");
        assert_eq!(document["update"], serde_json::json!({"state": "none", "appliedDesired": 1}));
        assert_eq!(document["nodes"][0]["connected"], true);
        assert_eq!(document["instances"][0]["state"], "active");
        assert_eq!(document["certificates"].as_array().unwrap().len(), 2);

        for _ in 0..2 {
            world.kill().await;
            world.start();
            let greeting = world.cloud.connected().await;
            assert_eq!(greeting.items.unwrap()[0].state, ItemState::Installed);
            world.sm.connect().await;
            let txn = world.cloud.send(wish.clone()).await;
            let delta = |status: &aos_cloud_protocol::UnitStatus| {
                status
                    .instances
                    .iter()
                    .flatten()
                    .flat_map(|group| &group.instances)
                    .any(|one| one.state == InstanceState::Active)
            };
            world.cloud.status(delta).await;
            world.cloud.acknowledged(&txn).await;
            assert_eq!(world.document().await["update"]["appliedDesired"], 1);
        }
        assert_eq!(world.cloud.fulls(), fulls);
        assert_eq!(world.sm.updates.len(), 1);

        // An empty wish stops it; the item goes.
        let none = DesiredStatus { items: Some(vec![]), instances: Some(vec![]), ..DesiredStatus::default() };
        world.cloud.send(Body::DesiredStatus(none)).await;
        let gone =
            |status: &aos_cloud_protocol::UnitStatus| !status.is_delta_info && status.items == Some(vec![]);
        let (update, _) = tokio::join!(world.sm.update(), world.cloud.status(gone));
        assert_eq!((update.start_instances.len(), update.stop_instances.len()), (0, 1));
    });
}

#[tokio::test]
async fn a_damaged_version_fails_and_the_running_one_stays() {
    in_time!(async {
        let (mut world, _) = World::with_service(&[5; 1000]).await;
        let (index, layer) = world.cloud.publish_image(&[6; 1000]);
        world.cloud.damage(&layer);
        let txn = world.cloud.send(wish("2.0.0", index)).await;
        let status = world.cloud.status(|status| !status.is_delta_info).await;
        assert!(world.cloud.acks.contains(&txn));
        let items = status.items.clone().unwrap();
        assert_eq!(
            items.iter().map(|item| (item.version.as_str(), item.state)).collect::<Vec<_>>(),
            [("1.0.0", ItemState::Installed), ("2.0.0", ItemState::Failed)]
        );
        assert_eq!(items[1].error_info.as_ref().unwrap().code(), AosCode::InvalidChecksum);
        assert!(is_active(&status));
        assert_eq!(world.sm.updates.len(), 1, "the node is told nothing");
        assert_eq!(world.cloud.blobs.lock().unwrap()[&layer.hex()].fulls, 4, "fetched again three times");
    });
}

// A download that was cut by a crash goes on where it was.
// CM-14
#[tokio::test]
async fn a_download_survives_a_crash() {
    in_time!(async {
        let mut world = World::new().await;
        let (index, layer) = world.cloud.publish_image(&vec![8; 300_000]);
        world.cloud.blobs.lock().unwrap().get_mut(&layer.hex()).unwrap().cut_after = Some(200_000);
        world.cloud.connected().await;
        world.sm.connect().await;
        world.cloud.send(wish("1.0.0", index)).await;
        let partial = world.config.download_path.join("partial").join(layer.hex());
        let arrived = async {
            while std::fs::metadata(&partial).map_or(0, |file| file.len()) < 200_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = arrived => {}
            _ = world.cloud.status(|_| false) => {}
        }
        world.kill().await;
        world.start();
        let greeting = world.cloud.connected().await;
        assert_eq!(greeting.items.unwrap()[0].state, ItemState::Downloading);
        world.sm.connect().await;
        tokio::join!(world.sm.update(), world.cloud.status(is_active));
        let blob = world.cloud.blobs.lock().unwrap()[&layer.hex()].clone();
        assert_eq!((blob.fulls, blob.sent), (0, blob.bytes.len()));
        assert_eq!(world.document().await["update"]["appliedDesired"], 1, "the same update went on");
    });
}

// A new wish while another is being fetched: the first is given up, the second is carried out.
#[tokio::test]
async fn a_newer_wish_replaces_one_that_is_being_fetched() {
    in_time!(async {
        let mut world = World::new().await;
        let (first, layer) = world.cloud.publish_image(&vec![8; 300_000]);
        let (second, _) = world.cloud.publish_image(&[9; 1000]);
        world.cloud.blobs.lock().unwrap().get_mut(&layer.hex()).unwrap().cut_after = Some(1000);
        world.cloud.connected().await;
        world.sm.connect().await;
        world.cloud.send(wish("1.0.0", first)).await;
        world
            .cloud
            .status(|status| status.items.iter().flatten().any(|item| item.state == ItemState::Downloading))
            .await;
        world.cloud.send(wish("2.0.0", second)).await;
        let (update, status) = tokio::join!(world.sm.update(), world.cloud.status(is_active));
        assert_eq!(update.start_instances[0].version, "2.0.0");
        assert_eq!(status.items.unwrap().len(), 1);
        assert_eq!(world.document().await["update"]["appliedDesired"], 2);
    });
}

// CM-59, DIS-28: what is configured is a type of certificate, by which IAM finds it.
#[tokio::test]
async fn the_server_shows_the_certificate_of_the_configured_type() {
    in_time!(async {
        let mut world = World::new().await;
        let peer = aos_tls::client_config(
            world.pki.roots(),
            Some(world.pki.identity("peer")),
            aos_tls::HostCheck::ChainOnly,
        );
        let peer = peer.unwrap();
        for kind in ["cm", "online"] {
            world.kill().await;
            world.config.cert_storage = kind.to_owned();
            world.start();
            world.sm.connect().await;
            let stream = aos_tls::connect_tcp_tls("127.0.0.1", world.port, peer.clone(), "127.0.0.1").await;
            let shown = stream.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
            let issued = CertificateDer::from_pem_file(world.dir.path().join(format!("{kind}.pem"))).unwrap();
            assert!(shown == issued, "the certificate of type {kind}");
        }
    });
}

// CM-35: a new certificate of type online is used at once.
#[tokio::test]
async fn a_new_certificate_opens_a_new_link() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        world.iam.renew(&world.pki, "online");
        world.cloud.connected().await;
    });
}

// CM-22: a lost link comes back, with everything told anew.
#[tokio::test]
async fn a_lost_link_comes_back() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        world.cloud.disconnect();
        world.until(|document| document["cloud"]["state"] == "connecting").await;
        world.cloud.connected().await;
        world.until(|document| document["cloud"]["state"] == "connected").await;
    });
}

#[tokio::test]
async fn a_message_that_is_too_big_closes_the_link() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        assert_eq!(world.cloud.overfill().await, Some(1009));
        world.cloud.connected().await;
    });
}

// REL-06, D14, D16: bad input changes nothing; what is readable is acknowledged, and refusals are reported.
#[tokio::test]
async fn bad_messages_change_nothing() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        let message = |system: &str, txn: &str, data: Value| {
            let header = serde_json::json!({"version": 7, "systemId": system, "txn": txn});
            serde_json::json!({"header": header, "data": data}).to_string().into_bytes()
        };
        world.cloud.send_raw(b"\xff no json".to_vec()).await;
        world
            .cloud
            .send_raw(message("other", "a", serde_json::json!({"messageType": "desiredStatus"})))
            .await;
        world.cloud.send_raw(message("unit-1", "b", serde_json::json!({"messageType": "unheardOf"}))).await;
        let bad = serde_json::json!({"messageType": "desiredStatus", "items": [{"item": {"id": "i"}}]});
        world.cloud.send_raw(message("unit-1", "c", bad)).await;
        let wrong_way = serde_json::json!({"messageType": "unitStatus", "isDeltaInfo": true});
        world.cloud.send_raw(message("unit-1", "e", wrong_way)).await;
        let unasked = serde_json::json!({"messageType": "blobUrls", "correlationId": "y", "items": []});
        world.cloud.send_raw(message("unit-1", "f", unasked)).await;
        let start = serde_json::json!({"messageType": "startProvisioningRequest", "correlationId": "x",
            "node": {"codename": "rear"}, "password": "p"});
        world.cloud.send_raw(message("unit-1", "d", start)).await;
        let answer = world.cloud.next().await;
        assert_eq!(answer.correlation_id.as_deref(), Some("x"));
        let Body::StartProvisioningResponse(answer) = answer.body else { panic!("{answer:?}") };
        assert_eq!(answer.error_info.unwrap().code(), AosCode::Failed, "this IAM has no such service");
        world.cloud.acknowledged("d").await;
        assert_eq!(
            world.cloud.acks.iter().filter(|txn| txn.len() == 1).collect::<Vec<_>>(),
            ["b", "c", "e", "f", "d"]
        );
        assert_eq!(world.document().await["update"]["appliedDesired"], 0);

        let mut told = Vec::new();
        while told.len() < 3 {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                told.extend(alerts.items.into_iter().filter_map(|alert| match alert {
                    aos_cloud_protocol::Alert::CoreAlert(alert) => Some(alert.message),
                    _ => None,
                }));
            }
        }
        assert!(told.iter().all(|text| text.starts_with("message of the cloud refused: ")), "{told:?}");
        assert!(told.iter().any(|text| text.contains("wrong direction")), "{told:?}");
    });
}

// Without IAM and cloud the program runs, answers and stops in time; a wrong configuration ends it at once.
#[tokio::test]
async fn nobody_there() {
    in_time!(async {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let dead = format!("localhost:{}", free_port());
        let file = dir.path().join("aos_cm.cfg");
        let text = serde_json::json!({
            "caCert": pki.root_file(), "workingDir": dir.path().join("cm"), "iamPublicServerUrl": dead,
            "iamProtectedServerUrl": dead, "serviceDiscoveryUrl": format!("https://{dead}/sd/v7/"),
            "cmServerUrl": "127.0.0.1:0", "dnsStoragePath": dir.path(),
        });
        std::fs::write(&file, text.to_string()).unwrap();
        let (config, stop, run_dir) = (Config::load(&file).unwrap(), Shutdown::new(), dir.path().join("run"));
        let (shutdown, status_dir) = (stop.clone(), run_dir.clone());
        let app = tokio::spawn(async move { super::run_until(&config, shutdown, &status_dir).await });
        let document = document_in(&run_dir).await;
        assert_eq!(document["cloud"]["state"], "waiting");
        let stopping = Instant::now();
        stop.trigger();
        app.await.unwrap().unwrap();
        assert!(stopping.elapsed() < Duration::from_secs(1));
    });
    let missing = crate::run(crate::Args { config: PathBuf::from("/nowhere/aos_cm.cfg") });
    assert!(matches!(missing, Err(Error::Config(_))));
}

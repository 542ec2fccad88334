//! Tokens in trouble and peers that mean no good: clear words, nothing changed, and all well again afterwards.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use aos_token::{AuthPin, Library, SlotChoice};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::authority::Authority;
use crate::rig::{
    Daemon, MODULE, PASSWORD, Rig, eventually, plain_channel, start, tls_channel, with_softhsm,
    with_softhsm_under,
};

const FAILED: i32 = 1;
const NOT_FOUND: i32 = 5;
const INVALID_ARGUMENT: i32 = 6;

fn get(cert_type: &str) -> v6::GetCertRequest {
    v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() }
}

fn key_of(cert_type: &str) -> v6::CreateKeyRequest {
    v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() }
}

async fn owned(rig: &Rig) -> Daemon {
    let daemon = rig.start("provisioning").await;
    let answer = daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().into_inner();
    assert_eq!(answer.error, None);
    daemon
}

/// Everything that lasts: the objects of both tokens, read with `pin`, and all rows of the database.
fn lasting(rig: &Rig, pin: &str) -> Vec<String> {
    let library = Library::open(MODULE).unwrap();
    library.refresh().unwrap();
    let mut all = Vec::new();
    for label in ["aoscloud", "aoscore"] {
        let token = library.find_token(&SlotChoice::Label(label.into())).unwrap().unwrap();
        let session = token.open(&AuthPin::from(pin.to_owned())).unwrap();
        all.extend(session.list_objects(None).unwrap().iter().map(|object| format!("{label} {object:?}")));
    }
    all.sort();
    let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
    for table in ["certificates", "nodeinfo", "pendingkeys", "instances"] {
        let mut rows = database.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let columns = rows.column_count();
        let texts = rows.query_map((), |row| {
            let cells = (0..columns).map(|at| row.get_ref(at).map(|cell| format!("{cell:?}")));
            Ok(format!("{table} {}", cells.collect::<Result<Vec<_>, _>>()?.join(" ")))
        });
        all.extend(texts.unwrap().map(Result::unwrap));
    }
    all
}

fn pin(rig: &Rig) -> String {
    std::fs::read_to_string(rig.path("pins/user")).unwrap()
}

#[test]
fn a_refused_order_leaves_token_and_database_as_they_were() {
    with_softhsm("trouble::a_refused_order_leaves_token_and_database_as_they_were", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        for year in [2100, 2101] {
            daemon.issue(&authority, "online", year).await;
        }
        let csr = daemon.create_key("online").await;
        let other = daemon.create_key("offline").await;
        let before = lasting(&rig, &pin(&rig));
        let mut huge = authority.sign(&csr, 2102);
        huge.push_str(&"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".repeat(3_000));
        let good = authority.sign(&csr, 2102);
        for (what, cert_type, chain, code) in [
            ("a chain without its root", "online", authority.sign_leaf(&csr, 2102), NOT_FOUND),
            ("a certificate for the key of another type", "online", authority.sign(&other, 2102), NOT_FOUND),
            ("the right certificate under another type", "offline", good.clone(), NOT_FOUND),
            ("an unknown type", "unknown", good.clone(), NOT_FOUND),
            ("a request instead of a certificate", "online", csr.clone(), NOT_FOUND),
            ("200,000 bytes", "online", huge, INVALID_ARGUMENT),
            ("a torn one", "online", good.replacen("MII", "MIA", 1), INVALID_ARGUMENT),
        ] {
            let error = daemon.apply(cert_type, &chain).await.error.unwrap();
            assert_eq!(error.aos_code, code, "{what}: {}", error.message);
            assert!(error.message.len() > 10 && !error.message.contains("PRIVATE"), "{what}");
            assert_eq!(lasting(&rig, &pin(&rig)), before, "{what}");
        }
        let ten = v6::ApplyCertRequest {
            r#type: "online".into(),
            cert: "x".repeat(10 << 20),
            ..Default::default()
        };
        daemon.certificates().apply_cert(ten).await.unwrap_err();
        let refused = daemon.certificates().create_key(key_of("unknown")).await.unwrap().into_inner();
        assert_eq!(refused.error.unwrap().aos_code, NOT_FOUND);
        let nobody = v6::CreateKeyRequest { node_id: "nobody".into(), ..key_of("online") };
        // Three attempts are made to reach the node.
        let status = daemon.certificates().create_key(nobody).await.unwrap_err();
        assert!(status.message().contains("nobody"), "{status}");
        assert_eq!(lasting(&rig, &pin(&rig)), before);
        assert_eq!(daemon.apply("online", &good).await.error, None, "the key has waited through all of it");
        daemon.stop().await;
    });
}

// Tokens count wrong PINs, so the daemon must not try one again and again, nor be started again and again.
#[test]
fn a_wrong_pin_shuts_a_token_until_it_is_right() {
    with_softhsm("trouble::a_wrong_pin_shuts_a_token_until_it_is_right", async |rig| {
        let cloud_pin = rig.path("pins/cloud");
        rig.prepare(|config| {
            for module in config["certModules"].as_array_mut().unwrap() {
                if module["params"]["tokenLabel"] == "aoscloud" {
                    module["params"]["userPinPath"] = serde_json::json!(cloud_pin);
                }
            }
        });
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let (right, right_cloud) = (pin(&rig), std::fs::read_to_string(&cloud_pin).unwrap());
        std::fs::write(&cloud_pin, "0123456789").unwrap();

        // One of two tokens: everything else is as it should be.
        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        let protected = tls_channel(&daemon.protected, &root, Some(authority.client()));
        let mut certificates =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(protected);
        for _ in 0..2 {
            let refused = certificates.create_key(key_of("online")).await.unwrap().into_inner();
            let error = refused.error.unwrap();
            assert_eq!((error.aos_code, refused.csr.as_str()), (FAILED, ""));
            let told = ["'online'", "PIN", "restore its PIN file"];
            assert!(told.iter().all(|word| error.message.contains(word)), "{}", error.message);
            assert!(!error.message.contains("0123456789"), "{}", error.message);
        }
        let mut served = IamPublicCertServiceClient::new(public.clone());
        assert!(served.get_cert(get("online")).await.unwrap().get_ref().cert_url.contains("online"));
        assert_eq!(certificates.create_key(key_of("cm")).await.unwrap().into_inner().error, None);
        std::fs::write(&cloud_pin, &right_cloud).unwrap();
        let made = certificates.create_key(key_of("online")).await.unwrap().into_inner();
        assert_eq!(made.error, None, "right again");
        let answer = certificates
            .apply_cert(v6::ApplyCertRequest {
                r#type: "online".into(),
                cert: authority.sign(&made.csr, 2101),
                ..Default::default()
            })
            .await;
        assert_eq!(answer.unwrap().into_inner().error, None);
        daemon.stop().await;

        // The token of the servers' own certificate: nobody can connect, and what is wrong is told on the spot.
        std::fs::write(rig.path("pins/user"), "0123456789").unwrap();
        let daemon = rig.start("normal").await;
        let run = rig.path("run");
        let health = async |what: &str, open: bool| {
            eventually(what, async || {
                let dir = run.clone();
                let read = tokio::task::spawn_blocking(move || aos_local_status::read(&dir, "iam-token"));
                let report = read.await.unwrap().ok()?;
                let core =
                    report["tokens"].as_array()?.iter().find(|token| token["types"][0] == "iam")?.clone();
                ((core["session"] == "open") == open).then_some(core)
            })
            .await
        };
        let shut = health("a token that is shut", false).await;
        assert!(shut["hint"].as_str().unwrap().contains("PIN file"), "{shut}");
        let channel = tls_channel(&daemon.public, &root, None);
        IamPublicCertServiceClient::new(channel).get_cert(get("iam")).await.unwrap_err();
        std::fs::write(rig.path("pins/user"), &right).unwrap();
        let channel = tls_channel(&daemon.public, &root, None);
        eventually("servers with their certificate", async || {
            IamPublicCertServiceClient::new(channel.clone()).get_cert(get("iam")).await.ok()
        })
        .await;
        health("an open token", true).await;
        daemon.stop().await;

        // Who provisions anew may start, but gets nothing from the token until it is taken over.
        std::fs::write(rig.path("pins/user"), "0123456789").unwrap();
        let daemon = rig.start("provisioning").await;
        let refused = daemon.certificates().create_key(key_of("cm")).await.unwrap().into_inner();
        let error = refused.error.unwrap();
        assert_eq!((error.aos_code, refused.csr.as_str()), (FAILED, ""));
        daemon.stop().await;

        // The file changes under a daemon that runs: its session stays.
        std::fs::write(rig.path("pins/user"), &right).unwrap();
        let daemon = rig.start("normal").await;
        std::fs::write(rig.path("pins/user"), "0123456789").unwrap();
        let protected = tls_channel(&daemon.protected, &root, Some(authority.client()));
        let mut certificates =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(protected);
        let made = certificates.create_key(key_of("cm")).await.unwrap().into_inner();
        assert_eq!(made.error, None);
        std::fs::write(rig.path("pins/user"), &right).unwrap();
        daemon.stop().await;
    });
}

// The token's folder is a file system of its own that is filled up.
#[test]
fn a_full_token_refuses_and_goes_on_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root for a file system of its own");
        return;
    }
    let name = "trouble::a_full_token_refuses_and_goes_on_when_there_is_room";
    let mount = "mount -t tmpfs -o size=1m none \"$AOS_IAM_TEST_DIR/tokens\" && exec \"$@\"";
    with_softhsm_under(name, &["unshare", "--mount", "sh", "-c", mount, "sh"], async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let kept = daemon.issue(&authority, "online", 2101).await;
        let csr = daemon.create_key("online").await;
        let before = lasting(&rig, &pin(&rig));

        let filler = rig.path("tokens/filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        drop(file);
        let refused = daemon.certificates().create_key(key_of("online")).await.unwrap().into_inner();
        let error = refused.error.unwrap();
        assert!(error.message.contains("'online'") && refused.csr.is_empty(), "{}", error.message);
        let refused = daemon.apply("online", &authority.sign(&csr, 2102)).await;
        let error = refused.error.unwrap();
        assert_eq!(error.aos_code, FAILED, "{}", error.message);
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), kept);

        std::fs::remove_file(&filler).unwrap();
        assert_eq!(lasting(&rig, &pin(&rig)), before);
        assert_eq!(daemon.apply("online", &authority.sign(&csr, 2102)).await.error, None);
        daemon.issue(&authority, "online", 2103).await;
        daemon.stop().await;
    });
}

// A token that goes away and comes back while the servers run, for the daemon and for a component beside it that
// uses a key of the same token.
#[test]
fn a_token_that_comes_back_serves_the_daemon_and_its_consumers() {
    with_softhsm("trouble::a_token_that_comes_back_serves_the_daemon_and_its_consumers", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        let cm =
            IamPublicCertServiceClient::new(public.clone()).get_cert(get("cm")).await.unwrap().into_inner();
        let identity = aos_token::load_identity(&cm.cert_url, &cm.key_url).unwrap().certified_key();
        let standing = tls_channel(&daemon.protected, &root, Some(identity.clone()));
        let ask = async |channel: tonic::transport::Channel| {
            let mut client = v6::iam_certificate_service_client::IamCertificateServiceClient::new(channel);
            let made = tokio::time::timeout(Duration::from_secs(10), client.create_key(key_of("cm"))).await;
            let made = made.map_err(|_| "no answer in time".to_owned())?;
            let made = made.map_err(|status| status.to_string())?.into_inner();
            made.error.map_or(Ok(made.csr), |error| Err(error.message))
        };
        ask(standing.clone()).await.unwrap();

        let (tokens, away) = (rig.path("tokens"), rig.path("away"));
        for _ in 0..2 {
            std::fs::rename(&tokens, &away).unwrap();
            std::fs::create_dir(&tokens).unwrap();
            let refused = ask(standing.clone()).await.unwrap_err();
            assert!(refused.contains("'cm'"), "{refused}");
            // What needs no token goes on.
            let still = IamPublicCertServiceClient::new(public.clone()).get_cert(get("cm")).await;
            assert_eq!(still.unwrap().into_inner().serial, cm.serial);
            let new = aos_token::load_identity(&cm.cert_url, &cm.key_url);
            assert!(new.is_err(), "a consumer is told, too");

            std::fs::remove_dir_all(&tokens).unwrap();
            std::fs::rename(&away, &tokens).unwrap();
            ask(standing.clone()).await.unwrap();
            // A new connection: the server signs with its key, and so does the consumer with the one it has held
            // all the time.
            let fresh = tls_channel(&daemon.protected, &root, Some(identity.clone()));
            let csr = eventually("a new connection", async || ask(fresh.clone()).await.ok()).await;
            assert!(csr.contains("CERTIFICATE REQUEST"), "{csr}");
            aos_token::load_identity(&cm.cert_url, &cm.key_url).unwrap();
        }
        daemon.stop().await;
    });
}

/// Connections from `source` that begin and never go on.
async fn loris(source: &str, address: &str, count: usize, begin: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let _ = stream.write_all(begin).await;
        open.push(stream);
    }
    open
}

#[test]
fn peers_that_never_finish_keep_nobody_out() {
    with_softhsm("trouble::peers_that_never_finish_keep_nobody_out", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = rig.start("provisioning").await;
        // More than the server holds open; all of them end in time.
        let plain = loris("127.0.0.2", &daemon.protected, 300, b"PRI * HT").await;
        eventually("an answer beside the slow ones", async || {
            let mut client = v6::iam_provisioning_service_client::IamProvisioningServiceClient::new(
                plain_channel(&daemon.protected),
            );
            let asked = client.get_cert_types(v6::GetCertTypesRequest::default());
            tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok()
        })
        .await;
        drop(plain);
        daemon.stop().await;

        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        // The begin of a ClientHello, and nothing at all. Both servers go on at once for who comes from elsewhere.
        let hello = loris("127.0.0.2", &daemon.public, 100, &[0x16, 3, 1, 2, 0, 1, 0]).await;
        let silent = loris("127.0.0.2", &daemon.protected, 100, &[]).await;
        for address in [&daemon.public, &daemon.protected] {
            let channel = tls_channel(address, &rig.path("root.pem"), Some(authority.client()));
            let mut client = IamPublicCertServiceClient::new(channel);
            let asked = tokio::time::timeout(Duration::from_secs(5), client.get_cert(get("iam"))).await;
            asked.expect("an answer at once").unwrap();
        }
        drop((hello, silent));
        daemon.stop().await;
    });
}

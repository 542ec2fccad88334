//! A service proves itself with its secret: a functional server asks IAM what the one with this secret may do.
//! The secret outlives restarts of the daemons and ends with the instance.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use aos_testbed::unit_config::IAM_PUBLIC;
use aos_testbed::{Daemon, HttpService, Link};
use aos_tls::HostCheck;
use aos_unit_api::iamanager::v6::PermissionsRequest;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_client::IamPublicPermissionsServiceClient;
use common::{ITEM, LIMIT, Scene, UNIT};
use serde_json::json;

type Rights = BTreeMap<String, String>;

/// A functional server beside the services: it trusts the Unit's root and has no certificate.
struct Server<'a> {
    scene: &'a Scene,
    link: Link,
}

impl<'a> Server<'a> {
    fn new(scene: &'a Scene) -> Self {
        let inside = SocketAddr::from(([127, 0, 0, 1], IAM_PUBLIC));
        Self { scene, link: Link::inward(scene.stage.unit.node(), inside).unwrap() }
    }

    /// Item and rights of the one with this secret.
    fn ask(&self, secret: &str, server: &str) -> Result<(String, Rights), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let roots = aos_tls::roots_from_pem_file(&self.scene.stage.unit.dir().join("root.pem")).unwrap();
            let config = aos_tls::client_config(roots, None, HostCheck::ChainOnly).unwrap();
            let channel = aos_tls::grpc_channel(&self.link.address().to_string(), &config).unwrap();
            let request =
                PermissionsRequest { secret: secret.to_owned(), functional_server_id: server.to_owned() };
            let asked = IamPublicPermissionsServiceClient::new(channel);
            let answer = { asked }.get_permissions(request).await.map_err(|status| status.to_string())?;
            let answer = answer.into_inner();
            let rights = answer.permissions.unwrap_or_default().permissions.into_iter().collect();
            Ok((answer.instance.unwrap_or_default().item_id, rights))
        })
    }
}

fn variable(environment: &str, name: &str) -> Option<String> {
    let value = |line: &str| line.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    environment.lines().find_map(value)
}

fn publish(scene: &mut Scene, version: &str, permissions: &serde_json::Value) {
    let dir = scene.stage.site.dir().join(format!("handles-{version}"));
    let service = HttpService::with_handles(&dir, ITEM).unwrap();
    service
        .set_config(&json!({
            "author": "AosEdge demo", "hostname": ITEM, "baseLayerIsNodeRootfs": false,
            "runtimes": [{"codename": "crun"}, {"codename": "runc"}], "permissions": permissions,
        }))
        .unwrap();
    service.publish(&scene.stage.operator, version).unwrap();
    scene.stage.operator.run(&["assign", UNIT, ITEM]).unwrap();
    scene.active(version);
}

// REL-39, ARC-24
#[test]
fn a_service_proves_itself_with_its_secret() {
    let mut scene = Scene::online("e2e-permissions");
    publish(&mut scene, "1.0.0", &json!({"vis": {"Signal.Speed": "r", "Signal.Door.*": "rw"}, "can": {}}));
    let environment = scene.wait_answer("/cgi-bin/env", |text| variable(text, "AOS_SECRET").is_some());
    let (item, secret) =
        (variable(&environment, "AOS_ITEM_ID").unwrap(), variable(&environment, "AOS_SECRET").unwrap());
    let expected: Rights =
        [("Signal.Speed", "r"), ("Signal.Door.*", "rw")].map(|(k, v)| (k.into(), v.into())).into();
    {
        let server = Server::new(&scene);
        assert_eq!(server.ask(&secret, "vis").unwrap(), (item.clone(), expected.clone()));
        assert_eq!(server.ask(&secret, "can").unwrap(), (item.clone(), Rights::new()));
        assert!(server.ask(&secret, "radio").is_err());
        assert!(server.ask("guess", "vis").is_err());
    }

    let pid = scene.stage.service_pid();
    for daemon in [Daemon::Sm, Daemon::Iam] {
        scene.stage.unit.kill_9(daemon).unwrap();
        scene.stage.unit.start(daemon).unwrap();
        scene.stage.unit.wait_up(daemon, LIMIT).unwrap();
    }
    scene.until("the daemons to know the service", || match scene.stage.service_pid() {
        now if now == pid => Ok(()),
        other => Err(format!("{other:?}")),
    });
    {
        let server = Server::new(&scene);
        scene.until("IAM to know the secret again", || server.ask(&secret, "vis").map(drop));
        assert_eq!(server.ask(&secret, "vis").unwrap(), (item.clone(), expected));
    }

    // Other permissions, another secret: the first one proves nothing any more.
    publish(&mut scene, "2.0.0", &json!({"vis": {"Signal.Speed": "r"}}));
    let environment = scene.wait_answer("/cgi-bin/env", |text| {
        variable(text, "AOS_SECRET").is_some_and(|newest| newest != secret)
    });
    let newest = variable(&environment, "AOS_SECRET").unwrap();
    {
        let server = Server::new(&scene);
        let one = Rights::from([("Signal.Speed".into(), "r".into())]);
        assert_eq!(server.ask(&newest, "vis").unwrap(), (item, one));
        assert!(server.ask(&secret, "vis").is_err());
    }

    // The end of the instance ends the secret. No log knows either of them.
    scene.stage.operator.run(&["unassign", UNIT, ITEM]).unwrap();
    {
        let server = Server::new(&scene);
        scene.until("the secret to end", || match server.ask(&newest, "vis") {
            Ok(found) => Err(format!("{found:?}")),
            Err(_) => Ok(()),
        });
    }
    for daemon in [Daemon::Sm, Daemon::Iam, Daemon::Cm] {
        let log = std::fs::read_to_string(scene.stage.unit.log(daemon)).unwrap();
        assert!(!log.contains(&secret) && !log.contains(&newest), "{daemon:?} logs a secret");
    }
}

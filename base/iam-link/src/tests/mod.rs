//! The link against small servers that speak iamanager v6 on real sockets and die without a word.

mod iam;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_unit_api::iamanager::version::iam_version_service_client::IamVersionServiceClient;
use tokio::sync::watch;

use self::iam::{Iam, Pki};
use crate::{IamLink, IamLinkConfig, LinkError};

const DEADLINE: Duration = Duration::from_secs(20);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap()
}

fn link(iam: &Iam, pki: Option<&Pki>) -> IamLink {
    IamLink::new(IamLinkConfig {
        public_url: iam.public.clone(),
        protected_url: iam.protected.clone(),
        ca_cert: pki.map_or_else(PathBuf::new, Pki::root_file),
        plaintext: pki.is_none(),
    })
    .unwrap()
}

// CM-10, IAM-18
#[tokio::test]
async fn questions_are_answered_and_absence_is_an_error() {
    let iam = Iam::plain();
    let link = link(&iam, None);
    assert_eq!(link.system_info().await.unwrap().system_id, "unit-1");
    assert_eq!(link.subjects().await.unwrap(), ["driver"]);
    assert_eq!(link.node_ids().await.unwrap(), ["main", "second"]);
    assert_eq!(link.node_info("second").await.unwrap().state, "provisioned");
    assert_eq!(link.current_node_info().await.unwrap().node_id, "main");
    let wrong = link.node_info("third").await.unwrap_err();
    assert!(matches!(wrong, LinkError::Call { call: "GetNodeInfo", .. }) && !wrong.is_passing());
    assert!(!link.get_cert("sm").await.unwrap_err().is_passing());

    let iam = iam.kill();
    assert!(link.system_info().await.unwrap_err().is_passing());
    let _iam = iam.start();
    assert_eq!(link.system_info().await.unwrap().system_id, "unit-1");
}

// No message tells of new roots: the file is looked at with every handshake.
#[tokio::test]
async fn new_roots_count_without_a_restart() {
    let (old, new) = (Pki::new(), Pki::new());
    let iam = Iam::secure(&new);
    let link = link(&iam, Some(&old));
    assert!(link.system_info().await.unwrap_err().is_passing());
    let fresh = old.root_file().with_extension("fresh");
    std::fs::copy(new.root_file(), &fresh).unwrap();
    std::fs::rename(fresh, old.root_file()).unwrap();
    assert_eq!(link.system_info().await.unwrap().system_id, "unit-1");
}

#[tokio::test]
async fn nodes_and_subjects_are_followed_over_a_restart() {
    let iam = Iam::plain();
    let link = link(&iam, None);
    let mut nodes = link.watch_nodes();
    let mut subjects = link.watch_subjects();
    for expected in ["main", "second"] {
        assert_eq!(in_time(nodes.recv()).await.unwrap().node_id, expected);
    }
    assert_eq!(in_time(subjects.recv()).await.unwrap(), ["driver"]);

    iam.change_node("second", "paused");
    let changed = in_time(nodes.recv()).await.unwrap();
    assert_eq!((changed.node_id.as_str(), changed.state.as_str()), ("second", "paused"));
    iam.change_subjects(&["driver", "guest"]);
    assert_eq!(in_time(subjects.recv()).await.unwrap(), ["driver", "guest"]);

    // What changes while nobody serves is told after the restart.
    let iam = iam.kill();
    iam.change_node("second", "error");
    iam.change_subjects(&[]);
    let back = std::time::Instant::now();
    let _iam = iam.start();
    in_time(async { while nodes.recv().await.unwrap().state != "error" {} }).await;
    in_time(async { while !subjects.recv().await.unwrap().is_empty() {} }).await;
    assert!(back.elapsed() < Duration::from_secs(2), "a short absence costs no long pause");
}

async fn present(identity: &mut watch::Receiver<Option<Arc<aos_token::Identity>>>, name: &str, pki: &Pki) {
    let leaf = pki.leaf(name);
    let is_it = |now: &Option<Arc<aos_token::Identity>>| {
        now.as_ref().is_some_and(|identity| identity.leaf() == Some(&leaf))
    };
    in_time(identity.wait_for(is_it)).await.unwrap();
}

/// The name under which the protected server knows us.
async fn known_as(link: &IamLink) -> Result<String, LinkError> {
    let mut client = IamVersionServiceClient::new(link.protected("sm")?);
    let answer = client.get_api_version(()).await;
    let answer =
        answer.map_err(|source| LinkError::Call { call: "GetAPIVersion", source: Box::new(source) })?;
    let name = answer.metadata().get("known-as").and_then(|name| name.to_str().ok());
    Ok(name.unwrap_or_default().to_owned())
}

// IAM-09, IAM-16, IAM-17, SM-11, CM-33
#[tokio::test]
async fn identities_follow_every_change_of_the_certificate() {
    let pki = Pki::new();
    let iam = Iam::secure(&pki);
    let link = link(&iam, Some(&pki));
    assert!(known_as(&link).await.is_err(), "no certificate yet");
    let mut identity = link.identity("sm");
    assert!(identity.borrow().is_none());

    iam.change_cert(pki.issue("first"));
    present(&mut identity, "first", &pki).await;
    assert_eq!(known_as(&link).await.unwrap(), "first");
    assert!(link.slot("sm").get().is_some());

    iam.change_cert(pki.issue("second"));
    present(&mut identity, "second", &pki).await;
    assert_eq!(known_as(&link).await.unwrap(), "second");

    let iam = iam.kill();
    iam.change_cert(pki.issue("third"));
    let iam = iam.start();
    present(&mut identity, "third", &pki).await;
    assert_eq!(known_as(&link).await.unwrap(), "third");

    // A certificate that cannot be loaded leaves the present one in use until it can.
    let (info, file, content) = pki.issue_but_hide("fourth");
    iam.change_cert(info);
    assert_eq!(known_as(&link).await.unwrap(), "third");
    std::fs::write(file, content).unwrap();
    present(&mut identity, "fourth", &pki).await;
}

#[tokio::test]
async fn a_server_that_is_silent_until_its_first_message_does_no_harm() {
    let pki = Pki::new();
    let iam = Iam::plain();
    iam.be_silent();
    iam.change_cert(pki.issue("first"));
    let link = link(&iam, None);
    let mut nodes = link.watch_nodes();
    assert_eq!(in_time(nodes.recv()).await.unwrap().node_id, "main");
    present(&mut link.identity("sm"), "first", &pki).await;
}

#[tokio::test]
async fn the_tasks_end_with_the_link() {
    let iam = Iam::plain();
    let link = link(&iam, None);
    let mut identity = link.identity("sm");
    let copy = link.clone();
    drop(link);
    assert!(identity.has_changed().is_ok());
    drop(copy);
    assert!(in_time(identity.changed()).await.is_err());
}

#[test]
fn wrong_settings_are_told() {
    let config = IamLinkConfig {
        public_url: "localhost:8090".into(),
        protected_url: "localhost:8089".into(),
        ca_cert: "/nonexistent/root.pem".into(),
        plaintext: false,
    };
    assert!(matches!(IamLink::new(config), Err(LinkError::Prepare(_))));
}

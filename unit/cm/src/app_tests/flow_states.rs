//! States of instances: new ones to the cloud, those of the cloud to the file, and crashes in between.

use std::os::unix::fs::MetadataExt;

use aos_cloud_protocol::{
    AosIdentity, InstanceStateData, StateAcceptance, StateChecksum, StateRequest, StateResult,
};
use aos_item_format::{ItemConfig, Quotas};

use super::*;
use crate::storagestate::exchange::checksum;

const ITEM: &str = "3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41";
const SUBJECT: &str = "c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714";

fn ids() -> (AosIdentity, AosIdentity) {
    (AosIdentity::by_id(ITEM), AosIdentity::by_id(SUBJECT))
}

fn update(state: &str, state_checksum: StateChecksum) -> Body {
    let (item, subject) = ids();
    Body::UpdateState(InstanceStateData {
        item: Some(item),
        subject: Some(subject),
        instance: 0,
        state_checksum,
        state: state.into(),
    })
}

fn verdict(state: &str, result: StateResult) -> Body {
    let (item, subject) = ids();
    let checksum = checksum(state.as_bytes());
    Body::StateAcceptance(StateAcceptance {
        item,
        subject,
        instance: 0,
        checksum,
        result,
        reason: "no".into(),
    })
}

impl World {
    async fn with_state() -> Self {
        let mut world = Self::new().await;
        let quotas = Quotas { state_limit: Some(1000), ..Quotas::default() };
        let config = ItemConfig { quotas, ..ItemConfig::default() };
        let (index, _) = world.cloud.publish_item(&[5; 100], &config);
        world.cloud.connected().await;
        world.connect_node().await;
        world.cloud.send(wish("1.0.0", index)).await;
        let asked = async {
            let mut asked = false;
            loop {
                match world.cloud.next_once().await.body {
                    Body::StateRequest(question) => {
                        assert!(!question.default && question.item.id.as_deref() == Some(ITEM));
                        asked = true;
                    }
                    Body::UnitStatus(status) if is_active(&status) => return asked,
                    _ => {}
                }
            }
        };
        let (update, asked) = tokio::join!(world.sm.update(), asked);
        assert!(asked, "a new state file is asked for");
        assert_eq!(update.start_instances[0].state_path, format!("{ITEM}/{SUBJECT}/0/state.dat"));
        world
    }

    fn state_file(&self) -> PathBuf {
        self.config.state_dir.join(format!("{ITEM}/{SUBJECT}/0/state.dat"))
    }

    async fn new_state(&mut self) -> String {
        match self.cloud.answer().await.body {
            Body::NewState(new) => {
                assert_eq!(new.state_checksum, checksum(new.state.as_bytes()));
                assert_eq!((new.item.unwrap().id.as_deref(), new.instance), (Some(ITEM), 0));
                new.state
            }
            other => panic!("{other:?}"),
        }
    }

    async fn state_becomes(&mut self, wanted: &str) {
        while std::fs::read_to_string(self.state_file()).unwrap() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn reported_checksum(status: &aos_cloud_protocol::UnitStatus) -> Option<StateChecksum> {
    let mut instances = status.instances.iter().flatten().flat_map(|group| &group.instances);
    instances.find_map(|instance| instance.state_checksum.clone())
}

// PRO-68, PRO-99, PRO-101, PRO-102, PRO-124, D15, D50: written, sent, accepted; written, sent, rejected, asked for.
#[tokio::test]
async fn a_new_state_is_sent_and_judged() {
    in_time!(async {
        let mut world = World::with_state().await;
        std::fs::write(world.state_file(), "one").unwrap();
        assert_eq!(world.new_state().await, "one");
        let status = world.cloud.status(|status| reported_checksum(status).is_some()).await;
        assert_eq!(reported_checksum(&status), Some(checksum(b"one")));
        let txn = world.cloud.send(verdict("one", StateResult::Accepted)).await;
        world.cloud.acknowledged(&txn).await;

        // The same content once more is nothing new; a verdict about something else changes nothing.
        std::fs::write(world.state_file(), "one").unwrap();
        world.cloud.send(verdict("else", StateResult::Rejected)).await;
        std::fs::write(world.state_file(), "two").unwrap();
        assert_eq!(world.new_state().await, "two");
        world.cloud.send(verdict("two", StateResult::Rejected)).await;
        let Body::StateRequest(question) = world.cloud.answer().await.body else { panic!("a question") };
        assert!(!question.default);
        world.cloud.send(update("one", checksum(b"one"))).await;
        world.state_becomes("one").await;

        // Asked against the usual direction.
        let (item, subject) = ids();
        let question = StateRequest { item, subject, instance: 0, default: false };
        world.cloud.send(Body::StateRequest(question)).await;
        assert_eq!(world.new_state().await, "one");
    });
}

// PRO-100, D48: a state of the cloud is checked, and written into the file that the instance has open.
#[tokio::test]
async fn a_state_of_the_cloud_is_written() {
    in_time!(async {
        let mut world = World::with_state().await;
        let before = std::fs::metadata(world.state_file()).unwrap();
        assert_eq!((before.mode() & 0o777, before.uid()), (0o600, 5000));
        let long = "x".repeat(1001);
        for refused in [update("wrong", checksum(b"other")), update(&long, checksum(long.as_bytes()))] {
            let txn = world.cloud.send(refused).await;
            world.cloud.acknowledged(&txn).await;
        }
        let sha256 = StateChecksum::new(aos_content_store::sha256(b"cloud").hex()).unwrap();
        world.cloud.send(update("cloud", sha256)).await;
        world.state_becomes("cloud").await;
        let after = std::fs::metadata(world.state_file()).unwrap();
        assert_eq!((after.ino(), after.mode(), after.uid()), (before.ino(), before.mode(), before.uid()));
        let mut told = Vec::new();
        while told.len() < 2 {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                told.extend(alerts.items);
            }
        }
        assert!(format!("{told:?}").contains("1000 are allowed"), "{told:?}");

        // Our own write is nothing new, the service's next one is.
        std::fs::write(world.state_file(), "service").unwrap();
        assert_eq!(world.new_state().await, "service");
        std::fs::write(world.state_file(), [0xff, 0xfe]).unwrap();
        let told = loop {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                break format!("{alerts:?}");
            }
        };
        assert!(told.contains("no UTF-8 text"), "{told}");
    });
}

// PRO-100: a state of the cloud that cannot be written at once stays the wanted one.
#[tokio::test]
async fn a_state_that_cannot_be_written_is_written_later() {
    in_time!(async {
        let mut world = World::with_state().await;
        std::fs::write(world.state_file(), "one").unwrap();
        assert_eq!(world.new_state().await, "one");
        let (file, aside) = (world.state_file(), world.state_file().with_extension("aside"));
        std::fs::rename(&file, &aside).unwrap();
        // No link is followed, so nothing can be written here.
        std::os::unix::fs::symlink(world.state_file().with_extension("elsewhere"), &file).unwrap();
        let txn = world.cloud.send(update("cloud", checksum(b"cloud"))).await;
        world.cloud.acknowledged(&txn).await;
        std::fs::rename(&aside, &file).unwrap();
        std::fs::write(&file, "service").unwrap();
        world.state_becomes("cloud").await;
        std::fs::write(&file, "later").unwrap();
        assert_eq!(world.new_state().await, "later", "and not what was overwritten");
    });
}

// REL-02: what is written while the program or the link is away is sent when they are back, once, the newest.
#[tokio::test]
async fn a_state_written_in_absence_is_sent_later() {
    in_time!(async {
        let mut world = World::with_state().await;
        world.kill().await;
        std::fs::write(world.state_file(), "while away").unwrap();
        world.start();
        world.cloud.connected().await;
        assert_eq!(world.new_state().await, "while away");
        world.kill().await;
        world.start();
        world.cloud.refuse(true);
        for state in ["not", "connected"] {
            std::fs::write(world.state_file(), state).unwrap();
        }
        world.until(|document| document["cloud"]["lastError"].is_string()).await;
        world.cloud.refuse(false);
        world.cloud.connected().await;
        assert_eq!(world.new_state().await, "connected", "and not what was sent before");
        let txn = world.cloud.send(verdict("connected", StateResult::Accepted)).await;
        world.cloud.acknowledged(&txn).await;
        world.kill().await;
        world.start();
        let greeting = world.cloud.connected().await;
        assert_eq!(reported_checksum(&greeting), Some(checksum(b"connected")));
    });
}

//! What must be true when all is settled.

use aos_cloud_protocol::MessageType;
use aos_cloud_session::{Class, DropReason};
use aos_ids::Txn;

use crate::store::Store;
use crate::world::{CLOUD, UNIT, World};

impl World {
    pub fn check(&self) {
        for end in [UNIT, CLOUD] {
            let (me, peer) = (&self.stores[end], &self.stores[1 - end]);
            assert_eq!(self.outstanding(end), 0, "everything is settled");
            assert_eq!(me.outbox.len(), 0, "nothing waits on disk");
            for (txn, kind, class) in &me.log.sent {
                let effects = peer.effects_of(txn);
                assert!(effects <= 1, "{kind} takes effect twice");
                let state = matches!(kind, MessageType::UnitStatus | MessageType::DesiredStatus);
                match me.log.dropped.get(txn) {
                    Some(DropReason::Superseded | DropReason::QueueFull) => {}
                    None if *class == Class::Durable && !state => {
                        assert_eq!(effects, 1, "{kind} takes effect exactly once");
                        assert!(me.log.acknowledged.contains(txn));
                    }
                    reason => assert!(*class < Class::Durable || reason.is_none(), "{kind}: {reason:?}"),
                }
            }
            for kind in [MessageType::NewState, MessageType::UpdateState, MessageType::StateRequest] {
                assert_eq!(settled(me, kind), took(peer, me, kind), "{kind} keeps its order");
            }
        }
        for end in [UNIT, CLOUD].into_iter().filter(|end| self.in_order() && (*end == CLOUD || !self.late)) {
            let (me, peer) = (&self.stores[end], &self.stores[1 - end]);
            for (topic, newest) in me.log.newest.iter().filter(|(_, txn)| !me.log.dropped.contains_key(*txn))
            {
                let last = peer.effects.iter().rfind(|(txn, _)| me.log.about.get(txn) == Some(topic));
                assert_eq!(last.map(|(txn, _)| txn), Some(newest), "an old state comes after a newer one");
            }
        }
        let [unit, cloud] = &self.stores;
        assert_eq!(cloud.told(), unit.own, "the cloud knows the Unit's state");
        if self.in_order() {
            assert_eq!(unit.told(), cloud.own, "the Unit knows its target");
        }
    }
}

/// Neither given up nor out of tries: those may be overtaken.
fn orderly(store: &Store, txn: &Txn) -> bool {
    !store.log.dropped.contains_key(txn) && !store.log.parked.contains(txn)
}

fn settled(me: &Store, kind: MessageType) -> Vec<Txn> {
    let sent = me.log.sent.iter().filter(|(txn, of, _)| *of == kind && orderly(me, txn));
    sent.map(|(txn, _, _)| txn.clone()).collect()
}

fn took(peer: &Store, me: &Store, kind: MessageType) -> Vec<Txn> {
    let took = peer.effects.iter().filter(|(txn, of)| *of == kind && orderly(me, txn));
    took.map(|(txn, _)| txn.clone()).collect()
}

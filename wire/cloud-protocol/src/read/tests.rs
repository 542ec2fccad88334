//! The fast way and the tolerant way of reading agree.

use super::*;
use crate::support::mutate::{Numbers, corpus, mutated_bytes, mutated_value, samples, values};
use crate::{MessageType, write};

const DIRECTIONS: [Direction; 3] = [Direction::UnitToCloud, Direction::CloudToUnit, Direction::Both];

/// What is read fast is what the tolerant reader reads. Answers whether it was read fast.
fn agree(frame: &[u8]) -> bool {
    let mut fast_ones = 0;
    for direction in DIRECTIONS {
        if let Some(envelope) = fast::read(frame, direction) {
            fast_ones += 1;
            let tolerant = read_small(frame, direction);
            assert_eq!(Ok(envelope), tolerant, "{}", String::from_utf8_lossy(frame));
        }
    }
    fast_ones > 0
}

#[test]
fn both_ways_agree_on_messages() {
    for frame in corpus() {
        agree(&frame);
    }
}

#[test]
fn both_ways_agree_on_mutated_bytes() {
    let corpus = corpus();
    let mut numbers = Numbers(23);
    let fast_ones = (0..30_000).filter(|_| agree(&mutated_bytes(&corpus, &mut numbers))).count();
    assert!(fast_ones > 1000, "only {fast_ones} mutated frames were still in the usual form");
}

#[test]
fn both_ways_agree_on_mutated_values() {
    let corpus = values(&corpus());
    let mut numbers = Numbers(29);
    let mutated = (0..30_000).map(|_| serde_json::to_vec(&mutated_value(&corpus, &mut numbers)).unwrap());
    let fast_ones = mutated.filter(|frame| agree(frame)).count();
    assert!(fast_ones > 500, "only {fast_ones} mutated messages were still in the usual form");
}

/// Messages that we write are read fast, but for those with a member under two names and those whose entries
/// are judged one by one.
#[test]
fn what_we_write_is_read_fast() {
    let (mut kinds, mut slow) = (std::collections::BTreeSet::new(), Vec::new());
    for frame in samples(600) {
        let envelope = read_small(&frame, Direction::Both).unwrap();
        assert_eq!(write(&envelope).unwrap(), frame);
        kinds.insert(envelope.body.message_type());
        if !agree(&frame) {
            slow.push(envelope.body);
        }
    }
    assert_eq!(kinds.len(), MessageType::ALL.len());
    for body in slow {
        let excused = match &body {
            Body::MonitoringData(data) => data.nodes.iter().any(|node| !node.node_states.is_empty()),
            other => matches!(
                other,
                Body::Alerts(_)
                    | Body::OverrideEnvVarsStatus(_)
                    | Body::RenewCertificatesNotification(_)
                    | Body::Nack(_)
            ),
        };
        assert!(excused, "{body:?}");
    }
}

/// Frames at the bounds: the fast way refuses what the tolerant way refuses.
#[test]
fn bounds_are_the_same() {
    let list = |entries: usize| {
        let subject = "{\"id\":\"s\"},".repeat(entries);
        let subjects = subject.trim_end_matches(',');
        format!(
            "{{\"header\":{{\"version\":7,\"systemId\":\"u\",\"txn\":\"t\"}},\
             \"data\":{{\"messageType\":\"unitStatus\",\"subjects\":[{subjects}]}}}}"
        )
    };
    assert!(agree(list(lenient::MAX_LIST).as_bytes()));
    assert!(!agree(list(lenient::MAX_LIST + 1).as_bytes()));
    // Samples of 60 partitions with two members each: 185 values a sample.
    let partitions = "{\"name\":\"p\",\"usedSize\":1},".repeat(60);
    let sample = format!(
        "{{\"timestamp\":\"2026-01-01T00:00:00Z\",\"ram\":1,\"cpu\":1,\"partitions\":[{}]}},",
        partitions.trim_end_matches(',')
    );
    let frame = |samples: usize| {
        format!(
            "{{\"header\":{{\"version\":7,\"systemId\":\"u\",\"txn\":\"t\"}},\"data\":{{\"messageType\":\
             \"monitoringData\",\"nodes\":[{{\"node\":{{}},\"items\":[{}]}}]}}}}",
            sample.repeat(samples).trim_end_matches(',')
        )
    };
    // Besides the samples there are 12 values.
    let most = (bounded::MAX_VALUES as usize - 12) / 185;
    assert!(agree(frame(most).as_bytes()));
    assert!(read(frame(most).as_bytes(), Direction::UnitToCloud).is_ok());
    assert!(!agree(frame(most + 1).as_bytes()));
    assert!(read(frame(most + 1).as_bytes(), Direction::UnitToCloud).is_err());
}

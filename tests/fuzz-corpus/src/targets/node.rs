//! What the Service Manager reads of its node: answers of the kernel and of services, lines of logs.

use aos_sm::parts::{JournalEntry, connections, journal_text, judge_http, parse_own_line};

/// A datagram of the kernel's list of connections. What is read out of it was in it.
pub fn target_netlink(data: &[u8]) {
    let mut found = 0;
    for connection in connections(data) {
        found += 1;
        for way in [&connection.asked, &connection.answered] {
            for address in [way.from, way.to] {
                let octets = address.octets();
                assert!(data.windows(4).any(|part| part == octets), "{address} was never told");
            }
        }
    }
    // The header of a message and the attributes of two ways take more than this.
    assert!(found <= data.len() / 64, "{found} connections in {} bytes", data.len());
}

/// A line of `journalctl` or of a log file of ours; services write what is in them.
pub fn target_journal(data: &[u8]) {
    if let Ok(entry) = serde_json::from_slice::<JournalEntry>(data) {
        for field in [&entry.message, &entry.priority, &entry.unit, &entry.cgroup, &entry.identifier] {
            assert!(journal_text(field).len() <= 3 * data.len(), "a field is longer than its entry");
        }
    }
    if let Some(line) = parse_own_line(data) {
        assert!(data.ends_with(line.text.as_bytes()) && line.text.starts_with('['));
        assert_eq!(line.is_error, line.text.starts_with("[ERR]"));
    }
}

/// What a service answers to an HTTP probe: only a status of success is one.
pub fn target_probe_answer(data: &[u8]) {
    let is_good = judge_http(data).is_ok();
    let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let success = |part: &[u8]| part.len() == 3 && matches!(part[0], b'2' | b'3');
    let named = line.split(u8::is_ascii_whitespace).any(|part| {
        let digits = part.iter().position(|&byte| byte != b'0' && byte != b'+').unwrap_or(part.len());
        success(&part[digits..])
    });
    assert!(!is_good || line.starts_with(b"HTTP/") && named, "no success is one");
}

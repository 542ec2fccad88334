//! When the certificates of Units are renewed by the cloud's own doing, and what a Unit gets that comes
//! without a session.
//!
//! A Unit that proves who it is gets certificates also for what is not near its end by our record: an answer
//! may have been lost, and the certificate we take for the newest may never have reached it. What it gets is
//! bounded by number instead.

use crate::renewal::CertificateRefusal;

/// Certificates of one type and node that a Unit may get without being asked, within [`window`].
pub const MAX_ISSUED: usize = 8;
/// A token of an operator is good for this time, seconds.
pub const TOKEN_LIFE: i64 = 24 * 3600;
const DAY: i64 = 24 * 3600;
/// Shortest and longest pause between two renewals of one Unit that the cloud starts by itself, seconds.
const PAUSES: (i64, i64) = (10, 6 * 3600);

/// A certificate by our record. Times are seconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// The node that holds the key.
    pub node_id: &'a str,
    /// Its type.
    pub cert_type: &'a str,
    /// Begin of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
    /// When it was issued.
    pub issued_at: i64,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// When `percent` of a life is over.
pub fn renewal_due_at(not_before: i64, not_after: i64, percent: u8) -> i64 {
    let length = not_after.saturating_sub(not_before).max(0);
    let percent = i64::from(percent.clamp(1, 99));
    not_before.saturating_add(length / 100 * percent + length % 100 * percent / 100)
}

/// The pause after a renewal that the cloud started for a certificate of this life, before the next.
pub fn renewal_pause(not_before: i64, not_after: i64) -> i64 {
    (not_after.saturating_sub(not_before) / 20).clamp(PAUSES.0, PAUSES.1)
}

/// The time over which certificates of one type are counted: a day, or a life that is shorter.
pub fn window(not_before: i64, not_after: i64) -> i64 {
    not_after.saturating_sub(not_before).clamp(1, DAY)
}

/// Decides about a request without a session, whose sender was proved to be the Unit. `recorded` are all
/// certificates ever issued to it, also revoked ones.
pub fn may_recover(
    recorded: &[Recorded<'_>],
    node_id: &str,
    cert_type: &str,
    now: i64,
) -> Result<(), CertificateRefusal> {
    let same = |one: &&Recorded<'_>| one.node_id == node_id && one.cert_type == cert_type;
    let mut kept = recorded.iter().filter(same).filter(|one| !one.revoked).peekable();
    if kept.peek().is_none() {
        return Err(CertificateRefusal::NotHeld);
    }
    let window = kept.map(|one| window(one.not_before, one.not_after)).min().unwrap_or(DAY);
    let recent = recorded.iter().filter(same).filter(|one| one.issued_at > now.saturating_sub(window));
    if recent.count() >= MAX_ISSUED {
        return Err(CertificateRefusal::TooMany);
    }
    Ok(())
}

/// Certificates of other kinds than `asked` that are due, as (node, type), in order.
pub fn also_due<'a>(
    recorded: &[Recorded<'a>],
    asked: &[(&str, &str)],
    percent: u8,
    now: i64,
) -> Vec<(&'a str, &'a str)> {
    let kept = || recorded.iter().filter(|one| !one.revoked);
    let fresh = |node: &str, kind: &str| {
        kept().any(|one| {
            (one.node_id, one.cert_type) == (node, kind)
                && renewal_due_at(one.not_before, one.not_after, percent) > now
        })
    };
    let mut due: Vec<(&str, &str)> = kept()
        .map(|one| (one.node_id, one.cert_type))
        .filter(|(node, kind)| !asked.contains(&(*node, *kind)) && !fresh(node, kind))
        .collect();
    due.sort_unstable();
    due.dedup();
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000;

    fn one(cert_type: &str, issued_at: i64, life: i64) -> Recorded<'_> {
        Recorded {
            node_id: "main",
            cert_type,
            not_before: issued_at,
            not_after: issued_at + life,
            issued_at,
            revoked: false,
        }
    }

    #[test]
    fn shares_of_a_life() {
        assert_eq!(renewal_due_at(T, T + 300, 67), T + 201);
        assert_eq!(renewal_due_at(T, T + 20, 67), T + 13);
        assert_eq!(renewal_due_at(T, T - 5, 67), T);
        assert_eq!(renewal_pause(T, T + 20), 10);
        assert_eq!(renewal_pause(T, T + 730 * DAY), 6 * 3600);
    }

    #[test]
    fn recovery_is_bounded_by_number_not_by_what_was_issued_last() {
        let mut record = vec![one("online", T, 100 * DAY)];
        assert_eq!(may_recover(&record, "main", "online", T + 1), Ok(()), "its answer may have been lost");
        assert!(may_recover(&record, "main", "sm", T).is_err());
        assert!(may_recover(&record, "rear", "online", T).is_err());
        for n in 1..8 {
            record.push(one("online", T + n, 100 * DAY));
        }
        assert_eq!(may_recover(&record, "main", "online", T + 10), Err(CertificateRefusal::TooMany));
        assert_eq!(may_recover(&record, "main", "online", T + DAY + 10), Ok(()), "the next day");
        for one in &mut record {
            one.revoked = true;
        }
        assert!(may_recover(&record, "main", "online", T + DAY + 10).is_err());
    }

    #[test]
    fn short_lives_have_a_short_window() {
        let record: Vec<_> = (0..40).map(|n| one("online", T + n * 15, 20)).collect();
        assert_eq!(may_recover(&record, "main", "online", T + 600), Ok(()));
    }

    #[test]
    fn what_else_is_due_is_named_once() {
        let record = [
            one("online", T, 100),
            one("sm", T, 100),
            one("sm", T + 1, 100),
            one("cm", T, 100),
            one("cm", T + 90, 100),
        ];
        assert_eq!(also_due(&record, &[("main", "online")], 67, T + 95), [("main", "sm")]);
    }
}

//! Which stored versions are let go. Pure.
//!
//! A version that is wanted is never let go, however many there are: at an update the new and the old one stand
//! side by side, and instances of one item may be of several versions. Unwanted ones fill up to two versions of
//! an item and 128 rows in all, the youngest first, until their time is over.

use crate::database::ItemRow;

/// Versions of an item kept on disk.
const VERSIONS_PER_ITEM: usize = 2;
/// Rows kept.
const MAX_ROWS: usize = 128;

/// The rows to drop. `before` is the time, in seconds since 1970, before which what was unwanted goes.
pub fn outdated(rows: &[ItemRow], before: i64) -> Vec<ItemRow> {
    let mut unwanted: Vec<&ItemRow> = rows.iter().filter(|row| row.removed_at.is_some()).collect();
    // Of those that went within one second the later version counts as younger.
    unwanted.sort_by_key(|row| std::cmp::Reverse((row.removed_at, &row.version)));
    let mut kept: Vec<&ItemRow> = rows.iter().filter(|row| row.removed_at.is_none()).collect();
    let mut dropped = Vec::new();
    for row in unwanted {
        let versions = kept.iter().filter(|other| other.item == row.item).count();
        let expired = row.removed_at.is_some_and(|at| at <= before);
        if expired || versions >= VERSIONS_PER_ITEM || kept.len() >= MAX_ROWS {
            dropped.push(row.clone());
        } else {
            kept.push(row);
        }
    }
    dropped
}

/// The version to go first when space is short: the one that has been unwanted for longest.
pub fn first_to_go(rows: &[ItemRow]) -> Option<&ItemRow> {
    rows.iter().filter(|row| row.removed_at.is_some()).min_by_key(|row| (row.removed_at, &row.version))
}

#[cfg(test)]
mod tests {
    use aos_ids::Digest;
    use proptest::prelude::*;

    use super::*;

    fn row(item: u8, version: u8, removed_at: Option<i64>) -> ItemRow {
        ItemRow {
            item: format!("i{item}"),
            version: format!("{version}.0.0"),
            manifest: Digest::from_sha256([version; 32]),
            removed_at,
        }
    }

    #[test]
    fn an_update_keeps_the_version_before_and_no_older_one() {
        let rows = [row(1, 1, Some(100)), row(1, 2, Some(200)), row(1, 3, None), row(2, 1, Some(50))];
        assert_eq!(outdated(&rows, 0), [row(1, 1, Some(100))]);
        assert_eq!(outdated(&rows, 60), [row(1, 1, Some(100)), row(2, 1, Some(50))]);
        assert_eq!(first_to_go(&rows), Some(&rows[3]));
        assert_eq!(first_to_go(&rows[2..3]), None);
    }

    #[test]
    fn versions_that_are_wanted_stay_even_if_there_are_many() {
        let rows = [row(1, 1, None), row(1, 2, None), row(1, 3, None), row(1, 4, Some(900))];
        assert_eq!(outdated(&rows, 0), [row(1, 4, Some(900))]);
    }

    proptest! {
        #[test]
        fn limits_hold_and_nothing_wanted_goes(
            rows in proptest::collection::vec((0..40u8, 0..6u8, proptest::option::of(0..1000i64)), 0..200),
            before in 0..1000i64,
        ) {
            let rows: Vec<ItemRow> = rows.into_iter().map(|(item, version, at)| row(item, version, at)).collect();
            let dropped = outdated(&rows, before);
            prop_assert!(dropped.iter().all(|row| row.removed_at.is_some()));
            let left = rows.len() - dropped.len();
            let wanted = rows.iter().filter(|row| row.removed_at.is_none()).count();
            prop_assert!(left <= MAX_ROWS.max(wanted));
            prop_assert!(rows.iter().filter(|row| row.removed_at.is_some_and(|at| at <= before)).count() <= dropped.len());
        }
    }
}

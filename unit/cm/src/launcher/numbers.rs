//! User and group numbers of instances, 5000..=9999.
//!
//! Every record of an instance has a user of its own, all instances of an item share a group. Numbers that
//! the system's own users have are never given out.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Numbers for instances.
pub const RANGE: RangeInclusive<u32> = 5000..=9999;

/// The lowest number of the range that is in neither set.
pub fn lowest_free(used: &BTreeSet<u32>, of_system: &BTreeSet<u32>) -> Option<u32> {
    RANGE.into_iter().find(|number| !used.contains(number) && !of_system.contains(number))
}

/// Numbers in the third field of `/etc/passwd` or `/etc/group`.
pub fn numbers_of(file: &str) -> BTreeSet<u32> {
    file.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_users_are_skipped() {
        let system = numbers_of("root:x:0:0::/root:/bin/sh\nsvc:x:5000:5000::/:/bin/sh\nbroken\n");
        assert_eq!(lowest_free(&BTreeSet::from([5001]), &system), Some(5002));
        assert_eq!(lowest_free(&RANGE.collect(), &system), None);
    }
}

//! Who uses which shared resource: a pure count.
//!
//! A resource with a count may be held by that many instances at once, one without by any number. An instance
//! gets all it asks for or nothing. What was found running holds its resources whatever the count says now.

use std::collections::{BTreeMap, BTreeSet};

/// Users of all resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Instance IDs by resource.
    users: BTreeMap<String, BTreeSet<String>>,
}

/// A resource that has no room for another user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub resource: String,
    /// How many may use it.
    pub shared_count: u64,
    /// Instance IDs of those who do.
    pub users: Vec<String>,
}

impl Shares {
    /// Gives an instance the resources `wanted` (name and count, 0 for any number) instead of what it had.
    ///
    /// # Errors
    /// The first that is taken; then the instance has nothing.
    pub fn take(&mut self, id: &str, wanted: &[(&str, u64)]) -> Result<(), Taken> {
        self.release(id);
        for &(resource, shared_count) in wanted {
            let users = self.users.get(resource).map_or(0, BTreeSet::len);
            if shared_count > 0 && users as u64 >= shared_count {
                let users = self.users.get(resource).into_iter().flatten().cloned().collect();
                return Err(Taken { resource: resource.to_owned(), shared_count, users });
            }
        }
        self.hold(id, wanted.iter().map(|(resource, _)| *resource));
        Ok(())
    }

    /// Counts an instance that runs with these resources already.
    pub fn hold<'a>(&mut self, id: &str, resources: impl Iterator<Item = &'a str>) {
        for resource in resources {
            self.users.entry(resource.to_owned()).or_default().insert(id.to_owned());
        }
    }

    /// Takes everything from an instance.
    pub fn release(&mut self, id: &str) {
        self.users.retain(|_, users| {
            users.remove(id);
            !users.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_or_nothing_and_who_is_in_the_way() {
        let mut shares = Shares::default();
        shares.take("a", &[("one", 1), ("many", 0)]).unwrap();
        let taken = shares.take("b", &[("many", 0), ("two", 2), ("one", 1)]).unwrap_err();
        assert_eq!(taken, Taken { resource: "one".into(), shared_count: 1, users: vec!["a".into()] });
        shares.take("c", &[("two", 2)]).unwrap();
        shares.take("d", &[("two", 2)]).unwrap();
        assert_eq!(shares.take("e", &[("two", 2)]).unwrap_err().users, ["c", "d"]);
        // The same wish again is no second user.
        shares.take("a", &[("one", 1)]).unwrap();
        shares.release("a");
        shares.take("b", &[("one", 1)]).unwrap();
    }

    #[test]
    fn what_runs_counts_even_beyond_the_count() {
        let mut shares = Shares::default();
        shares.hold("a", ["one"].into_iter());
        shares.hold("b", ["one"].into_iter());
        assert_eq!(shares.take("c", &[("one", 1)]).unwrap_err().users, ["a", "b"]);
        shares.release("a");
        assert!(shares.take("c", &[("one", 1)]).is_err());
        shares.release("b");
        shares.take("c", &[("one", 1)]).unwrap();
    }

    proptest! {
        #[test]
        fn a_count_is_never_exceeded_and_nothing_leaks(
            steps in prop::collection::vec((0_u8..6, prop::collection::btree_set(0_u8..4, 0..4), any::<bool>()), 0..60)
        ) {
            let names = ["r0", "r1", "r2", "r3"];
            let mut shares = Shares::default();
            let mut holding: BTreeMap<String, usize> = BTreeMap::new();
            for (instance, wanted, release) in steps {
                let id = instance.to_string();
                if release {
                    shares.release(&id);
                    holding.remove(&id);
                    continue;
                }
                // The number in the name is the count.
                let wanted: Vec<_> = wanted.iter().map(|&n| (names[usize::from(n)], u64::from(n))).collect();
                if shares.take(&id, &wanted).is_ok() {
                    holding.insert(id, wanted.len());
                } else {
                    holding.remove(&id);
                }
                for (name, count) in names.iter().zip(0_usize..).skip(1) {
                    prop_assert!(shares.users.get(*name).map_or(0, BTreeSet::len) <= count);
                }
                let held: usize = shares.users.values().map(BTreeSet::len).sum();
                prop_assert_eq!(held, holding.values().sum::<usize>());
            }
        }
    }
}

//! How many connections each address holds.
//!
//! Without a bound of its own one client would take all places of a listener, and keep them by answering pings.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// What counts as one address: hosts have a whole IPv6 network of 64 bits to themselves.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Places by address; as many entries as there are addresses with connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    source: IpAddr,
}

impl Places {
    /// A place for a connection from `source`, unless it has `most` already.
    pub(crate) fn take(&self, source: IpAddr, most: usize) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_only_so_many_and_others_are_free() {
        let places = Places::default();
        let (one, other) = (source("192.0.2.1".parse().unwrap()), source("192.0.2.2".parse().unwrap()));
        let held = places.take(one, 2).unwrap();
        let also = places.take(one, 2).unwrap();
        assert!(places.take(one, 2).is_none());
        assert!(places.take(other, 2).is_some());
        drop(held);
        assert!(places.take(one, 2).is_some());
        drop(also);
        assert!(places.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
        let network = |text: &str| source(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), one);
    }
}

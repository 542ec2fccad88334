//! The names of instances: which names an instance has, and the way to the server that answers for them.
//!
//! The server runs in the keeper, so names resolve while this program is away. It gets whole tables, one for
//! each network, and keeps them on disk. A name belongs to one running instance of a network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::Error;
use crate::runtimes::keeper::Keeper;

/// Handle of the name server.
#[derive(Clone)]
pub struct Dns {
    keeper: Keeper,
}

impl Dns {
    /// The name server inside `keeper`.
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }

    /// Sets the names of a network: it answers at `listen` (the bridge) to the addresses of
    /// `listen`/`prefix`. Everything it does not know it asks `upstream`, or the host's servers if that is
    /// empty. Names are given without the network's suffix; they resolve with it too.
    pub async fn set(
        &self,
        network: &str,
        listen: Ipv4Addr,
        prefix: u8,
        names: BTreeMap<String, Ipv4Addr>,
        upstream: Vec<IpAddr>,
    ) -> Result<(), Error> {
        let zone = aos_keep::protocol::Zone { network: network.to_owned(), listen, prefix, names, upstream };
        self.keeper.set_names(zone).await
    }

    /// Forgets a network.
    pub async fn remove(&self, network: &str) -> Result<(), Error> {
        self.keeper.drop_names(network.to_owned()).await
    }

    /// Forgets every network that is not listed; for the start, when nobody knows what was there before.
    pub async fn retain(&self, networks: BTreeSet<String>) -> Result<(), Error> {
        self.keeper.keep_names(networks).await
    }
}

/// The names of the running instances of one network.
#[derive(Debug, Clone, Default)]
pub struct Names {
    instances: BTreeMap<String, (Ipv4Addr, BTreeSet<String>)>,
}

impl Names {
    /// Gives an instance its names in place of those it had; a name of another running instance is an error
    /// and changes nothing.
    pub fn claim(&mut self, id: &str, address: Ipv4Addr, names: &[String]) -> Result<(), Error> {
        let names: BTreeSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        for (other, (_, theirs)) in &self.instances {
            if let Some(name) = names.intersection(theirs).next().filter(|_| other != id) {
                let what = format!("name '{}'", name.escape_debug());
                return Err(Error::Taken { what, by: other.clone() });
            }
        }
        self.instances.insert(id.to_owned(), (address, names));
        Ok(())
    }

    /// Takes the names of an instance back; false when it had none.
    pub fn release(&mut self, id: &str) -> bool {
        self.instances.remove(id).is_some()
    }

    /// True when no instance has names.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// All names, for [`Dns::set`].
    pub fn table(&self) -> BTreeMap<String, Ipv4Addr> {
        let each = |(address, names): &(Ipv4Addr, BTreeSet<String>)| {
            let address = *address;
            names.clone().into_iter().map(move |name| (name, address))
        };
        self.instances.values().flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_running_instance() {
        let mut names = Names::default();
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        names.claim("a", one, &["Web".into(), "0.s.i".into()]).unwrap();
        // A second claim of the same instance replaces the first.
        names.claim("a", one, &["web".into(), "1.s.i".into()]).unwrap();
        let error = names.claim("b", two, &["0.s.i".into(), "WEB".into()]).unwrap_err();
        assert_eq!(error.info().code(), aos_status::AosCode::AlreadyExists);
        assert!(error.to_string().contains("'web'"), "{error}");
        assert_eq!(names.table(), BTreeMap::from([("web".to_owned(), one), ("1.s.i".to_owned(), one)]));
        assert!(names.release("a") && !names.release("a"));
        names.claim("b", two, &["web".into()]).unwrap();
        assert_eq!(names.table(), BTreeMap::from([("web".to_owned(), two)]));
        assert!(names.release("b") && names.is_empty());
    }
}

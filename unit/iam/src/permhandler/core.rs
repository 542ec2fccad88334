//! The registered instances and their limits.

use std::collections::BTreeMap;

use aos_ids::InstanceIdent;

use super::{Answer, Registration};
use crate::Error;

const MAX_INSTANCES: usize = 256;
const MAX_SERVERS: usize = 16;
const MAX_FUNCTIONS: usize = 32;
const MAX_NAME: usize = 32;

#[derive(Debug)]
pub(super) struct Registry {
    instances: Vec<Registration>,
}

impl Registry {
    pub(super) fn new(instances: Vec<Registration>) -> Self {
        Self { instances }
    }

    pub(super) fn secret_of(&self, ident: &InstanceIdent) -> Option<&str> {
        self.instances.iter().find(|known| known.ident == *ident).map(|known| known.secret.as_str())
    }

    /// Whether there is room for one more like `new`.
    pub(super) fn check(&self, new: &Registration) -> Result<(), Error> {
        if self.instances.len() >= MAX_INSTANCES {
            return Err(Error::TooMany(format!("more than {MAX_INSTANCES} instances cannot be registered")));
        }
        if new.permissions.len() > MAX_SERVERS {
            return Err(Error::TooMany(format!(
                "instance {} has permissions at {} functional servers, at most {MAX_SERVERS} are supported",
                new.ident,
                new.permissions.len()
            )));
        }
        for (server, functions) in &new.permissions {
            let long = |text: &str| text.len() > MAX_NAME;
            if functions.len() > MAX_FUNCTIONS
                || long(server)
                || functions.iter().any(|(name, allowed)| long(name) || long(allowed))
            {
                return Err(Error::TooMany(format!(
                    "permissions of instance {}: at most {MAX_FUNCTIONS} functions a server and names of at \
                     most {MAX_NAME} bytes are supported",
                    new.ident
                )));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, new: Registration) {
        self.instances.push(new);
    }

    pub(super) fn known(&self, ident: &InstanceIdent) -> Result<(), Error> {
        match self.secret_of(ident) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound(format!("instance {ident} is not registered"))),
        }
    }

    pub(super) fn remove(&mut self, ident: &InstanceIdent) {
        self.instances.retain(|known| known.ident != *ident);
    }

    pub(super) fn permissions(&self, secret: &str, server: &str) -> Result<Answer, Error> {
        let known = self
            .instances
            .iter()
            .find(|known| same(&known.secret, secret))
            .ok_or_else(|| Error::NotFound("no instance has this secret".into()))?;
        let functions: &BTreeMap<_, _> = known.permissions.get(server).ok_or_else(|| {
            Error::NotFound(format!("instance {} has no permissions at '{server}'", known.ident))
        })?;
        Ok((known.ident.clone(), functions.clone()))
    }
}

/// Compares in a time that does not tell how much of a secret is right.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

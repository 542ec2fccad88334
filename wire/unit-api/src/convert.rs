//! Conversions between wire messages and the checked types of `aos-ids` and `aos-status`.
//!
//! Into the Unit they check, out of it they cannot fail. An error with code 0 means success and never leaves
//! as a message: some peers take the mere presence of an error for a failure.

use aos_ids::{IdError, InstanceIdent, ItemId, ItemKind, SubjectId};
use aos_status::{AosCode, ErrorInfo};

use crate::common::{v1, v2};

/// A message names no instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The item identifier is empty, too long or unprintable.
    #[error("instance identity of a peer has no valid item")]
    Item(#[source] IdError),
    /// The subject identifier is empty, too long or unprintable.
    #[error("instance identity of a peer has no valid subject")]
    Subject(#[source] IdError),
    /// A number that is no item type.
    #[error("instance identity of a peer has the unknown item type {0}")]
    Kind(i32),
    /// The message that should carry the identity has none.
    #[error("message of a peer lacks the instance identity")]
    Missing,
}

impl TryFrom<v2::InstanceIdent> for InstanceIdent {
    type Error = InstanceError;

    fn try_from(wire: v2::InstanceIdent) -> Result<Self, InstanceError> {
        let kind = match v2::ItemType::try_from(wire.r#type) {
            Ok(v2::ItemType::Service) => ItemKind::Service,
            Ok(v2::ItemType::Component) => ItemKind::Component,
            Err(_) => return Err(InstanceError::Kind(wire.r#type)),
        };
        Ok(Self {
            item: ItemId::new(wire.item_id).map_err(InstanceError::Item)?,
            subject: SubjectId::new(wire.subject_id).map_err(InstanceError::Subject)?,
            instance: wire.instance,
            kind,
            preinstalled: wire.preinstalled,
        })
    }
}

/// Layers have no instances; a value that claims to be one travels as a service.
impl From<&InstanceIdent> for v2::InstanceIdent {
    fn from(ident: &InstanceIdent) -> Self {
        let kind = match ident.kind {
            ItemKind::Service | ItemKind::Layer => v2::ItemType::Service,
            ItemKind::Component => v2::ItemType::Component,
        };
        Self {
            item_id: ident.item.to_string(),
            subject_id: ident.subject.to_string(),
            instance: ident.instance,
            r#type: kind.into(),
            preinstalled: ident.preinstalled,
        }
    }
}

impl From<InstanceIdent> for v2::InstanceIdent {
    fn from(ident: InstanceIdent) -> Self {
        Self::from(&ident)
    }
}

impl TryFrom<v1::InstanceIdent> for InstanceIdent {
    type Error = InstanceError;

    fn try_from(wire: v1::InstanceIdent) -> Result<Self, InstanceError> {
        Ok(Self::service(
            ItemId::new(wire.service_id).map_err(InstanceError::Item)?,
            SubjectId::new(wire.subject_id).map_err(InstanceError::Subject)?,
            wire.instance,
        ))
    }
}

impl From<&InstanceIdent> for v1::InstanceIdent {
    fn from(ident: &InstanceIdent) -> Self {
        Self {
            service_id: ident.item.to_string(),
            subject_id: ident.subject.to_string(),
            instance: ident.instance,
        }
    }
}

/// The identity in an optional message field.
pub fn instance(wire: Option<v2::InstanceIdent>) -> Result<InstanceIdent, InstanceError> {
    wire.ok_or(InstanceError::Missing)?.try_into()
}

impl From<ErrorInfo> for v2::ErrorInfo {
    fn from(info: ErrorInfo) -> Self {
        Self { aos_code: info.aos_code, exit_code: info.exit_code, message: info.message }
    }
}

impl From<v2::ErrorInfo> for ErrorInfo {
    fn from(wire: v2::ErrorInfo) -> Self {
        Self { aos_code: wire.aos_code, exit_code: wire.exit_code, message: wire.message }
    }
}

impl From<ErrorInfo> for v1::ErrorInfo {
    fn from(info: ErrorInfo) -> Self {
        Self { aos_code: info.aos_code, exit_code: info.exit_code, message: info.message }
    }
}

impl From<v1::ErrorInfo> for ErrorInfo {
    fn from(wire: v1::ErrorInfo) -> Self {
        Self { aos_code: wire.aos_code, exit_code: wire.exit_code, message: wire.message }
    }
}

/// The error in a message field; absent or code 0 is `None`. Takes `common.v1` and `common.v2`.
pub fn error_from_wire<W: Into<ErrorInfo>>(wire: Option<W>) -> Option<ErrorInfo> {
    wire.map(Into::into).filter(|info| info.aos_code != AosCode::None.number())
}

/// The message field for an error; code 0 is absent. Makes `common.v1` and `common.v2`.
pub fn error_to_wire<W: From<ErrorInfo>>(info: Option<ErrorInfo>) -> Option<W> {
    info.filter(|info| info.aos_code != AosCode::None.number()).map(W::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v2::InstanceIdent {
        v2::InstanceIdent {
            item_id: "item".into(),
            subject_id: "subject".into(),
            instance: 3,
            r#type: v2::ItemType::Component.into(),
            preinstalled: true,
        }
    }

    #[test]
    fn instance_identity_there_and_back() {
        let ident = InstanceIdent::try_from(wire()).unwrap();
        assert_eq!(ident.kind, ItemKind::Component);
        assert_eq!(v2::InstanceIdent::from(&ident), wire());
        assert_eq!(instance(Some(wire())), Ok(ident));
    }

    #[test]
    fn wrong_identities_are_refused() {
        assert_eq!(instance(None), Err(InstanceError::Missing));
        let bad = v2::InstanceIdent { r#type: 7, ..wire() };
        assert_eq!(instance(Some(bad)), Err(InstanceError::Kind(7)));
        let bad = v2::InstanceIdent { item_id: String::new(), ..wire() };
        assert!(matches!(instance(Some(bad)), Err(InstanceError::Item(IdError::Empty { .. }))));
        let bad = v2::InstanceIdent { subject_id: "x".repeat(65), ..wire() };
        assert!(matches!(instance(Some(bad)), Err(InstanceError::Subject(IdError::TooLong { .. }))));
    }

    #[test]
    fn no_error_is_never_sent_and_never_received() {
        let none = ErrorInfo::new(AosCode::None, "");
        assert_eq!(error_to_wire::<v2::ErrorInfo>(Some(none.clone())), None);
        assert_eq!(error_from_wire(Some(v2::ErrorInfo::from(none))), None);
        assert_eq!(error_from_wire(None::<v1::ErrorInfo>), None);
        let failed = ErrorInfo::runtime(2, "gone");
        assert_eq!(
            error_from_wire(error_to_wire::<v1::ErrorInfo>(Some(failed.clone()))),
            Some(failed.clone())
        );
        assert_eq!(error_from_wire(error_to_wire::<v2::ErrorInfo>(Some(failed.clone()))), Some(failed));
    }
}

//! Objects of a token: templates, attributes and searches shared by the other modules.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use rustls_pki_types::CertificateDer;

use crate::TokenError;
use crate::shared::OpError;

/// Longest CKA_ID and CKA_LABEL, bytes.
pub(crate) const MAX_NAME: usize = 32;

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Private half of a key pair.
    PrivateKey,
    /// Public half of a key pair.
    PublicKey,
    /// X.509 certificate.
    Certificate,
    /// Something this system does not make.
    Other,
}

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// CKA_ID; the same for both halves of a key pair and their certificate.
    pub id: Vec<u8>,
    /// CKA_LABEL; the certificate type, empty for certificates of authorities.
    pub label: String,
}

/// CKA_LABEL and CKA_ID, and the class, as a search template.
pub(crate) fn named(class: ObjectClass, id: &[u8], label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(class),
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

/// The first object that fits `template`.
pub(crate) fn find(session: &Session, template: &[Attribute]) -> Result<Option<ObjectHandle>, OpError> {
    Ok(session.find_objects(template)?.into_iter().next())
}

/// The value of an attribute with arbitrary bytes; `None` where the object has none.
pub(crate) fn bytes(
    session: &Session,
    object: ObjectHandle,
    what: AttributeType,
) -> Result<Option<Vec<u8>>, OpError> {
    let attribute = session.get_attributes(object, &[what])?.into_iter().next();
    Ok(attribute.and_then(|attribute| match attribute {
        Attribute::Id(value)
        | Attribute::Label(value)
        | Attribute::Value(value)
        | Attribute::EcParams(value)
        | Attribute::EcPoint(value)
        | Attribute::Modulus(value)
        | Attribute::PublicExponent(value) => Some(value),
        _ => None,
    }))
}

/// The certificate in an object.
pub(crate) fn certificate(
    session: &Session,
    object: ObjectHandle,
) -> Result<CertificateDer<'static>, OpError> {
    let value = bytes(session, object, AttributeType::Value)?;
    Ok(CertificateDer::from(value.ok_or(TokenError::Attribute { what: "a certificate" })?))
}

/// Name and kind of an object.
pub(crate) fn info(session: &Session, object: ObjectHandle) -> Result<ObjectInfo, OpError> {
    let class = session.get_attributes(object, &[AttributeType::Class])?.into_iter().next();
    let kind = match class {
        Some(Attribute::Class(ObjectClass::PRIVATE_KEY)) => ObjectKind::PrivateKey,
        Some(Attribute::Class(ObjectClass::PUBLIC_KEY)) => ObjectKind::PublicKey,
        Some(Attribute::Class(ObjectClass::CERTIFICATE)) => ObjectKind::Certificate,
        _ => ObjectKind::Other,
    };
    let label = bytes(session, object, AttributeType::Label)?.unwrap_or_default();
    Ok(ObjectInfo {
        kind,
        id: bytes(session, object, AttributeType::Id)?.unwrap_or_default(),
        label: String::from_utf8_lossy(&label).into_owned(),
    })
}

/// Lower-case hexadecimal text of an id, for messages.
pub(crate) fn id_text(id: &[u8]) -> String {
    use std::fmt::Write;
    id.iter().fold(String::with_capacity(id.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Refuses names that tokens cannot hold.
pub(crate) fn check_name(what: &'static str, length: usize) -> Result<(), TokenError> {
    if length == 0 || length > MAX_NAME {
        return Err(TokenError::Length { what, length, max: MAX_NAME });
    }
    Ok(())
}

//! Taking an envelope apart. Nothing is copied.

use super::der::{Element, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, SET};
use super::{KeyTransport, MAX_RECIPIENTS, Recipient};
use crate::CryptoError;

pub(super) const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03];
pub(super) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
pub(super) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
pub(super) const AES256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
const AES192_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x16];
const AES128_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02];
/// Parameters of OAEP with SHA-256 as hash and inside MGF1, without a label: with NULL behind the names of the
/// hashes, and without, as OpenSSL writes them.
const OAEP_SHA256: [&[u8]; 2] = [
    &[
        0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
        0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d,
        0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    ],
    &[
        0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0xa1, 0x1a,
        0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0b, 0x06, 0x09,
        0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
    ],
];
const NULL: &[u8] = &[0x05, 0x00];
/// `[0]` and `[1]`, constructed; `[0]`, primitive.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
const CONTENT: u8 = 0x80;

/// An envelope in its parts.
pub(super) struct Enveloped<'a> {
    /// Copies of the content key that RSA keys can unwrap; others are left out.
    pub recipients: Vec<Copy<'a>>,
    /// The cipher in our words.
    pub cipher: &'static str,
    /// Bytes of its key.
    pub key_length: usize,
    pub iv: &'a [u8],
    pub content: &'a [u8],
}

/// A wrapped content key.
pub(super) struct Copy<'a> {
    pub recipient: Recipient<'a>,
    pub transport: KeyTransport,
    pub wrapped: &'a [u8],
}

pub(super) fn parse(envelope: &[u8]) -> Result<Enveloped<'_>, CryptoError> {
    let bad = CryptoError::Envelope;
    let mut outer = Reader(envelope);
    let content_info = outer.expect(SEQUENCE).ok_or(bad("it is no DER sequence of definite length"))?;
    if !outer.is_empty() {
        return Err(bad("bytes follow it"));
    }
    let mut content_info = Reader(content_info.content);
    if content_info.expect(OID).map(|oid| oid.content) != Some(ENVELOPED_DATA) {
        return Err(bad("it is no EnvelopedData"));
    }
    let enveloped = single(content_info.expect(CONTEXT_0), SEQUENCE).ok_or(bad("it has no EnvelopedData"))?;
    let mut parts = Reader(enveloped.content);
    parts.expect(INTEGER).ok_or(bad("it has no version"))?;
    if parts.peek() == Some(CONTEXT_0) {
        // Certificates of the originator, which nothing here asks for.
        parts.next().ok_or(bad("its originator is damaged"))?;
    }
    let recipients = parts.expect(SET).ok_or(bad("it has no recipients"))?;
    let recipients = copies(Reader(recipients.content))?;
    let content = parts.expect(SEQUENCE).ok_or(bad("it has no content"))?;
    if parts.peek() == Some(CONTEXT_1) {
        parts.next().ok_or(bad("its attributes are damaged"))?;
    }
    if !parts.is_empty() || !content_info.is_empty() {
        return Err(bad("it has parts that nobody defined"));
    }
    let mut content = Reader(content.content);
    content.expect(OID).ok_or(bad("its content has no type"))?;
    let (algorithm, parameters) =
        content.expect(SEQUENCE).and_then(algorithm).ok_or(bad("its content has no cipher"))?;
    let (cipher, key_length) = match algorithm {
        AES256_CBC => ("AES256/CBC", 32),
        AES192_CBC => ("AES192/CBC", 24),
        AES128_CBC => ("AES128/CBC", 16),
        _ => return Err(bad("its cipher is not AES in CBC mode")),
    };
    let iv = Reader(parameters).expect(OCTET_STRING).filter(|iv| iv.content.len() == 16);
    let iv = iv.filter(|iv| iv.whole.len() == parameters.len());
    let iv = iv.ok_or(bad("its cipher has no initialisation vector of 16 bytes"))?.content;
    let encrypted = content.expect(CONTENT).ok_or(bad("its content is missing or in pieces"))?;
    if !content.is_empty() {
        return Err(bad("something follows its content"));
    }
    Ok(Enveloped { recipients, cipher, key_length, iv, content: encrypted.content })
}

fn copies(mut set: Reader<'_>) -> Result<Vec<Copy<'_>>, CryptoError> {
    let bad = CryptoError::Envelope;
    let (mut copies, mut count) = (Vec::new(), 0);
    while !set.is_empty() {
        count += 1;
        if count > MAX_RECIPIENTS {
            return Err(bad("it has more than 64 recipients"));
        }
        let info = set.next().ok_or(bad("a recipient is damaged"))?;
        // Other kinds of recipients have other tags; they are not ours.
        if info.tag == SEQUENCE {
            copies.extend(copy(Reader(info.content))?);
        }
    }
    Ok(copies)
}

/// A copy of the content key, if it names issuer and serial number and is wrapped in a way we know.
fn copy(mut info: Reader<'_>) -> Result<Option<Copy<'_>>, CryptoError> {
    let damaged = CryptoError::Envelope("a recipient is damaged");
    let mut parts = || {
        info.expect(INTEGER)?;
        let name = info.next()?;
        let algorithm = algorithm(info.expect(SEQUENCE)?)?;
        let wrapped = info.expect(OCTET_STRING)?.content;
        info.is_empty().then_some((name, algorithm, wrapped))
    };
    let Some((name, (algorithm, parameters), wrapped)) = parts() else { return Err(damaged) };
    if name.tag != SEQUENCE {
        return Ok(None);
    }
    let mut name = Reader(name.content);
    let issuer = name.expect(SEQUENCE).map(|issuer| issuer.whole);
    let serial = name.expect(INTEGER).map(|serial| serial.content).filter(|_| name.is_empty());
    let (Some(issuer), Some(serial)) = (issuer, serial) else { return Err(damaged) };
    let transport = match (algorithm, parameters) {
        (RSA_ENCRYPTION, [] | NULL) => KeyTransport::Pkcs1,
        (RSA_OAEP, parameters) => match Reader(parameters).expect(SEQUENCE).map(|inner| inner.content) {
            Some([]) => KeyTransport::OaepSha1,
            Some(inner) if OAEP_SHA256.contains(&inner) => KeyTransport::OaepSha256,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Copy { recipient: Recipient { issuer, serial }, transport, wrapped }))
}

/// The identifier of an algorithm and everything behind it.
fn algorithm(sequence: Element<'_>) -> Option<(&[u8], &[u8])> {
    let mut parts = Reader(sequence.content);
    let oid = parts.expect(OID)?.content;
    Some((oid, parts.0))
}

/// The one value inside a wrapper.
fn single(wrapper: Option<Element<'_>>, tag: u8) -> Option<Element<'_>> {
    let mut inner = Reader(wrapper?.content);
    inner.expect(tag).filter(|_| inner.is_empty())
}

//! What comes with deployables: their documents, sealed frames, certificates.

use std::time::{Duration, SystemTime};

use aos_blob_crypto::{ChainStore, cms};
use aos_cloud_protocol::is_enveloped;
use aos_item_format::{
    AllowedConnection, FormatError, ImageConfig, Index, ItemConfig, Manifest, NodeConfig, UnitConfig,
    read_resources,
};

use super::check_complaint;

/// A document of an item or a Unit: whichever form it can be read in, it stays the same when written.
pub fn target_item_format(data: &[u8]) {
    document(data, Index::read, Index::write);
    document(data, Manifest::read, Manifest::write);
    document(data, ImageConfig::read, ImageConfig::write);
    document(data, ItemConfig::read, ItemConfig::write);
    document(data, UnitConfig::read, UnitConfig::write);
    document(data, NodeConfig::read, NodeConfig::write);
    if let Err(error) = read_resources(data) {
        check_complaint(&error);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(connection) = text.parse::<AllowedConnection>()
    {
        assert_eq!(connection.to_string().parse(), Ok(connection));
    }
}

fn document<D>(data: &[u8], read: impl Fn(&[u8]) -> Result<D, FormatError>, write: impl Fn(&D) -> Vec<u8>) {
    match read(data) {
        Ok(document) => {
            let text = write(&document);
            let again =
                read(&text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
            assert_eq!(write(&again), text, "writing changes what was written");
        }
        Err(error) => check_complaint(&error),
    }
}

/// A frame sealed for the Unit; the key that the token hands out is always the same.
pub fn target_cms(data: &[u8]) {
    let _ = is_enveloped(data);
    for length in [16, 24, 32] {
        let find = |recipient: &cms::Recipient<'_>| {
            let _ = recipient.is(data);
            Some(move |_: cms::KeyTransport, wrapped: &[u8]| (wrapped.len() > 1).then(|| vec![7; length]))
        };
        match cms::open(data, find) {
            Ok(content) => assert!(content.len() <= data.len()),
            Err(error) => check_complaint(&error),
        }
    }
}

/// Certificates of signers: the input is cut into a root and a leaf.
pub fn target_certificate_chain(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let at = data.len() * usize::from(*first) / 256;
    let (root, leaf) = data.split_at(at);
    let certificates = [("ROOT".to_owned(), root.to_vec()), ("LEAF".to_owned(), leaf.to_vec())];
    let chains = [("c".to_owned(), vec!["leaf".to_owned(), "root".to_owned()])];
    let store = ChainStore::new(certificates, chains, [root.to_vec()]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    for trusted in [None, Some(now), Some(SystemTime::UNIX_EPOCH)] {
        if let Err(error) = store.signer("c", trusted, now) {
            check_complaint(&error);
        }
    }
}

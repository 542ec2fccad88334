//! The documents by which a Unit gets certificates without a session.

use aos_recovery_protocol::{
    Certificates, CertificatesRequest, Challenge, ChallengeRequest, Refusal, listing, signed_by, stated,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Either side's documents. Requests that differ never have the same text to be signed, and nothing found in
/// a document is a signature of it.
pub fn target_recovery(data: &[u8]) {
    document::<ChallengeRequest>(data);
    document::<Challenge>(data);
    document::<Certificates>(data);
    document::<Refusal>(data);
    let Some(request) = document::<CertificatesRequest>(data) else { return };
    let text = listing(&request.requests);
    for place in 0..request.requests.len() {
        let mut others = request.requests.clone();
        let one = &mut others[place];
        if let Some(last) = one.cert_type.pop() {
            one.node.insert(0, last);
            assert_ne!(listing(&others), text, "a letter may go over to the next part");
        }
        let mut fewer = request.requests.clone();
        fewer.remove(place);
        assert_ne!(listing(&fewer), text, "a request may be left out");
    }
    let message = stated(&request.challenge, &request.system_id, &request.requests);
    let signature = request.signature.unwrap_or_default();
    for one in &request.requests {
        assert!(!signed_by(one.csr.as_bytes(), &message, signature.as_bytes()), "signed by a request");
    }
}

fn document<D: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<D> {
    // The complaint may quote what was read; both ends cut it before they tell it.
    let document = serde_json::from_slice::<D>(data).ok()?;
    let text = serde_json::to_vec(&document).unwrap();
    assert_eq!(serde_json::from_slice::<D>(&text).unwrap(), document, "writing changes it");
    Some(document)
}

//! `requestBlobUrls`: where blobs are, for Units that may have them.

use aos_cloud_blobs::{BLOCK_ALG, Blobs, SIGN_ALG};
use aos_cloud_broker::Origin;
use aos_cloud_protocol::{
    Base64Bytes, BlobInfo, BlobUrls, Body, DecryptInfo, RequestBlobUrls, ServedHash, SignInfo,
};
use aos_cloud_store::now_micros;
use aos_ids::Digest;
use jiff::Timestamp;

use crate::error::FlowError;
use crate::flows::Flows;

/// Addresses for the blobs that the Unit may have, in the order of the request. What does not exist or is
/// not the Unit's business is left out.
pub(crate) async fn addresses(
    flows: &Flows,
    blobs: &Blobs,
    origin: &Origin,
    request: &RequestBlobUrls,
) -> Result<Body, FlowError> {
    let mut items = Vec::with_capacity(request.digests.len());
    for digest in &request.digests {
        if flows.store.unit_may_fetch(&origin.unit_id, &digest.to_string()).await? {
            items.extend(describe(blobs, &flows.inner.addresses.blobs, digest).await?);
        } else {
            let unit = origin.system_id.as_str();
            tracing::warn!(unit, "asks for {digest}, which belongs to nothing assigned to it");
        }
    }
    Ok(Body::BlobUrls(BlobUrls { items }))
}

async fn describe(blobs: &Blobs, base: &str, digest: &Digest) -> Result<Option<BlobInfo>, FlowError> {
    let Some(blob) = blobs.find(digest).await? else { return Ok(None) };
    let sha256 = ServedHash::parse(&blob.sha3).ok_or(FlowError::Value("blob hash"))?;
    let signed_at =
        Timestamp::from_second(blob.signed_at).map_err(|_| FlowError::Value("time of signature"))?;
    Ok(Some(BlobInfo {
        digest: *digest,
        urls: vec![format!("{base}{}", blobs.address(digest, now_micros() / 1_000_000))],
        sha256,
        size: blob.served_size,
        decrypt_info: Some(DecryptInfo {
            block_alg: BLOCK_ALG.to_owned(),
            block_key: Base64Bytes(blobs.content_key(&blob)?),
            block_iv: Base64Bytes(blob.iv),
        }),
        sign_info: Some(SignInfo {
            chain_name: blob.chain_name,
            alg: SIGN_ALG.to_owned(),
            value: Base64Bytes(blob.signature),
            trusted_timestamp: Some(signed_at),
            ocsp_values: Vec::new(),
        }),
    }))
}

//! The issuerAltName extension, which carries the service discovery URL of `online` certificates.

use rcgen::CustomExtension;

const ISSUER_ALT_NAME: [u64; 4] = [2, 5, 29, 18];
/// GeneralName choice `[6] uniformResourceIdentifier`.
const URI_TAG: u8 = 0x86;
const SEQUENCE_TAG: u8 = 0x30;

/// issuerAltName with exactly one URI: upstream Units cannot hold a second one.
pub(crate) fn issuer_alt_name(uri: &str) -> CustomExtension {
    let name = element(URI_TAG, uri.as_bytes());
    CustomExtension::from_oid_content(&ISSUER_ALT_NAME, element(SEQUENCE_TAG, &name))
}

/// A DER element with the shortest length form.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let digits: Vec<u8> = length.iter().copied().skip_while(|byte| *byte == 0).collect();
    match digits.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        // A usize has at most 8 digits, so the count fits the low bits.
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

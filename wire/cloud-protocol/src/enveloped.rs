//! Telling sealed frames from plain ones.

/// True when a frame is no JSON but a CMS envelope around one: DER sequences begin with 0x30, which is the
/// digit 0 as text and therefore no beginning of a message. Opening it is the business of whoever has the key.
pub fn is_enveloped(frame: &[u8]) -> bool {
    frame.first() == Some(&0x30)
}

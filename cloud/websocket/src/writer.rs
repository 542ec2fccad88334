//! Writing frames.

use crate::{BINARY, CLOSE, MAX_CONTROL, PING, PONG};

/// A frame to write; always whole, never in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message.
    Binary(&'a [u8]),
    /// A sign of life is wanted. At most 125 bytes; what is longer is cut.
    Ping(&'a [u8]),
    /// A sign of life. At most 125 bytes; what is longer is cut.
    Pong(&'a [u8]),
    /// The end, with the content of [`close_payload`].
    Close(&'a [u8]),
}

/// Writes a frame; a client gives the mask.
pub fn encode(frame: Frame<'_>, mask: Option<[u8; 4]>) -> Vec<u8> {
    let (opcode, content) = match frame {
        Frame::Binary(content) => (BINARY, content),
        Frame::Ping(content) => (PING, control(content)),
        Frame::Pong(content) => (PONG, control(content)),
        Frame::Close(content) => (CLOSE, control(content)),
    };
    let mut bytes = Vec::with_capacity(content.len() + 14);
    bytes.push(0x80 | opcode);
    let masked: u8 = if mask.is_some() { 0x80 } else { 0 };
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(length @ 0..=125), _) => bytes.push(masked + length),
        (_, Ok(length)) => {
            bytes.push(masked + 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            bytes.push(masked + 127);
            bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
        }
    }
    let start = match mask {
        Some(mask) => {
            bytes.extend_from_slice(&mask);
            bytes.len()
        }
        None => bytes.len(),
    };
    bytes.extend_from_slice(content);
    if let (Some(mask), Some(content)) = (mask, bytes.get_mut(start..)) {
        apply_mask(content, mask, 0);
    }
    bytes
}

/// Content of a close frame: a code and a reason, cut to what fits.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    let mut end = reason.len().min(MAX_CONTROL - payload.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
    payload
}

fn control(content: &[u8]) -> &[u8] {
    content.get(..MAX_CONTROL).unwrap_or(content)
}

/// Masks or unmasks bytes that begin `offset` bytes into the content of their frame.
pub(crate) fn apply_mask(bytes: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

//! The few DER encodings that tokens leave to their users.

/// An INTEGER from big-endian bytes that are meant unsigned.
pub(crate) fn integer(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|&&byte| byte == 0).count();
    let mut content = magnitude[zeros..].to_vec();
    if content.first().is_none_or(|&first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    tagged(0x02, &content)
}

/// A SEQUENCE of encoded parts.
pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|&&byte| byte == 0).count();
    let mut encoded = vec![tag];
    match (&length[zeros..], content.len()) {
        (_, 0) => encoded.push(0),
        ([short], 1..128) => encoded.push(*short),
        (long, _) => {
            // A length has at most eight bytes.
            encoded.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            encoded.extend_from_slice(long);
        }
    }
    encoded.extend_from_slice(content);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stay_positive_and_short() {
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(integer(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn lengths() {
        assert_eq!(sequence(&[]), [0x30, 0]);
        assert_eq!(sequence(&[vec![0; 127]])[..2], [0x30, 127]);
        assert_eq!(sequence(&[vec![0; 128]])[..3], [0x30, 0x81, 128]);
        assert_eq!(sequence(&[vec![0; 256]])[..4], [0x30, 0x82, 1, 0]);
    }
}

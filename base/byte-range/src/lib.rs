//! The `Range` header of HTTP (RFC 9110, section 14), single byte ranges only.
//!
//! A pure function for the servers of blobs, on the Unit and in the cloud. What is no single byte range counts
//! as no range at all, as the RFC allows; a part never leaves the file.

/// What part of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it: no range, or one that we may ignore (other unit, several ranges, bad syntax).
    Whole,
    /// `length` bytes from `start`.
    Bytes {
        /// First byte.
        start: u64,
        /// At least 1.
        length: u64,
    },
    /// A range outside the file.
    Unsatisfiable,
}

/// Reads the header's value for a file of `size` bytes.
pub fn part(header: &str, size: u64) -> Part {
    let Some((unit, spec)) = header.split_once('=') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are beyond any file.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            None => Part::Whole,
            Some(0) => Part::Unsatisfiable,
            Some(_) if size == 0 => Part::Unsatisfiable,
            Some(count) => Part::Bytes { start: size.saturating_sub(count), length: count.min(size) },
        },
        (first, last) => {
            let Some(start) = number(first) else { return Part::Whole };
            let end = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match end {
                Some(end) if end < start => Part::Whole,
                None => Part::Whole,
                Some(_) if start >= size => Part::Unsatisfiable,
                Some(end) => Part::Bytes { start, length: end.min(size - 1) - start + 1 },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Part, part};

    #[test]
    fn forms_of_ranges() {
        let bytes = |start, length| Part::Bytes { start, length };
        for (header, expected) in [
            ("bytes=0-", bytes(0, 10)),
            ("bytes=3-5", bytes(3, 3)),
            ("Bytes = 3-500", bytes(3, 7)),
            ("bytes=-4", bytes(6, 4)),
            ("bytes=-40", bytes(0, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-3", Part::Whole),
            ("bytes=1-2,4-5", Part::Whole),
            ("bytes=a-", Part::Whole),
            ("items=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(header, 10), expected, "{header}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part("bytes=-1", 0), Part::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_range_never_leaves_the_file(header in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
            if let Part::Bytes { start, length } = part(&header, size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}

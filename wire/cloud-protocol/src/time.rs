//! Points in time on the wire.
//!
//! Written as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, always UTC and always six digits. Read with or without
//! fraction and with any offset; a time without offset is UTC, as upstream Units mean it.

use jiff::Timestamp;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serializer, de};

/// The wire form of `time`.
pub fn to_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads a wire time; `None` when it is none. Digits behind the nanoseconds are cut.
pub fn from_text(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (head, rest) = (text.get(..19)?, text.get(19..)?);
    let form = head.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        10 => matches!(byte, b'T' | b't' | b' '),
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    if !form {
        return None;
    }
    let number = |from: usize, to: usize| head.get(from..to).and_then(|digits| digits.parse::<i8>().ok());
    let year = head.get(..4)?.parse::<i16>().ok()?;
    let (fraction, offset) = split_fraction(rest)?;
    // A leap second has no place on this time scale; the second before is the nearest.
    let second = number(17, 19)?.min(59);
    let local = DateTime::new(
        year,
        number(5, 7)?,
        number(8, 10)?,
        number(11, 13)?,
        number(14, 16)?,
        second,
        fraction,
    );
    jiff::tz::Offset::from_seconds(offset_seconds(offset)?).ok()?.to_timestamp(local.ok()?).ok()
}

/// Nanoseconds of a `.123` in front of the offset, and the offset.
fn split_fraction(rest: &str) -> Option<(i32, &str)> {
    let Some(digits) = rest.strip_prefix(['.', ',']) else { return Some((0, rest)) };
    let end = digits.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, offset) = digits.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let nanoseconds = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some((nanoseconds.fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0')), offset))
}

/// Seconds east of UTC of `Z`, `+02:00`, `+0200`, `+02` or nothing.
fn offset_seconds(text: &str) -> Option<i32> {
    if text.is_empty() || text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits = digits.replacen(':', "", 1);
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = if digits.len() == 4 { digits.get(2..)?.parse().ok()? } else { 0 };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_text(*time))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    from_text(&text).ok_or_else(|| not_a_time(&text))
}

fn not_a_time<E: de::Error>(text: &str) -> E {
    E::custom(format_args!("'{}' is no time", text.chars().take(40).collect::<String>()))
}

/// Optional times. The empty text and 0 are read as absent: some peers write "for ever" that way.
pub(crate) mod optional {
    use super::{Deserialize, Deserializer, Serializer, Timestamp, from_text, not_a_time, to_text};

    #[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&to_text(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        match Option::<String>::deserialize(deserializer)?.as_deref().map(str::trim) {
            None | Some("" | "0") => Ok(None),
            Some(text) => from_text(text).map(Some).ok_or_else(|| not_a_time(text)),
        }
    }
}

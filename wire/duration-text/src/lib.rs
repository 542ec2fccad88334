//! Duration texts: `1h30m`, `P1DT2H`, bare seconds.
//!
//! Three notations are read: a sequence of `<whole number><unit>` with the units `ns us µs ms s m h d w y`,
//! ISO 8601 with whole numbers in fixed order (`P1Y2M3W4DT5H6M7S`), and a bare number of seconds, which may
//! have a fraction and is kept to the millisecond. A year is 365.2425 days and a month its twelfth. Negative
//! durations are refused: nothing in the system has a use for them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

const NS: u128 = 1;
const US: u128 = 1_000 * NS;
const MS: u128 = 1_000 * US;
const SECOND: u128 = 1_000 * MS;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;
const DAY: u128 = 24 * HOUR;
const WEEK: u128 = 7 * DAY;
/// 365.2425 days are a whole number of seconds.
const YEAR: u128 = 31_556_952 * SECOND;
const MONTH: u128 = YEAR / 12;

/// Longest accepted text, bytes.
const MAX_TEXT: usize = 100;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// None of the three notations.
    #[error("'{0}' is no duration (expected e.g. 10s, 1h30m, PT10S)")]
    NotADuration(String),
    /// Below zero.
    #[error("'{0}' is a negative duration")]
    Negative(String),
    /// More than about 584 years.
    #[error("'{0}' is too long a duration")]
    TooLong(String),
}

/// Reads a duration text of any notation.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let shown = || text.chars().take(40).collect::<String>();
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.len() > MAX_TEXT {
        return Err(DurationError::NotADuration(shown()));
    }
    let (negative, body) = match trimmed.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, trimmed),
    };
    let nanos = if let Some(iso) = body.strip_prefix('P') {
        iso_nanos(iso)
    } else if body.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        seconds_nanos(body)
    } else {
        unit_nanos(body)
    };
    let nanos = match nanos {
        Ok(nanos) => nanos,
        Err(Bad::Form) => return Err(DurationError::NotADuration(shown())),
        Err(Bad::Size) => return Err(DurationError::TooLong(shown())),
    };
    if negative && nanos > 0 {
        return Err(DurationError::Negative(shown()));
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::TooLong(shown()))
}

/// Writes a duration so that every Unit can read it: ISO 8601 (`P1DT2H`, `PT10S`, `PT0S`).
///
/// Older Units read whole numbers only in ISO 8601, so a duration that is no whole number of seconds is
/// written as a sequence instead, such as `1s500ms`.
pub fn format(duration: Duration) -> String {
    use fmt::Write;
    let mut text = String::new();
    let (mut seconds, mut nanos) = (duration.as_secs(), duration.subsec_nanos());
    // Writing to a String cannot fail.
    if nanos != 0 {
        if seconds != 0 {
            let _ = write!(text, "{seconds}s");
        }
        for (unit, size) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] {
            if nanos / size != 0 {
                let _ = write!(text, "{}{unit}", nanos / size);
                nanos %= size;
            }
        }
        return text;
    }
    if seconds == 0 {
        return "PT0S".to_owned();
    }
    text.push('P');
    if seconds >= 86_400 {
        let _ = write!(text, "{}D", seconds / 86_400);
        seconds %= 86_400;
    }
    if seconds > 0 {
        text.push('T');
    }
    for (unit, size) in [('H', 3600), ('M', 60), ('S', 1)] {
        if seconds / size != 0 {
            let _ = write!(text, "{}{unit}", seconds / size);
            seconds %= size;
        }
    }
    text
}

enum Bad {
    Form,
    Size,
}

/// Splits the leading whole number off.
fn number(text: &str) -> Result<(u128, &str), Bad> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(Bad::Form);
    }
    let (digits, rest) = text.split_at(digits);
    // A number beyond u64 exceeds the range in any unit, so it need not be told from other overflows.
    let value: u64 = digits.parse().map_err(|_| Bad::Size)?;
    Ok((u128::from(value), rest))
}

fn unit_nanos(mut text: &str) -> Result<u128, Bad> {
    let mut total: u128 = 0;
    while !text.is_empty() {
        let (value, rest) = number(text)?;
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let size = match unit {
            "ns" => NS,
            // Both the micro sign and the Greek letter are in use.
            "us" | "\u{b5}s" | "\u{3bc}s" => US,
            "ms" => MS,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            "w" => WEEK,
            "y" => YEAR,
            _ => return Err(Bad::Form),
        };
        total += value * size;
        text = rest;
    }
    Ok(total)
}

fn iso_nanos(text: &str) -> Result<u128, Bad> {
    let (date, time) = match text.split_once('T') {
        Some((_, "")) => return Err(Bad::Form),
        Some((date, time)) => (date, time),
        None => (text, ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(Bad::Form);
    }
    let date = iso_part(date, &[('Y', YEAR), ('M', MONTH), ('W', WEEK), ('D', DAY)])?;
    Ok(date + iso_part(time, &[('H', HOUR), ('M', MINUTE), ('S', SECOND)])?)
}

/// Reads `<number><letter>` pairs whose letters appear in the order of `units`, each at most once.
fn iso_part(mut text: &str, mut units: &[(char, u128)]) -> Result<u128, Bad> {
    let mut total: u128 = 0;
    while !text.is_empty() {
        let (value, rest) = number(text)?;
        let letter = rest.chars().next().ok_or(Bad::Form)?;
        let position = units.iter().position(|(unit, _)| *unit == letter).ok_or(Bad::Form)?;
        total += value * units[position].1;
        units = &units[position + 1..];
        text = &rest[letter.len_utf8()..];
    }
    Ok(total)
}

fn seconds_nanos(text: &str) -> Result<u128, Bad> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || (fraction.is_empty() && text.contains('.')) || fraction.contains('.') {
        return Err(Bad::Form);
    }
    let (seconds, _) = number(whole)?;
    let mut millis = 0;
    for (place, digit) in [100, 10, 1].iter().zip(fraction.bytes()) {
        millis += place * u128::from(digit - b'0');
    }
    // Rounded at the fourth digit, as upstream rounds at the first.
    if fraction.as_bytes().get(3).is_some_and(|digit| *digit >= b'5') {
        millis += 1;
    }
    Ok(seconds * SECOND + millis * MS)
}

/// A duration in a JSON document: read from a text of any notation or from a number of seconds, written as
/// text by [`format()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for DurationText {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<DurationText> for Duration {
    fn from(text: DurationText) -> Self {
        text.0
    }
}

impl FromStr for DurationText {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Self)
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format(self.0))
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration text or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<DurationText, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<DurationText, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<DurationText, E> {
                if !seconds.is_finite() {
                    return Err(E::custom(DurationError::NotADuration(seconds.to_string())));
                }
                self.visit_str(&format!("{seconds:.6}"))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests;

//! Shares in percent as documents write them: kept to a millionth, so that a document that was read and written
//! says the same when it is read again. A reader of JSON is exact for so few digits only.

use serde::{Deserialize, Deserializer};

const PARTS: f64 = 1e6;
/// Beyond any percentage, and far below where a millionth can no longer be told.
const MOST: f64 = 1e9;

/// The share that is kept.
pub(crate) fn rounded(percent: f64) -> f64 {
    (percent.clamp(-MOST, MOST) * PARTS).round() / PARTS
}

/// For shares that may be missing.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(rounded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_is_read_again(percent in any::<f64>().prop_filter("a number", |value| value.is_finite())) {
            let kept = rounded(percent);
            let again: f64 = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
            prop_assert_eq!(again.to_bits(), kept.to_bits());
            prop_assert!((kept - percent.clamp(-MOST, MOST)).abs() < 1e-6);
        }

        #[test]
        fn percentages_of_many_digits_too(whole in 0..100u8, part in "[0-9]{1,30}") {
            let kept = rounded(serde_json::from_str(&format!("{whole}.{part}")).unwrap());
            let again: f64 = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
            prop_assert_eq!(again.to_bits(), kept.to_bits());
        }
    }
}

//! Choosing a version.

use aos_ids::Version;

/// The word that follows the highest version.
pub const LATEST: &str = "latest";

/// The version of `known` that `wanted` means: itself, or for [`LATEST`] the highest release, or the highest
/// pre-release when there is no release.
pub fn resolve<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut parsed = known.into_iter().filter_map(|text| Some((Version::parse(text).ok()?, text)));
    if wanted != LATEST {
        let wanted = Version::parse(wanted).ok()?;
        return parsed.find(|(version, _)| *version == wanted).map(|(_, text)| text);
    }
    parsed
        .max_by(|(one, _), (two, _)| (one.pre.is_empty(), one).cmp(&(two.pre.is_empty(), two)))
        .map(|(_, text)| text)
}

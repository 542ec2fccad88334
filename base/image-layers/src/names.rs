//! Names inside a layer: what is allowed, and how whiteout markers are spelt.
//!
//! A layer may only name things below its own root. Names that climb, start at the root or cannot exist on
//! disk are refused, never repaired: a layer with one of them is either broken or hostile.

/// Longest name of one entry, bytes.
const MAX_NAME: usize = 255;
/// Longest path, bytes.
const MAX_PATH: usize = 4096;
/// Deepest nesting.
const MAX_DEPTH: usize = 128;

/// A checked path: its parts from the layer's root; empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    parts: Vec<&'a [u8]>,
}

/// What a name means for the layer.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The root folder.
    Root,
    /// An entry with this name.
    Entry(&'a [u8]),
    /// The entry of this name in lower layers is hidden.
    Hides(&'a [u8]),
    /// Everything lower layers have in this folder is hidden.
    Opaque,
    /// Bookkeeping of an old union file system; skipped.
    Skipped,
}

impl<'a> Path<'a> {
    /// Checks a path of an entry or the target of a hard link.
    pub fn check(path: &'a [u8]) -> Result<Self, &'static str> {
        if path.len() > MAX_PATH {
            return Err("the path is too long");
        }
        // Some tools spell the root itself so.
        if path.first() == Some(&b'/') && path.iter().any(|&byte| byte != b'/') {
            return Err("the path is absolute");
        }
        if path.contains(&0) {
            return Err("the path holds a zero byte");
        }
        let mut parts = Vec::new();
        for part in path.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err("the path climbs with '..'"),
                part if part.len() > MAX_NAME => return Err("a name is too long"),
                part => parts.push(part),
            }
        }
        if parts.len() > MAX_DEPTH {
            return Err("the path is too deep");
        }
        Ok(Self { parts })
    }

    /// Folders above the entry, from the root.
    pub fn parents(&self) -> &[&'a [u8]] {
        self.parts.split_last().map_or(&[], |(_, parents)| parents)
    }

    /// What the last part means.
    pub fn meaning(&self) -> Result<Meaning<'a>, &'static str> {
        if self.parents().iter().any(|part| part.starts_with(b".wh.")) {
            return Err("a whiteout is used as a folder");
        }
        let Some(name) = self.parts.last() else { return Ok(Meaning::Root) };
        Ok(match name.strip_prefix(b".wh.") {
            None => Meaning::Entry(name),
            Some(b".wh..opq") => Meaning::Opaque,
            Some(rest) if rest.starts_with(b".wh.") => Meaning::Skipped,
            Some(b"" | b"." | b"..") => return Err("the whiteout names nothing"),
            Some(hidden) => Meaning::Hides(hidden),
        })
    }

    /// Checks that a relative link made at this path does not lead above the root. Absolute targets are fine:
    /// they are resolved inside the container.
    pub fn check_symlink(&self, target: &[u8]) -> Result<(), &'static str> {
        if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
            return Err("the link's target is not usable");
        }
        if target.first() == Some(&b'/') {
            return Ok(());
        }
        let mut depth = self.parents().len();
        for part in target.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => depth = depth.checked_sub(1).ok_or("the link leads above the root")?,
                _ => depth += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in [&b"/etc/passwd"[..], b"../x", b"a/../../x", b"a/..", b"a\0b", &[b'x'; 256], b"//a"] {
            assert!(Path::check(bad).is_err(), "{bad:?}");
        }
        let deep = b"d/".repeat(129);
        assert!(Path::check(&deep).is_err());
        let long = b"dddddddd/".repeat(500);
        assert!(Path::check(&long).is_err());
    }

    #[test]
    fn whiteouts_are_understood() {
        let meaning = |path: &'static [u8]| Path::check(path).unwrap().meaning();
        assert_eq!(meaning(b"./"), Ok(Meaning::Root));
        assert_eq!(meaning(b"/"), Ok(Meaning::Root));
        assert_eq!(meaning(b"./a/b/"), Ok(Meaning::Entry(b"b")));
        assert_eq!(meaning(b"a/.wh.b"), Ok(Meaning::Hides(b"b")));
        assert_eq!(meaning(b"a/.wh..wh..opq"), Ok(Meaning::Opaque));
        assert_eq!(meaning(b".wh..wh.plnk"), Ok(Meaning::Skipped));
        assert!(meaning(b"a/.wh...").is_err());
        assert!(meaning(b"a/.wh..").is_err());
        assert!(meaning(b".wh.a/b").is_err());
    }

    #[test]
    fn links_may_not_lead_above_the_root() {
        let check = |path: &'static [u8], target: &[u8]| Path::check(path).unwrap().check_symlink(target);
        assert!(check(b"usr/lib/x", b"../../etc/x").is_ok());
        assert!(check(b"usr/lib/x", b"../../../etc/x").is_err());
        assert!(check(b"x", b"a/../../b").is_err());
        assert!(check(b"x", b"/anywhere").is_ok());
        assert!(check(b"x", b"").is_err());
    }

    proptest! {
        // Whatever passes the check stays below the root when joined part by part.
        #[test]
        fn checked_paths_never_climb(path in proptest::collection::vec(proptest::sample::select(b"./a\0".to_vec()), 0..40)) {
            if let Ok(checked) = Path::check(&path) {
                for part in &checked.parts {
                    prop_assert!(*part != b".." && *part != b"." && !part.is_empty() && !part.contains(&b'/'));
                }
            }
        }
    }
}

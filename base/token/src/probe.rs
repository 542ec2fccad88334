//! Lets a test see every call that changes a token, before it is made and after it, so that it can end the
//! process there. Calls that only read leave everything as the change before them did. Compiled in only with the
//! feature `probe`.

#[cfg(feature = "probe")]
static PROBE: std::sync::OnceLock<fn(&'static str)> = std::sync::OnceLock::new();

/// Calls `probe` with the name of each step from now on; the first one given stays.
#[cfg(feature = "probe")]
pub fn set_probe(probe: fn(&'static str)) {
    let _ = PROBE.set(probe);
}

#[cfg(feature = "probe")]
pub(crate) fn step(name: &'static str) {
    if let Some(probe) = PROBE.get() {
        probe(name);
    }
}

#[cfg(not(feature = "probe"))]
pub(crate) const fn step(_name: &'static str) {}

//! Packs the program's relocations: unpacked they take a megabyte that every process reads at its start.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Understood by the loader of glibc 2.36 and newer, the oldest we support (Debian 12).
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

//! Where the programs under test are: next to the running one, as cargo puts them, or in the folder that the
//! environment variable `AOS_BIN_DIR` names, to test programs that were built elsewhere.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried};

/// The program `name` of this build.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Unexpected(format!(
        "{} is missing; build it with `cargo build --workspace --bins` (as `make test` does)",
        path.display()
    )))
}

/// The folder of the programs: of a test program the one above `deps`.
pub fn folder() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("AOS_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().tried(|| "cannot find this program's file".to_owned())?;
    let dir = exe.parent().unwrap_or(Path::new("/"));
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_path_buf())
}

//! SoftHSM for real. The module reads its configuration from the environment when it is initialised, so
//! every test runs in a process of its own that [`with_softhsm`] starts.

mod certificates;
mod keys;
mod tls;
mod tokens;
mod urls;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::{AuthPin, Library, SlotChoice, Token, TokenSession};

const MODULE: &str = crate::DEFAULT_MODULE;
const MARK: &str = "AOS_TOKEN_TEST_DIR";

/// Runs `body` with a folder of its own and an empty SoftHSM below it. `name` is the full name of the test.
fn with_softhsm(name: &str, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(MARK) {
        return body(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = dir.path().join("softhsm2.conf");
    std::fs::write(
        &configuration,
        format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()),
    )
    .unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(MARK, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn pin(text: &str) -> AuthPin {
    AuthPin::from(text.to_owned())
}

fn library() -> Arc<Library> {
    Library::open(MODULE).unwrap()
}

/// A token "aos" with the user PIN 4711.
fn new_token() -> Token {
    let token = library().find_token(&SlotChoice::Label("aos".into())).unwrap().unwrap();
    token.init(&pin("owner"), "aos", &pin("4711")).unwrap()
}

fn new_session() -> TokenSession {
    new_token().open(&pin("4711")).unwrap()
}

/// Another process at the same token.
fn elsewhere(arguments: &[&str]) {
    let made = Command::new("softhsm2-util").args(arguments).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

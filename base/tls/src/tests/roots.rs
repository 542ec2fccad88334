//! Roots that change under running servers and clients.

use std::sync::Arc;

use super::authority::Authority;
use super::handshake::{greet, greeting, listen};
use crate::{ClientAuth, HostCheck, Roots, client_config, server_config};

#[tokio::test]
async fn new_roots_count_from_the_next_handshake_on() {
    let (old, new) = (Authority::new("old root"), Authority::new("new root"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("root.pem");
    let write = |text: String| {
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &file).unwrap();
    };
    assert!(Roots::from_file(&file).is_err(), "there must be some at first");
    write(old.pem.clone());
    let roots = Roots::from_file(&file).unwrap();
    let server = server_config(old.issue("server"), ClientAuth::RequiredNow(roots.clone())).unwrap();
    let (port, _came) = greet(listen(&server).await);
    let of =
        |ca: &Authority, key| client_config(Arc::clone(&ca.roots), Some(key), HostCheck::ChainOnly).unwrap();
    let (trusted, stranger) = (of(&old, old.issue("one")), of(&old, new.issue("two")));
    assert_eq!(greeting(port, trusted.clone(), "server").await.unwrap(), "hello");
    assert!(greeting(port, stranger.clone(), "server").await.is_err());

    // A server of the new authority, and clients that were configured before it was known.
    let (renewed, _also) =
        greet(listen(&server_config(new.issue("server"), ClientAuth::None).unwrap()).await);
    let chain = client_config(roots.clone(), None, HostCheck::ChainOnly).unwrap();
    let named = client_config(roots.clone(), None, HostCheck::Verify).unwrap();
    assert!(greeting(renewed, chain.clone(), "server").await.is_err());
    write(format!("{}{}", new.pem, old.pem));
    for config in [&chain, &named] {
        assert_eq!(greeting(renewed, config.clone(), "server").await.unwrap(), "hello");
    }
    assert!(greeting(renewed, named.clone(), "another").await.is_err(), "names are checked as before");
    assert_eq!(greeting(port, stranger.clone(), "server").await.unwrap(), "hello");
    assert_eq!(greeting(port, trusted.clone(), "server").await.unwrap(), "hello");

    // A damaged file changes nothing; one without the old root ends its trust.
    write("no certificate".to_owned());
    assert_eq!(greeting(port, stranger.clone(), "server").await.unwrap(), "hello");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(greeting(renewed, named, "server").await.unwrap(), "hello");
    write(new.pem.clone());
    assert!(greeting(port, trusted, "server").await.is_err());
    assert_eq!(greeting(port, stranger, "server").await.unwrap(), "hello");
}

//! Slots, ownership, PINs and what happens to sessions.

use std::path::Path;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::error::{Error, RvError};
use rustls::SignatureScheme;

use super::{MODULE, elsewhere, library, new_session, new_token, pin, with_softhsm};
use crate::{KeyKind, Library, SlotChoice, TokenError};

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[test]
fn a_token_is_owned_and_found_again() {
    with_softhsm("tests::tokens::a_token_is_owned_and_found_again", |_| {
        let library = library();
        assert!(Arc::ptr_eq(&library, &Library::open(MODULE).unwrap()));
        let label = SlotChoice::Label("aos".into());
        let fresh = library.find_token(&label).unwrap().unwrap();
        assert!(!fresh.is_initialised().unwrap());
        assert!(matches!(library.find_initialised(Some("aos")), Err(TokenError::NoToken { .. })));

        let token = fresh.init(&pin("owner"), "aos", &pin("4711")).unwrap();
        assert!(token.is_initialised().unwrap());
        // The slot of the other, new token is not taken for ours.
        let other = library.find_token(&SlotChoice::Label("other".into())).unwrap().unwrap();
        assert!(!other.is_initialised().unwrap());
        other.init(&pin("owner"), "other", &pin("1234")).unwrap();
        for name in ["aos", "other"] {
            let found = library.find_token(&SlotChoice::Label(name.into())).unwrap().unwrap();
            assert!(found.is_initialised().unwrap());
            library.find_initialised(Some(name)).unwrap();
        }
        library.find_initialised(None).unwrap().open(&pin("4711")).unwrap();
        let indexed = library.find_token(&SlotChoice::Index(0)).unwrap().unwrap();
        assert!(indexed.is_initialised().unwrap());
        assert!(matches!(library.find_token(&SlotChoice::Index(9)), Err(TokenError::NoSlot { slot: 9 })));
        assert!(matches!(library.find_token(&SlotChoice::Id(77)), Err(TokenError::NoSlot { slot: 77 })));
    });
}

fn is_wrong_pin(error: &TokenError) -> bool {
    matches!(error, TokenError::Call { source: Error::Pkcs11(RvError::PinIncorrect, _), .. })
}

#[test]
fn wrong_pins_are_refused_also_beside_an_open_session() {
    with_softhsm("tests::tokens::wrong_pins_are_refused_also_beside_an_open_session", |_| {
        let token = new_token();
        assert!(is_wrong_pin(&token.open(&pin("0000")).unwrap_err()));
        let session = token.open(&pin("4711")).unwrap();
        assert!(is_wrong_pin(&token.open(&pin("0000")).unwrap_err()));
        session.list_objects(None).unwrap();
        token.open(&pin("4711")).unwrap();
        assert!(is_wrong_pin(&token.init(&pin("thief"), "aos", &pin("4711")).unwrap_err()));
    });
}

#[test]
fn a_new_owner_erases_keys_and_ends_their_handles() {
    with_softhsm("tests::tokens::a_new_owner_erases_keys_and_ends_their_handles", |_| {
        let token = new_token();
        let session = token.open(&pin("4711")).unwrap();
        let key = session.generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        key.sign_with(SCHEME, b"text").unwrap();

        let token = token.init(&pin("owner"), "aos", &pin("4712")).unwrap();
        assert!(matches!(key.sign_with(SCHEME, b"text"), Err(TokenError::Reinitialised)));
        assert!(matches!(session.list_objects(None), Err(TokenError::Reinitialised)));
        assert!(is_wrong_pin(&token.open(&pin("4711")).unwrap_err()));
        assert_eq!(token.open(&pin("4712")).unwrap().list_objects(None).unwrap(), []);
    });
}

#[test]
fn a_lost_session_is_opened_again() {
    with_softhsm("tests::tokens::a_lost_session_is_opened_again", |_| {
        let session = new_session();
        let key = session.generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        let pkcs11 = &library().pkcs11;

        // Somebody logs this process out.
        let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
        pkcs11.open_rw_session(slot).unwrap().logout().unwrap();
        key.sign_with(SCHEME, b"text").unwrap();

        // Every session and slot is gone, as after a reset of the device.
        pkcs11.clone().finalize().unwrap();
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        key.sign_with(SCHEME, b"text").unwrap();
        assert_eq!(session.list_objects(Some("sm")).unwrap().len(), 2);
    });
}

#[test]
fn a_token_that_went_away_is_used_again_when_it_is_back() {
    with_softhsm("tests::tokens::a_token_that_went_away_is_used_again_when_it_is_back", |dir| {
        let key = new_session().generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        let pkcs11 = &library().pkcs11;
        let restart = || {
            pkcs11.clone().finalize().unwrap();
            pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        };
        let (tokens, away) = (dir.join("tokens"), dir.join("away"));
        std::fs::rename(&tokens, &away).unwrap();
        std::fs::create_dir(&tokens).unwrap();
        restart();
        assert!(matches!(key.sign_with(SCHEME, b"text"), Err(TokenError::NoToken { .. })));
        std::fs::remove_dir_all(&tokens).unwrap();
        std::fs::rename(&away, &tokens).unwrap();
        restart();
        key.sign_with(SCHEME, b"text").unwrap();
    });
}

#[test]
fn a_token_made_by_another_process_is_found() {
    with_softhsm("tests::tokens::a_token_made_by_another_process_is_found", |_: &Path| {
        let library = library();
        assert!(matches!(library.find_initialised(Some("late")), Err(TokenError::NoToken { .. })));
        elsewhere(&["--init-token", "--free", "--label", "late", "--so-pin", "owner", "--pin", "4711"]);
        let session = library.find_initialised(Some("late")).unwrap().open(&pin("4711")).unwrap();
        session.generate_key(KeyKind::EcP256, [1; 16], "cm").unwrap();
    });
}

#[test]
fn a_token_renewed_by_another_process_is_used_as_it_is_then() {
    with_softhsm("tests::tokens::a_token_renewed_by_another_process_is_used_as_it_is_then", |dir| {
        let session = new_session();
        let old = session.generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        let file = dir.join("key.pem");
        std::fs::write(&file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let file = file.to_str().unwrap();
        let names = ["--id", "02020202020202020202020202020202", "--label", "sm"];

        // The same PIN again, then another one; each time the keys are new.
        for pin_text in ["4711", "4712"] {
            let pins = ["--so-pin", "owner", "--pin", pin_text];
            elsewhere(&[&["--init-token", "--token", "aos", "--label", "aos"], &pins[..]].concat());
            elsewhere(&[&["--import", file, "--token", "aos", "--pin", pin_text], &names[..]].concat());
            let session = library().find_initialised(Some("aos")).unwrap().open(&pin(pin_text)).unwrap();
            let new = session.private_key(&[2; 16], "sm").unwrap();
            new.sign_with(SCHEME, b"text").unwrap();
            assert!(old.sign_with(SCHEME, b"text").is_err());
            new.sign_with(SCHEME, b"text").unwrap();
        }
    });
}

//! The texts peers exchange.

use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use secrecy::ExposeSecret;

use crate::{CertUrl, Pin, Pkcs11Url, TokenError, read_pin_file};

const SAMPLE: &str = "pkcs11:token=aoscore;object=iam;id=%00%11%22%33%44%55%66%77%88%99%AA%BB%CC%DD%EE%FF\
                      ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/var/aos/iam/.usrpin";

fn pkcs11(text: &str) -> Pkcs11Url {
    match CertUrl::parse(text).unwrap() {
        CertUrl::Pkcs11(url) => url,
        CertUrl::File(path) => panic!("{}", path.display()),
    }
}

#[test]
fn the_agreed_form_there_and_back() {
    let url = pkcs11(SAMPLE);
    assert_eq!(url.token.as_deref(), Some("aoscore"));
    assert_eq!(url.object, "iam");
    assert_eq!(url.id[..3], [0x00, 0x11, 0x22]);
    assert!(matches!(&url.pin, Pin::Source(path) if path.ends_with(".usrpin")));
    assert_eq!(CertUrl::Pkcs11(url).to_string(), SAMPLE);
}

#[test]
fn the_query_mark_stays_when_nothing_follows() {
    let text = "pkcs11:token=aos;object=sm;id=%01?";
    assert_eq!(CertUrl::parse(text).unwrap().to_string(), text);
}

#[test]
fn defaults_and_older_forms() {
    let url = pkcs11("pkcs11:object=sm;id=a%42c?pin-value=secret");
    assert_eq!((url.token, url.id), (None, b"aBc".to_vec()));
    assert_eq!(url.module_path, None);
    assert_eq!(url.pin.read().unwrap().expose_secret(), "secret");
    assert!(!format!("{:?}", url.pin).contains("secret"));
    assert!(
        matches!(CertUrl::parse("file:/a/b.pem").unwrap(), CertUrl::File(path) if path.ends_with("b.pem"))
    );
}

#[test]
fn wrong_texts_are_refused() {
    for text in [
        "",
        "http://x",
        "file:",
        "pkcs11:",
        "pkcs11:object=sm",
        "pkcs11:id=%01",
        "pkcs11:object=sm;id=%0",
        "pkcs11:object=sm;id=%zz",
        "pkcs11:object=sm;id=%01?pin-value=1&pin-source=/x",
        &format!("file:/{}", "x".repeat(5000)),
    ] {
        assert!(matches!(CertUrl::parse(text), Err(TokenError::Url { .. })), "{text}");
    }
}

#[test]
fn a_pin_file_may_end_with_one_newline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pin");
    for (content, pin) in [("4711", "4711"), ("4711\n", "4711"), (" 4711\n\n", " 4711\n"), ("", "")] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(read_pin_file(&path).unwrap().expose_secret(), pin);
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = CertUrl::parse(&text);
        let _ = CertUrl::parse(&format!("pkcs11:object=o;id={text}"));
    }

    #[test]
    fn every_id_survives(id in prop::collection::vec(any::<u8>(), 1..32)) {
        let url = Pkcs11Url { id: id.clone(), ..pkcs11(SAMPLE) };
        prop_assert_eq!(pkcs11(&CertUrl::Pkcs11(url).to_string()).id, id);
    }
}

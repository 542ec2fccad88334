//! Questions of instances and answers of name servers.

use std::net::Ipv4Addr;

use aos_names::Zone;
use aos_names::packet::{Code, Content, Heard, answer, cut, judge, kind, read, refuse, renumbered};

/// Whatever is read as a question is answered by something that is an answer to it and to nothing else.
pub fn target_names(data: &[u8]) {
    let address = Ipv4Addr::new(10, 1, 0, 2);
    let zone = Zone {
        network: "owner".to_owned(),
        listen: Ipv4Addr::new(10, 1, 0, 1),
        prefix: 16,
        names: [("web".to_owned(), address), ("0.subject.item".to_owned(), address)].into(),
        upstream: Vec::new(),
    };
    let query = match read(data) {
        Ok(query) => query,
        Err(refusal) => {
            if let Some(told) = refuse(data, refusal) {
                assert_eq!(told.len(), 12);
                assert!(read(&told).is_err(), "a refusal is no question: two servers would talk for ever");
            }
            let _ = judge(data, 1, b"\x03web\0\0\x01\0\x01");
            return;
        }
    };
    assert!(query.name.as_ref().is_none_or(|name| name.len() <= 253));
    let found = zone.find(&query);
    let (code, content) = found.clone().unwrap_or((Code::ServFail, Content::None));
    let told = answer(&query, code, &content);
    assert!(told.len() <= data.len() + 300 && told.len() <= 2048, "an answer is no weapon");
    let expected = if matches!(code, Code::ServFail) { Heard::Failure } else { Heard::Answer };
    assert_eq!(judge(&told, query.id, query.question), expected);
    assert_eq!(judge(&told, query.id ^ 1, query.question), Heard::Foreign);
    assert!(read(&told).is_err(), "an answer is no question");
    assert_eq!(judge(&cut(&told, query.question), query.id, query.question), expected);
    let forwarded = renumbered(data, query.id ^ 0x5555);
    let again = read(&forwarded);
    assert!(again.is_ok_and(|again| again.question == query.question), "what is passed on is what was asked");
    if let Some((Code::NoError, Content::Address(_))) = found {
        assert!(matches!(query.kind, kind::A | kind::ANY));
    }
}

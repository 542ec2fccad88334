//! Frames of a WebSocket.

use aos_cloud_websocket::{Event, Frame, Reader, Role, Violation, encode};

const LIMIT: usize = 4096;

/// The first byte tells who reads and how the rest is cut into reads.
pub fn target_websocket(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let whole = events(role, [bytes]);
    let cut = usize::from(first >> 1) + 1;
    let pieces = events(role, bytes.chunks(cut));
    assert_eq!(whole, pieces, "how the bytes arrive makes a difference");
    for event in &whole.0 {
        if let Event::Message(message) = event {
            assert!(message.len() <= LIMIT);
            let mask = (role == Role::Server).then_some([*first; 4]);
            let frame = encode(Frame::Binary(message), mask);
            assert_eq!(events(role, [&frame[..]]), (vec![event.clone()], None), "what is written is read");
        }
    }
}

fn events<'a>(role: Role, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Violation>) {
    let mut reader = Reader::new(role, LIMIT);
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        loop {
            let before = rest.len();
            match reader.read(&mut rest) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => {
                    assert!(rest.is_empty(), "bytes are left over");
                    break;
                }
                Err(violation) => return (events, Some(violation)),
            }
            assert!(rest.len() < before || before == 0, "an event out of nothing");
        }
        assert!(reader.announced() <= LIMIT, "a message beyond the limit is waited for");
    }
    (events, None)
}

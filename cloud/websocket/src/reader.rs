//! Reading frames.

use crate::writer::apply_mask;
use crate::{BINARY, CLOSE, CONTINUATION, MAX_CONTROL, PING, PONG, Role, TEXT, Violation};

/// Longest header: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message, binary or text.
    Message(Vec<u8>),
    /// To be answered with a pong of the same content.
    Ping(Vec<u8>),
    /// A sign of life.
    Pong,
    /// The peer closes, with a code when it told one.
    Close(Option<u16>),
}

/// The frame whose content is being read.
#[derive(Debug, Clone, Copy)]
struct Content {
    opcode: u8,
    last: bool,
    mask: Option<[u8; 4]>,
    length: u64,
    seen: u64,
}

/// Reads one direction of a connection.
#[derive(Debug)]
pub struct Reader {
    role: Role,
    limit: usize,
    head: [u8; MAX_HEAD],
    head_length: u8,
    content: Option<Content>,
    /// Opcode of the message in pieces that is under way.
    fragmented: Option<u8>,
    message: Vec<u8>,
    control: Vec<u8>,
}

impl Reader {
    /// A reader of messages of at most `limit` bytes.
    pub fn new(role: Role, limit: usize) -> Self {
        Self {
            role,
            limit,
            head: [0; MAX_HEAD],
            head_length: 0,
            content: None,
            fragmented: None,
            message: Vec::new(),
            control: Vec::new(),
        }
    }

    /// True between messages: nothing of a next one has arrived.
    pub fn is_idle(&self) -> bool {
        self.head_length == 0 && self.content.is_none() && self.fragmented.is_none()
    }

    /// Bytes that the message under way will have at least, as far as its headers tell.
    pub fn announced(&self) -> usize {
        let rest = self.content.filter(|content| !is_control(content.opcode));
        let rest = rest.map_or(0, |content| content.length - content.seen);
        self.message.len().saturating_add(usize::try_from(rest).unwrap_or(usize::MAX))
    }

    /// Takes bytes off the front of `input` until something is complete or nothing is left.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            let Some(content) = self.content else {
                let Some(content) = self.read_head(input)? else { return Ok(None) };
                self.content = Some(content);
                continue;
            };
            if content.seen < content.length {
                if input.is_empty() {
                    return Ok(None);
                }
                self.content = Some(self.read_content(content, input));
                continue;
            }
            self.content = None;
            if let Some(event) = self.finish(content)? {
                return Ok(Some(event));
            }
        }
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<Content>, Violation> {
        loop {
            let have = usize::from(self.head_length);
            let wanted = self.head_wanted()?;
            if have == wanted {
                let content = self.parse_head()?;
                self.head_length = 0;
                return Ok(Some(content));
            }
            let Some((byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            if let Some(place) = self.head.get_mut(have) {
                *place = *byte;
            }
            self.head_length += 1;
        }
    }

    /// Length of the header as far as it is known. What is wrong in its first two bytes is told at once.
    fn head_wanted(&self) -> Result<usize, Violation> {
        if self.head_length < 2 {
            return Ok(2);
        }
        let [first, second, ..] = self.head;
        if first & 0x70 != 0 {
            return Err(Violation::Reserved);
        }
        let (opcode, last) = (first & 0x0f, first & 0x80 != 0);
        let masked = second & 0x80 != 0;
        if masked != (self.role == Role::Server) {
            return Err(Violation::Mask);
        }
        match opcode {
            CONTINUATION if self.fragmented.is_none() => return Err(Violation::Fragments),
            TEXT | BINARY if self.fragmented.is_some() => return Err(Violation::Fragments),
            CLOSE | PING | PONG if !last || second & 0x7f > 125 => return Err(Violation::Control),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => {}
            _ => return Err(Violation::Opcode(opcode)),
        }
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        Ok(2 + length + if masked { 4 } else { 0 })
    }

    fn parse_head(&self) -> Result<Content, Violation> {
        let [first, second, ..] = self.head;
        let short = second & 0x7f;
        let (length, mask_at) = match short {
            126 => (u64::from(u16::from_be_bytes(self.head_part(2))), 4),
            127 => (u64::from_be_bytes(self.head_part(2)), 10),
            short => (u64::from(short), 2),
        };
        if length >> 63 != 0 {
            return Err(Violation::Length);
        }
        let opcode = first & 0x0f;
        if !is_control(opcode) {
            let whole =
                usize::try_from(length).ok().and_then(|length| length.checked_add(self.message.len()));
            if whole.is_none_or(|whole| whole > self.limit) {
                return Err(Violation::TooLong { limit: self.limit });
            }
        }
        let mask = (second & 0x80 != 0).then(|| self.head_part(mask_at));
        Ok(Content { opcode, last: first & 0x80 != 0, mask, length, seen: 0 })
    }

    fn head_part<const N: usize>(&self, from: usize) -> [u8; N] {
        self.head.get(from..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn read_content(&mut self, content: Content, input: &mut &[u8]) -> Content {
        let target = if is_control(content.opcode) { &mut self.control } else { &mut self.message };
        let wanted = usize::try_from(content.length - content.seen).unwrap_or(usize::MAX);
        let (now, rest) = input.split_at(wanted.min(input.len()));
        *input = rest;
        let start = target.len();
        if start == 0 && now.len() == wanted {
            // All of it is here: no room for more is needed.
            target.reserve_exact(now.len());
        }
        target.extend_from_slice(now);
        if let (Some(mask), Some(fresh)) = (content.mask, target.get_mut(start..)) {
            apply_mask(fresh, mask, usize::try_from(content.seen % 4).unwrap_or(0));
        }
        Content { seen: content.seen + now.len() as u64, ..content }
    }

    fn finish(&mut self, content: Content) -> Result<Option<Event>, Violation> {
        match content.opcode {
            PING => Ok(Some(Event::Ping(std::mem::take(&mut self.control)))),
            PONG => {
                self.control = Vec::new();
                Ok(Some(Event::Pong))
            }
            CLOSE => close(&std::mem::take(&mut self.control)).map(|code| Some(Event::Close(code))),
            opcode if content.last => {
                let opcode = self.fragmented.take().unwrap_or(opcode);
                let message = std::mem::take(&mut self.message);
                if opcode == TEXT && std::str::from_utf8(&message).is_err() {
                    return Err(Violation::Text);
                }
                Ok(Some(Event::Message(message)))
            }
            opcode => {
                self.fragmented.get_or_insert(opcode);
                Ok(None)
            }
        }
    }
}

const fn is_control(opcode: u8) -> bool {
    opcode & 8 != 0
}

/// The code of a close frame.
fn close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    debug_assert!(payload.len() <= MAX_CONTROL);
    let (code, reason) = match payload {
        [] => return Ok(None),
        [first, second, reason @ ..] => (u16::from_be_bytes([*first, *second]), reason),
        [_] => return Err(Violation::Close),
    };
    let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !allowed || std::str::from_utf8(reason).is_err() {
        return Err(Violation::Close);
    }
    Ok(Some(code))
}

//! Questions and answers as bytes. Pure.
//!
//! Of a question everything is read and nothing else is accepted: one question, no records but the sender's
//! buffer size (EDNS), no bytes after it. Of an answer from outside only header and question are looked at;
//! the rest is for the one who asked.

/// Longest question accepted, bytes.
pub const MAX_QUERY: usize = 1024;
/// What an instance without EDNS takes over UDP, bytes.
pub const PLAIN_SIZE: usize = 512;
/// Size we announce, bytes; fits every path without fragments.
const OWN_SIZE: u16 = 1232;
const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const IN: u16 = 1;
const OPT: u16 = 41;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const RCODE: u16 = 0x000f;

/// Record types that are told apart here.
pub mod kind {
    /// Address, IPv4.
    pub const A: u16 = 1;
    /// Servers of a zone.
    pub const NS: u16 = 2;
    /// Start of a zone.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Digest of a zone's key.
    pub const DS: u16 = 43;
    /// Key of a zone.
    pub const DNSKEY: u16 = 48;
    /// First type that is no record type but a wish, such as a transfer of a whole zone.
    pub const FIRST_META: u16 = 249;
    /// Everything there is.
    pub const ANY: u16 = 255;
}

/// Answer codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It is as the records say.
    NoError = 0,
    /// The question is malformed.
    FormErr = 1,
    /// Nobody could be asked.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not a question at all.
    NotImp = 4,
    /// Not answered here.
    Refused = 5,
}

/// Why a packet is no question for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No word about it: too short, or an answer itself, which might come from another server like us.
    Silent,
    /// To be told with this code.
    Told(Code),
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// Number by which the sender knows the answer.
    pub id: u16,
    flags: u16,
    /// The name in lower case, labels joined by dots; `None` for one with odd bytes in it.
    pub name: Option<String>,
    /// Wanted record type.
    pub kind: u16,
    /// Name, type and class as they came.
    pub question: &'a [u8],
    /// The sender's buffer size, if it says one.
    size: Option<u16>,
}

impl Query<'_> {
    /// What the sender takes over UDP, bytes.
    pub fn room(&self) -> usize {
        self.size.map_or(PLAIN_SIZE, |size| usize::from(size).max(PLAIN_SIZE))
    }
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads a question.
pub fn read(packet: &[u8]) -> Result<Query<'_>, Refusal> {
    let (id, flags) = word(packet, 0).zip(word(packet, 2)).ok_or(Refusal::Silent)?;
    if packet.len() < HEADER || flags & QR != 0 {
        return Err(Refusal::Silent);
    }
    if flags & OPCODE != 0 {
        return Err(Refusal::Told(Code::NotImp));
    }
    let malformed = Refusal::Told(Code::FormErr);
    let counts = [4, 6, 8, 10].map(|at| word(packet, at).unwrap_or(u16::MAX));
    if packet.len() > MAX_QUERY || counts[0] != 1 || counts[1] != 0 || counts[2] != 0 || counts[3] > 1 {
        return Err(malformed);
    }
    let (name, end) = read_name(packet, HEADER).ok_or(malformed)?;
    let (kind, class) = word(packet, end).zip(word(packet, end + 2)).ok_or(malformed)?;
    let question = packet.get(HEADER..end + 4).ok_or(malformed)?;
    let rest = packet.get(end + 4..).ok_or(malformed)?;
    let size = match counts[3] {
        0 if rest.is_empty() => None,
        1 => Some(read_size(rest).ok_or(malformed)?),
        _ => return Err(malformed),
    };
    if class != IN || (kind >= kind::FIRST_META && kind != kind::ANY && kind <= kind::ANY) || kind == OPT {
        return Err(Refusal::Told(Code::Refused));
    }
    Ok(Query { id, flags, name, kind, question, size })
}

/// The name at `at` and the place after it. Pointers have no place in a question.
fn read_name(packet: &[u8], at: usize) -> Option<(Option<String>, usize)> {
    let mut text = Some(String::new());
    let mut next = at;
    loop {
        let length = usize::from(*packet.get(next)?);
        next += 1;
        if length == 0 {
            return (next - at <= MAX_NAME).then_some((text, next));
        }
        if length > 63 || next + length - at >= MAX_NAME {
            return None;
        }
        let label = packet.get(next..next + length)?;
        next += length;
        let plain = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        text = text.filter(|_| plain).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            text
        });
    }
}

/// The buffer size in the one record that may follow a question, which has to be the end of the packet.
fn read_size(record: &[u8]) -> Option<u16> {
    let ours = record.first() == Some(&0) && word(record, 1)? == OPT;
    (ours && record.len() == 11 + usize::from(word(record, 9)?)).then(|| word(record, 3))?
}

/// What an answer says beside its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// The address of the name asked for.
    Address(std::net::Ipv4Addr),
    /// The name of the address asked for, labels joined by dots.
    Name(String),
}

/// An answer of our own.
pub fn answer(query: &Query<'_>, code: Code, content: &Content) -> Vec<u8> {
    let data = match content {
        Content::None => None,
        Content::Address(address) => Some((kind::A, address.octets().to_vec())),
        Content::Name(name) => write_name(name).map(|name| (kind::PTR, name)),
    };
    let own = if matches!(code, Code::NoError | Code::NxDomain) { AA } else { 0 };
    let counts = [1, u16::from(data.is_some()), 0, u16::from(query.size.is_some())];
    let mut packet = header(query.id, QR | own | (query.flags & RD) | RA | code as u16, counts);
    packet.extend_from_slice(query.question);
    if let Some((kind, data)) = data {
        // The name is the one of the question; nothing is to be remembered (lifetime 0).
        for word in [0xc000 | u16::try_from(HEADER).unwrap_or(0), kind, IN, 0, 0] {
            packet.extend_from_slice(&word.to_be_bytes());
        }
        packet.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        packet.extend_from_slice(&data);
    }
    if query.size.is_some() {
        packet.push(0);
        for word in [OPT, OWN_SIZE, 0, 0, 0] {
            packet.extend_from_slice(&word.to_be_bytes());
        }
    }
    packet
}

/// The answer to a packet that is no question of ours; `None` when there is nothing to say.
pub fn refuse(packet: &[u8], refusal: Refusal) -> Option<Vec<u8>> {
    let Refusal::Told(code) = refusal else { return None };
    let (id, flags) = word(packet, 0).zip(word(packet, 2))?;
    Some(header(id, QR | (flags & (OPCODE | RD)) | code as u16, [0; 4]))
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    for word in [id, flags].into_iter().chain(counts) {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet
}

fn write_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= MAX_NAME).then_some(bytes)
}

/// The same packet under another number.
pub fn renumbered(packet: &[u8], id: u16) -> Vec<u8> {
    let mut copy = packet.to_vec();
    if let Some(place) = copy.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    copy
}

/// What a packet from a next server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The answer.
    Answer,
    /// An answer that another server may better.
    Failure,
    /// Not an answer to what was asked.
    Foreign,
}

/// Judges a packet from the server that was asked `question` under number `id`.
pub fn judge(packet: &[u8], id: u16, question: &[u8]) -> Heard {
    let header = word(packet, 0).zip(word(packet, 2)).zip(word(packet, 4));
    let Some(((number, flags), questions)) = header.filter(|_| packet.len() >= HEADER) else {
        return Heard::Foreign;
    };
    if number != id || flags & QR == 0 || flags & OPCODE != 0 {
        return Heard::Foreign;
    }
    let code = flags & RCODE;
    let failed = !matches!(code, 0 | 3);
    let same = packet.get(HEADER..HEADER + question.len());
    match (questions, same) {
        (1, Some(theirs)) if theirs.eq_ignore_ascii_case(question) => {
            if failed {
                Heard::Failure
            } else {
                Heard::Answer
            }
        }
        // Some servers leave the question out when they refuse.
        (0, _) if failed => Heard::Failure,
        _ => Heard::Foreign,
    }
}

/// The answer cut down to its question, for an asker whose buffer it would not fit into: it comes again over
/// TCP.
pub fn cut(packet: &[u8], question: &[u8]) -> Vec<u8> {
    let (id, flags) = word(packet, 0).zip(word(packet, 2)).unwrap_or((0, QR));
    let mut short = header(id, flags | TC, [1, 0, 0, 0]);
    short.extend_from_slice(question);
    short
}

#[cfg(test)]
#[path = "packet_tests.rs"]
pub(crate) mod tests;

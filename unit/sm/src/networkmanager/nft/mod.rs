//! The vocabulary of nf_tables: messages that make tables, chains, maps and rules.
//!
//! Pure: everything here is bytes. A rule is a list of expressions that work on registers; the functions of
//! [`Rule`] write the ones needed here, each ends the rule for a packet it does not fit. All numbers and names
//! come from the kernel's `linux/netfilter/nf_tables.h`.

mod found;
mod rule;

use std::net::Ipv4Addr;

use super::netlink::{APPEND, CREATE, EXCLUSIVE, Message};
pub use found::{FoundRule, chain_of, counter_of, list_chains, list_objects, list_rules, object_of, rule_of};
pub use rule::Rule;

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`
const INET: u8 = 1;
/// First 128-bit register.
const REGISTER_1: u32 = 1;
/// The one behind it.
const REGISTER_2: u32 = 2;
/// The comment that marks rules of ours; type 0 of the user data, which `nft` shows.
const MARK: &[u8] = b"\x00\x04aos\x00";

/// Hooks in the kernel's packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// To this machine.
    Input = 1,
    /// Through this machine.
    Forward = 2,
    /// From this machine.
    Output = 3,
    /// Before leaving.
    Postrouting = 4,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Goes on.
    Accept,
    /// Is thrown away.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// Through another chain, then on behind this rule.
    Jump(&'a str),
    /// Through another chain, then on behind the rule that led here.
    Goto(&'a str),
}

impl Verdict<'_> {
    fn put(self, message: &mut Message, kind: u16) {
        let (code, chain) = match self {
            Self::Drop => (0i32, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        message.nest(kind, |data| {
            data.nest(2, |verdict| {
                verdict.put_be32(1, code.cast_unsigned());
                if let Some(chain) = chain {
                    verdict.put_text(2, chain);
                }
            });
        });
    }
}

/// Kinds of named objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Counts packets and bytes.
    Counter = 1,
    /// Knows when so many bytes were exceeded.
    Quota = 2,
}

/// What a set's elements are, with the type numbers `nft` shows them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// An IPv4 address.
    Address,
    /// The name of a link.
    Link,
    /// A link's name and an address.
    LinkAndAddress,
}

impl Key {
    const fn parts(self) -> (u32, u32) {
        match self {
            Self::Address => (7, 4),
            Self::Link => (41, 16),
            Self::LinkAndAddress => ((41 << 6) | 7, 20),
        }
    }
}

/// What a map's elements lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Nothing: a plain set.
    None,
    /// A verdict.
    Verdict,
    /// A named object.
    Object(Object),
}

fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &head(INET, 0))
}

/// A list of changes that happen all at once or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch(Vec<Message>);

impl Batch {
    /// True when nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes of `other` behind these.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All messages of the transaction.
    pub fn finish(self) -> Vec<Message> {
        let border = |kind| Message::new(kind, 0, &head(0, SUBSYSTEM));
        let mut all = vec![border(0x10)];
        all.extend(self.0);
        all.push(border(0x11));
        all
    }

    fn add(&mut self, kind: u16, flags: u16, table: &str, content: impl FnOnce(&mut Message)) {
        let mut message = message(kind, flags);
        message.put_text(1, table);
        content(&mut message);
        self.0.push(message);
    }

    /// A table, when it is not there.
    pub fn table(&mut self, table: &str) {
        self.add(0, CREATE, table, |message| {
            message.put_be32(2, 0);
        });
    }

    /// Removes a table with all in it; it must be there.
    pub fn remove_table(&mut self, table: &str) {
        self.add(2, 0, table, |_| {});
    }

    /// A chain others lead to, when it is not there.
    pub fn chain(&mut self, table: &str, name: &str) {
        self.add(3, CREATE, table, |message| {
            message.put_text(3, name);
        });
    }

    /// A chain at a hook, when it is not there; the policy is set in any case.
    pub fn base_chain(
        &mut self,
        table: &str,
        name: &str,
        kind: &str,
        (hook, priority): (Hook, i32),
        accept: bool,
    ) {
        self.add(3, CREATE, table, |message| {
            message.put_text(3, name);
            message.nest(4, |place| {
                place.put_be32(1, hook as u32).put_be32(2, priority.cast_unsigned());
            });
            message.put_be32(5, u32::from(accept)).put_text(7, kind);
        });
    }

    /// Removes a chain, which must be there, empty, and nobody's target.
    pub fn remove_chain(&mut self, table: &str, name: &str) {
        self.add(5, 0, table, |message| {
            message.put_text(3, name);
        });
    }

    /// Removes all rules of a chain.
    pub fn flush(&mut self, table: &str, chain: &str) {
        self.add(8, 0, table, |message| {
            message.put_text(2, chain);
        });
    }

    /// Removes one rule.
    pub fn remove_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.add(8, 0, table, |message| {
            message.put_text(2, chain).put_be64(3, handle);
        });
    }

    /// Appends a rule.
    pub fn rule(&mut self, table: &str, chain: &str, expressions: impl FnOnce(&mut Rule<'_>)) {
        self.add(6, CREATE | APPEND, table, |message| {
            message.put_text(2, chain);
            message.nest(4, |list| expressions(&mut Rule(list)));
            message.put(7, MARK);
        });
    }

    /// A set or map, when it is not there.
    pub fn set(&mut self, table: &str, name: &str, key: Key, value: Value) {
        let number = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let (key_type, key_length) = key.parts();
        self.add(9, CREATE, table, |message| {
            message.put_text(2, name);
            let flags = match value {
                Value::None => 0,
                Value::Verdict => 8,
                Value::Object(_) => 0x40,
            };
            message.put_be32(3, flags).put_be32(4, key_type).put_be32(5, key_length);
            match value {
                Value::None => {}
                Value::Verdict => {
                    message.put_be32(6, 0xffff_ff00).put_be32(7, 16);
                }
                Value::Object(kind) => {
                    message.put_be32(15, kind as u32);
                }
            }
            message.put_be32(10, number);
            if key == Key::Link {
                // The order of bytes, for `nft` to show the names; type 0 of the user data, 1 is this machine's.
                let [a, b, c, d] = 1u32.to_ne_bytes();
                message.put(13, &[0, 4, a, b, c, d]);
            }
        });
    }

    fn element(&mut self, kind: u16, table: &str, set: &str, key: &[u8], value: impl FnOnce(&mut Message)) {
        let flags = if kind == 12 { CREATE } else { 0 };
        self.add(kind, flags, table, |message| {
            message.put_text(2, set);
            message.nest(3, |list| {
                list.nest(1, |element| {
                    element.nest(1, |data| {
                        data.put(1, key);
                    });
                    value(element);
                });
            });
        });
    }

    /// Removes all elements of a set or map.
    pub fn empty(&mut self, table: &str, set: &str) {
        self.add(14, 0, table, |message| {
            message.put_text(2, set);
        });
    }

    /// Adds an element to a set.
    pub fn member(&mut self, table: &str, set: &str, key: &[u8]) {
        self.element(12, table, set, key, |_| {});
    }

    /// Adds an element that leads to a verdict.
    pub fn verdict_member(&mut self, table: &str, set: &str, key: &[u8], verdict: Verdict<'_>) {
        self.element(12, table, set, key, |element| verdict.put(element, 2));
    }

    /// Adds an element that leads to an object.
    pub fn object_member(&mut self, table: &str, set: &str, key: &[u8], object: &str) {
        self.element(12, table, set, key, |element| {
            element.put_text(9, object);
        });
    }

    /// Removes an element, which must be there.
    pub fn remove_member(&mut self, table: &str, set: &str, key: &[u8]) {
        self.element(14, table, set, key, |_| {});
    }

    /// A counter that starts at `bytes`; the one that is there must not be.
    pub fn counter(&mut self, table: &str, name: &str, bytes: u64) {
        self.add(18, CREATE | EXCLUSIVE, table, |message| {
            message.put_text(2, name).put_be32(3, Object::Counter as u32);
            message.nest(4, |data| {
                data.put_be64(1, bytes).put_be64(2, 0);
            });
        });
    }

    /// A quota that matches as soon as more than `limit` bytes passed, `used` of which have already.
    pub fn quota(&mut self, table: &str, name: &str, limit: u64, used: u64) {
        self.add(18, CREATE | EXCLUSIVE, table, |message| {
            message.put_text(2, name).put_be32(3, Object::Quota as u32);
            message.nest(4, |data| {
                // The first flag turns "until" into "over".
                data.put_be64(1, limit).put_be32(2, 1).put_be64(4, used);
            });
        });
    }

    /// Removes an object, which must be there and nobody's target.
    pub fn remove_object(&mut self, table: &str, name: &str, kind: Object) {
        self.add(20, 0, table, |message| {
            message.put_text(2, name).put_be32(3, kind as u32);
        });
    }
}

/// One of the two ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Target,
}

/// State of a connection: makes no sense.
pub const CT_INVALID: u32 = 1;
/// State of a connection: seen in both directions, or caused by such a one.
pub const CT_KNOWN: u32 = 2 | 4;

/// The bits of a network.
pub const fn prefix_mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        1..32 => u32::MAX << (32 - prefix),
        _ => u32::MAX,
    }
}

/// A link's name as key of a set: 16 bytes, filled up with zeros.
pub fn link_key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    for (place, byte) in key.iter_mut().zip(name.bytes().take(15)) {
        *place = byte;
    }
    key
}

/// A link's name and an address as key of a set.
pub fn link_and_address_key(name: &str, address: Ipv4Addr) -> [u8; 20] {
    let mut key = [0; 20];
    for (place, byte) in key.iter_mut().zip(link_key(name).into_iter().chain(address.octets())) {
        *place = byte;
    }
    key
}

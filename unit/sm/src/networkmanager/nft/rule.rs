//! The expressions of one rule. Each ends the rule for a packet it does not fit; a rule is written from the
//! first condition to the verdict.

use std::net::Ipv4Addr;

use super::super::netlink::Message;
use super::{End, Object, REGISTER_1, REGISTER_2, Verdict, link_key, prefix_mask};

/// The expressions of one rule.
pub struct Rule<'a>(pub(super) &'a mut Message);

impl Rule<'_> {
    fn expression(&mut self, name: &str, content: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(1, |element| {
            element.put_text(1, name);
            element.nest(2, content);
        });
        self
    }

    fn meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.put_be32(1, register).put_be32(2, key);
        })
    }

    fn compare(&mut self, operation: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.put_be32(1, REGISTER_1).put_be32(2, operation);
            data.nest(3, |value_data| {
                value_data.put(1, value);
            });
        })
    }

    fn load(&mut self, register: u32, base: u32, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.put_be32(1, register).put_be32(2, base).put_be32(3, offset).put_be32(4, length);
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |data| {
            data.put_be32(1, REGISTER_1).put_be32(2, REGISTER_1).put_be32(3, length);
            data.nest(4, |value| {
                value.put(1, mask);
            });
            data.nest(5, |value| {
                value.put(1, &vec![0; mask.len()]);
            });
        })
    }

    fn look_up(&mut self, set: &str, verdict: bool, inverted: bool) -> &mut Self {
        self.expression("lookup", |data| {
            data.put_text(1, set).put_be32(2, REGISTER_1);
            if verdict {
                data.put_be32(3, 0);
            }
            if inverted {
                data.put_be32(5, 1);
            }
        })
    }

    fn end(&mut self, end: End) -> &mut Self {
        let offset = if end == End::Source { 12 } else { 16 };
        self.load(REGISTER_1, 1, offset, 4)
    }

    /// Goes on for IPv4 packets.
    pub fn ipv4(&mut self) -> &mut Self {
        self.meta(15, REGISTER_1).compare(0, &[2])
    }

    /// Goes on for IPv6 packets.
    pub fn ipv6(&mut self) -> &mut Self {
        self.meta(15, REGISTER_1).compare(0, &[10])
    }

    /// Goes on for packets of connections in one of the states (`CT_*`).
    pub fn connection(&mut self, states: u32) -> &mut Self {
        self.expression("ct", |data| {
            data.put_be32(1, REGISTER_1).put_be32(2, 0);
        });
        self.mask(&states.to_ne_bytes()).compare(1, &[0; 4])
    }

    /// Goes on when an end of an IPv4 packet is in the network.
    pub fn in_network(&mut self, end: End, network: Ipv4Addr, prefix: u8) -> &mut Self {
        let mask = prefix_mask(prefix);
        self.ipv4().end(end);
        if prefix < 32 {
            self.mask(&mask.to_be_bytes());
        }
        self.compare(0, &(u32::from(network) & mask).to_be_bytes())
    }

    /// Goes on when the first two bytes of an end of an IPv6 packet fit.
    pub fn in_ipv6_network(&mut self, end: End, value: u16, mask: u16) -> &mut Self {
        let offset = if end == End::Source { 8 } else { 24 };
        self.ipv6().load(REGISTER_1, 1, offset, 2);
        self.mask(&mask.to_be_bytes()).compare(0, &value.to_be_bytes())
    }

    /// Goes on when an end of an IPv4 packet is in the set, or leads into the verdicts of a map.
    pub fn end_in(&mut self, end: End, set: &str, map: bool) -> &mut Self {
        self.ipv4().end(end).look_up(set, map, false)
    }

    /// Counts, or asks the quota, by the object an end of an IPv4 packet leads to; ends when there is none.
    pub fn object_of(&mut self, end: End, map: &str) -> &mut Self {
        self.ipv4().end(end);
        self.expression("objref", |data| {
            data.put_be32(3, REGISTER_1).put_text(4, map);
        })
    }

    /// Counts in a named counter.
    pub fn count(&mut self, name: &str) -> &mut Self {
        self.expression("objref", |data| {
            data.put_be32(1, Object::Counter as u32).put_text(2, name);
        })
    }

    /// Goes on when the packet came in (or, with `out`, leaves) by a link of the set, or by none of it.
    pub fn link_in(&mut self, out: bool, set: &str, inverted: bool) -> &mut Self {
        self.meta(if out { 7 } else { 6 }, REGISTER_1).look_up(set, false, inverted)
    }

    /// Goes on when the packet came in by this link.
    pub fn link_is(&mut self, link: &str) -> &mut Self {
        self.meta(6, REGISTER_1).compare(0, &link_key(link))
    }

    /// Goes on when the packet came in by another link.
    pub fn link_is_not(&mut self, link: &str) -> &mut Self {
        self.meta(6, REGISTER_1).compare(1, &link_key(link))
    }

    /// Goes on when link and target address together are in the set, or are not.
    pub fn link_and_target_in(&mut self, set: &str, inverted: bool) -> &mut Self {
        self.ipv4().meta(6, REGISTER_1).load(REGISTER_2, 1, 16, 4).look_up(set, false, inverted)
    }

    /// Goes on for packets to ports of a protocol, by number.
    pub fn ports(&mut self, protocol: u8, first: u16, last: u16) -> &mut Self {
        self.protocol(protocol).load(REGISTER_1, 2, 2, 2);
        if first == last {
            return self.compare(0, &first.to_be_bytes());
        }
        self.compare(5, &first.to_be_bytes()).compare(3, &last.to_be_bytes())
    }

    /// Goes on for the protocol of this number.
    pub fn protocol(&mut self, number: u8) -> &mut Self {
        self.meta(16, REGISTER_1).compare(0, &[number])
    }

    /// Goes on for ICMP messages of a type.
    pub fn icmp(&mut self, kind: u8) -> &mut Self {
        self.ipv4().protocol(1).load(REGISTER_1, 2, 0, 1).compare(0, &[kind])
    }

    /// Hides the sender behind this machine's address.
    pub fn masquerade(&mut self) {
        self.expression("masq", |_| {});
    }

    /// The end of the rule.
    pub fn verdict(&mut self, verdict: Verdict<'_>) {
        self.expression("immediate", |data| {
            data.put_be32(1, 0);
            verdict.put(data, 2);
        });
    }
}

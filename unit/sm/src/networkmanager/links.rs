//! Links, addresses, routes and queues of one network namespace. Every operation can be repeated: what is
//! there stays.
//!
//! Blocking; one request to the kernel takes well below a millisecond, a removed link may take a few.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{CREATE, DUMP, EXCLUSIVE, Message, REPLACE, Received, Socket, attribute, number, text};
use super::nft::prefix_mask;

/// Name of the interface inside an instance.
pub const INSIDE_NAME: &str = "eth0";

const NEW_LINK: u16 = 16;
const REMOVE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_QUEUE: u16 = 36;

const LINK_MAC: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_BELOW: u16 = 5;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_GROUP: u16 = 27;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const UP: u32 = 1;
const IPV4: u8 = 2;
const MAIN_TABLE: u8 = 254;

/// Links about to be removed, all at once: whatever the kernel has to wait for, it waits for once. The number is
/// the letters "aosR".
const LEAVING: u32 = 0x616f_7352;

/// Smallest bucket of a bandwidth limit, bytes.
const MIN_BURST: u64 = 12_800;

/// A link that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// What it is: `bridge`, `veth`, `vlan`; empty for hardware.
    pub kind: String,
    /// The bridge it belongs to, 0 for none.
    pub master: u32,
    /// The group it is in, 0 for none.
    pub group: u32,
}

/// A netlink socket in the namespace it was opened in.
#[derive(Debug)]
pub struct Links(Socket);

fn link_head(index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    let fields = [index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()];
    for (place, byte) in head.iter_mut().skip(4).zip(fields.into_iter().flatten()) {
        *place = byte;
    }
    head
}

fn link_of(message: &Received<'_>) -> Option<Link> {
    if message.kind != NEW_LINK {
        return None;
    }
    let rest = message.body.get(16..)?;
    let kind = attribute(rest, LINK_INFO).and_then(|info| text(info, INFO_KIND));
    Some(Link {
        name: text(rest, LINK_NAME)?.to_owned(),
        index: number(message.body, 4)?,
        kind: kind.unwrap_or_default().to_owned(),
        master: attribute(rest, LINK_MASTER).and_then(|value| number(value, 0)).unwrap_or(0),
        group: attribute(rest, LINK_GROUP).and_then(|value| number(value, 0)).unwrap_or(0),
    })
}

/// The default route's link in an answer.
fn default_route_of(message: &Received<'_>) -> Option<u32> {
    let &[_, target_bits, _, _, table, _, _, kind, ..] = message.body else { return None };
    if message.kind != NEW_ROUTE || target_bits != 0 || table != MAIN_TABLE || kind != 1 {
        return None;
    }
    number(attribute(message.body.get(12..)?, 4)?, 0)
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
        other => other,
    }
}

impl Links {
    /// Opens the socket.
    pub fn open() -> io::Result<Self> {
        Socket::route().map(Self)
    }

    /// All links.
    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.0
            .dump(Message::new(GET_LINK, DUMP, &link_head(0, 0)), |message| links.extend(link_of(message)))?;
        Ok(links)
    }

    /// A link by name.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Message::new(GET_LINK, 0, &link_head(0, 0));
        request.put_text(LINK_NAME, name);
        let mut link = None;
        match self.0.ask(request, |message| link = link_of(message)) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            other => other.map(|()| link),
        }
    }

    fn need(&mut self, name: &str) -> io::Result<Link> {
        self.find(name)?.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))
    }

    fn up(&mut self, index: u32) -> io::Result<()> {
        self.0.request(Message::new(NEW_LINK, 0, &link_head(index, UP)))
    }

    fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut head = [IPV4, prefix, 0, 0, 0, 0, 0, 0];
        for (place, byte) in head.iter_mut().skip(4).zip(index.to_ne_bytes()) {
            *place = byte;
        }
        let mut request = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &head);
        let broadcast = Ipv4Addr::from(u32::from(address) | !prefix_mask(prefix));
        request.put(1, &address.octets()).put(2, &address.octets()).put(4, &broadcast.octets());
        unless_there(self.0.request(request))
    }

    /// The bridge of a network: there, addressed and up; answers its number. Its hardware address is given, else
    /// it would change with the cables, and everybody's packets would be lost for a while.
    pub fn ensure_bridge(
        &mut self,
        name: &str,
        mac: [u8; 6],
        (address, prefix): (Ipv4Addr, u8),
    ) -> io::Result<u32> {
        if self.find(name)?.is_none() {
            let mut request = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_head(0, UP));
            request.put_text(LINK_NAME, name).put(LINK_MAC, &mac);
            request.nest(LINK_INFO, |info| {
                info.put_text(INFO_KIND, "bridge");
            });
            unless_there(self.0.request(request))?;
        }
        let index = self.need(name)?.index;
        self.add_address(index, address, prefix)?;
        self.up(index)?;
        Ok(index)
    }

    /// A VLAN on the interface of the default route, on the bridge. False when there is no such interface or the
    /// kernel has no VLANs.
    pub fn ensure_vlan(&mut self, name: &str, mac: [u8; 6], id: u16, bridge: u32) -> io::Result<bool> {
        let Some(uplink) = self.default_route_link()? else { return Ok(false) };
        if self.find(name)?.is_none() {
            let mut request = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_head(0, 0));
            request.put_text(LINK_NAME, name).put(LINK_MAC, &mac).put(LINK_BELOW, &uplink.to_ne_bytes());
            request.nest(LINK_INFO, |info| {
                info.put_text(INFO_KIND, "vlan");
                info.nest(INFO_DATA, |data| {
                    data.put(1, &id.to_ne_bytes());
                });
            });
            match self.0.request(request) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => return Ok(false),
                other => unless_there(other)?,
            }
        }
        let index = self.need(name)?.index;
        let mut join = Message::new(NEW_LINK, 0, &link_head(index, UP));
        join.put(LINK_MASTER, &bridge.to_ne_bytes());
        self.0.request(join)?;
        Ok(true)
    }

    fn default_route_link(&mut self) -> io::Result<Option<u32>> {
        let mut found = None;
        let mut head = [0; 12];
        if let Some(family) = head.first_mut() {
            *family = IPV4;
        }
        self.0.dump(Message::new(GET_ROUTE, DUMP, &head), |message| {
            found = found.or_else(|| default_route_of(message));
        })?;
        Ok(found)
    }

    /// Lays a cable from the bridge into the other namespace, this end up; answers its number.
    pub fn lay_cable(&mut self, name: &str, bridge: u32, namespace: BorrowedFd<'_>) -> io::Result<u32> {
        let mut request = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_head(0, UP));
        request.put_text(LINK_NAME, name).put(LINK_MASTER, &bridge.to_ne_bytes());
        request.nest(LINK_INFO, |info| {
            info.put_text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(1, |peer| {
                    peer.put_raw(&link_head(0, 0)).put_text(LINK_NAME, INSIDE_NAME);
                    peer.put(LINK_NAMESPACE, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.0.request(request)?;
        Ok(self.need(name)?.index)
    }

    /// Inside an instance's namespace: loopback, address, default route. Answers the number of the interface.
    pub fn furnish(&mut self, (address, prefix): (Ipv4Addr, u8), gateway: Ipv4Addr) -> io::Result<u32> {
        let lo = self.need("lo")?.index;
        self.up(lo)?;
        let index = self.need(INSIDE_NAME)?.index;
        self.add_address(index, address, prefix)?;
        self.up(index)?;
        // Table, protocol "boot", scope "everywhere", type "unicast".
        let mut route =
            Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &[IPV4, 0, 0, 0, MAIN_TABLE, 3, 0, 1, 0, 0, 0, 0]);
        route.put(5, &gateway.octets()).put(4, &index.to_ne_bytes());
        unless_there(self.0.request(route))?;
        Ok(index)
    }

    /// Bounds what a link sends, in kbit/s, by a token bucket.
    pub fn limit(&mut self, index: u32, kbit: u64) -> io::Result<()> {
        let (rate, burst, room) = bucket(kbit);
        let mut head = [0; 20];
        let fields = [index.to_ne_bytes(), [0; 4], u32::MAX.to_ne_bytes()];
        for (place, byte) in head.iter_mut().skip(4).zip(fields.into_iter().flatten()) {
            *place = byte;
        }
        let mut request = Message::new(NEW_QUEUE, CREATE | REPLACE, &head);
        request.put_text(1, "tbf");
        request.nest(2, |options| {
            let mut parameters = [0u8; 36];
            // Rate: link layer "Ethernet" (so that the kernel needs no table of ours) and bytes a second.
            let short = u32::try_from(rate).unwrap_or(u32::MAX);
            let numbers =
                [(1, vec![1]), (8, short.to_ne_bytes().to_vec()), (24, room.to_ne_bytes().to_vec())];
            for (at, bytes) in numbers {
                for (place, byte) in parameters.iter_mut().skip(at).zip(bytes) {
                    *place = byte;
                }
            }
            options.put(1, &parameters);
            if rate > u64::from(u32::MAX) {
                options.put(4, &rate.to_ne_bytes());
            }
            options.put(6, &burst.to_ne_bytes());
        });
        self.0.request(request)
    }

    /// Removes links, which takes hardly longer than removing one; no error when some are not there.
    pub fn remove_all(&mut self, names: &BTreeSet<&str>) -> io::Result<()> {
        let (leaving, staying): (Vec<Link>, Vec<Link>) =
            self.list()?.into_iter().partition(|link| names.contains(link.name.as_str()));
        if leaving.len() < 2 || staying.iter().any(|link| link.group == LEAVING) {
            return leaving.iter().try_for_each(|link| self.remove_number(link.index));
        }
        for link in &leaving {
            let mut join = Message::new(NEW_LINK, 0, &link_head(link.index, 0));
            join.put(LINK_GROUP, &LEAVING.to_ne_bytes());
            unless_gone(self.0.request(join))?;
        }
        let mut all = Message::new(REMOVE_LINK, 0, &link_head(0, 0));
        all.put(LINK_GROUP, &LEAVING.to_ne_bytes());
        unless_gone(self.0.request(all))
    }

    fn remove_number(&mut self, index: u32) -> io::Result<()> {
        unless_gone(self.0.request(Message::new(REMOVE_LINK, 0, &link_head(index, 0))))
    }

    /// Removes a link; no error when it is not there.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        let Some(link) = self.find(name)? else { return Ok(()) };
        self.remove_number(link.index)
    }
}

/// Bytes a second, size of the bucket and of the queue before it, bytes. The bucket holds five milliseconds:
/// at high rates a smaller one would be empty between two looks of the kernel.
fn bucket(kbit: u64) -> (u64, u32, u32) {
    let rate = kbit.saturating_mul(125);
    let burst = u32::try_from((rate / 200).max(MIN_BURST)).unwrap_or(u32::MAX / 4);
    (rate, burst, burst.saturating_mul(4))
}

/// A local hardware address, the same for the same text.
pub fn mac_of(text: &str) -> [u8; 6] {
    let [a, b, c, d] = super::names::fnv1a(text).to_be_bytes();
    [0x02, 0xa0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_fit_the_rate() {
        assert_eq!(bucket(512), (64_000, 12_800, 51_200));
        assert_eq!(bucket(1_000_000), (125_000_000, 625_000, 2_500_000));
        assert_eq!(bucket(u64::MAX).0, u64::MAX);
    }

    #[test]
    fn hardware_addresses_are_local_and_single() {
        let mac = mac_of("br-0");
        assert_eq!(mac[0] & 3, 2);
        assert_ne!(mac, mac_of("br-1"));
    }

    /// Runs `work` in a network namespace of its own.
    fn apart(work: impl FnOnce(&mut Links) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work(&mut Links::open().unwrap());
        });
        thread.join().unwrap();
    }

    fn bridges(links: &mut Links) -> Vec<(String, u32)> {
        let mut all = links.list().unwrap();
        all.retain(|link| link.kind == "bridge");
        all.into_iter().map(|link| (link.name, link.group)).collect()
    }

    fn join_group(links: &mut Links, name: &str, group: u32) {
        let mut join = Message::new(NEW_LINK, 0, &link_head(links.need(name).unwrap().index, 0));
        join.put(LINK_GROUP, &group.to_ne_bytes());
        links.0.request(join).unwrap();
    }

    #[test]
    fn many_links_go_at_once_and_others_stay() {
        apart(|links| {
            for number in 0..4_u8 {
                let mac = [2, 0, 0, 0, 0, number];
                let address = (Ipv4Addr::new(10, number, 0, 1), 16);
                links.ensure_bridge(&format!("b{number}"), mac, address).unwrap();
            }
            join_group(links, "b3", 7);
            links.remove_all(&BTreeSet::from(["b0", "b1", "absent"])).unwrap();
            assert_eq!(bridges(links), [("b2".to_owned(), 0), ("b3".to_owned(), 7)]);
            // Nobody else's link goes because it is in the group that is used for it.
            join_group(links, "b2", LEAVING);
            links.ensure_bridge("b4", [2, 0, 0, 0, 0, 4], (Ipv4Addr::new(10, 4, 0, 1), 16)).unwrap();
            links.remove_all(&BTreeSet::from(["b3", "b4"])).unwrap();
            assert_eq!(bridges(links), [("b2".to_owned(), LEAVING)]);
            links.remove_all(&BTreeSet::from(["b2"])).unwrap();
            links.remove_all(&BTreeSet::new()).unwrap();
            assert_eq!(bridges(links), []);
        });
    }

    #[test]
    fn answers_cut_anywhere_are_no_links() {
        let head = link_head(7, 0);
        for length in 0..=head.len() {
            let received = Received { kind: NEW_LINK, sequence: 0, body: &head[..length] };
            assert_eq!(link_of(&received), None);
            assert_eq!(default_route_of(&received), None);
        }
    }
}

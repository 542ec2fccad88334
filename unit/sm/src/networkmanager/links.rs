//! Links, addresses and routes through netlink. Every operation can be repeated: what is there stays.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, LinkVlan, RouteMessageBuilder, new_connection};

use super::netns;
use crate::Error;

/// Name of the interface inside an instance.
pub const INSIDE_NAME: &str = "eth0";

/// A netlink socket in the namespace it was opened in.
pub struct Links {
    handle: Handle,
}

fn failed(action: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Netlink { action, source }
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn unless_there(result: Result<(), rtnetlink::Error>, action: impl FnOnce() -> String) -> Result<(), Error> {
    match result {
        Err(error) if is_errno(&error, nix::libc::EEXIST) => Ok(()),
        other => other.map_err(failed(action())),
    }
}

impl Links {
    /// Opens the socket; needs a tokio runtime, which then runs its task.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = new_connection().map_err(Error::system("open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is_errno(&error, nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for link {name}"))(error)),
        }
    }

    async fn need(&self, name: &str) -> Result<LinkMessage, Error> {
        self.find(name).await?.ok_or_else(|| Error::NotFound(format!("link {name}")))
    }

    async fn up(&self, index: u32, name: &str) -> Result<(), Error> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed(format!("bring link {name} up")))
    }

    async fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8, name: &str) -> Result<(), Error> {
        let added = self.handle.address().add(index, IpAddr::V4(address), prefix).execute().await;
        unless_there(added, || format!("give link {name} the address {address}/{prefix}"))
    }

    /// The bridge of a network: there, addressed and up.
    pub async fn ensure_bridge(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        let added = self.handle.link().add(LinkBridge::new(name).build()).execute().await;
        unless_there(added, || format!("add bridge {name}"))?;
        let index = self.need(name).await?.header.index;
        self.add_address(index, address, prefix, name).await?;
        self.up(index, name).await
    }

    /// A VLAN on the interface of the default route, enslaved to the bridge. False when there is no such
    /// interface or the kernel has no VLANs.
    pub async fn ensure_vlan(&self, name: &str, id: u16, bridge: &str) -> Result<bool, Error> {
        let Some(uplink) = self.default_route_link().await? else { return Ok(false) };
        if self.find(name).await?.is_none() {
            let added = self.handle.link().add(LinkVlan::new(name, uplink, id).build()).execute().await;
            match added {
                Err(error) if is_errno(&error, nix::libc::EOPNOTSUPP) => return Ok(false),
                other => unless_there(other, || format!("add VLAN {name}"))?,
            }
        }
        let index = self.need(name).await?.header.index;
        let bridge_index = self.need(bridge).await?.header.index;
        let join = LinkUnspec::new_with_index(index).controller(bridge_index).up().build();
        self.handle
            .link()
            .set(join)
            .execute()
            .await
            .map_err(failed(format!("join VLAN {name} to {bridge}")))?;
        Ok(true)
    }

    async fn default_route_link(&self) -> Result<Option<u32>, Error> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(query).execute();
        while let Some(route) = routes.try_next().await.map_err(failed("read the routes".to_owned()))? {
            if route.header.destination_prefix_length != 0 {
                continue;
            }
            for attribute in route.attributes {
                if let RouteAttribute::Oif(index) = attribute {
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    /// True when the host end exists, is a virtual cable and hangs on the bridge.
    pub async fn is_plugged(&self, veth: &str, bridge: &str) -> Result<bool, Error> {
        let (Some(link), Some(bridge)) = (self.find(veth).await?, self.find(bridge).await?) else {
            return Ok(false);
        };
        let mut kind_fits = false;
        let mut bridge_fits = false;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Controller(index) => bridge_fits = *index == bridge.header.index,
                LinkAttribute::LinkInfo(infos) => {
                    kind_fits = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        Ok(kind_fits && bridge_fits)
    }

    /// Lays a cable from the bridge into the namespace at `space` and sets everything up inside.
    pub async fn plug(
        &self,
        veth: &str,
        bridge: &str,
        space: &Path,
        (address, prefix): (Ipv4Addr, u8),
        gateway: Ipv4Addr,
    ) -> Result<(), Error> {
        self.remove(veth).await?;
        // The peer gets a name of its own first: this namespace may have an interface of the inside name.
        let peer = format!("p{veth}");
        let peer = peer.get(..15).unwrap_or(&peer).to_owned();
        let added = self.handle.link().add(LinkVeth::new(veth, &peer).build()).execute().await;
        added.map_err(failed(format!("add cable {veth}")))?;
        let peer_index = self.need(&peer).await?.header.index;
        let file = File::open(space).map_err(Error::file("open network namespace", space))?;
        let moved =
            LinkUnspec::new_with_index(peer_index).setns_by_fd(file.as_raw_fd()).name(INSIDE_NAME).build();
        self.handle
            .link()
            .set(moved)
            .execute()
            .await
            .map_err(failed(format!("move {peer} into its namespace")))?;
        netns::inside(space, move || async move {
            let links = Self::open()?;
            let lo = links.need("lo").await?.header.index;
            links.up(lo, "lo").await?;
            let index = links.need(INSIDE_NAME).await?.header.index;
            links.add_address(index, address, prefix, INSIDE_NAME).await?;
            links.up(index, INSIDE_NAME).await?;
            let route =
                RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
            let added = links.handle.route().add(route).execute().await;
            unless_there(added, || format!("add the default route through {gateway}"))
        })
        .await?;
        let bridge_index = self.need(bridge).await?.header.index;
        let index = self.need(veth).await?.header.index;
        let join = LinkUnspec::new_with_index(index).controller(bridge_index).up().build();
        self.handle.link().set(join).execute().await.map_err(failed(format!("join {veth} to {bridge}")))
    }

    /// Removes a link; no error when it is not there.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            Err(error) if is_errno(&error, nix::libc::ENODEV) => Ok(()),
            other => other.map_err(failed(format!("remove link {name}"))),
        }
    }
}

//! The node's links: their properties, the programs that others attached to them, and their changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use futures::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, Nla, NlasIterator};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader};
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage, TcOption};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, RouteMessageBuilder};

const RTMGRP_LINK: u32 = 1;
const RTMGRP_TC: u32 = 8;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// `TCA_BPF_NAME` of `linux/pkt_cls.h`.
const TCA_BPF_NAME: u16 = 7;

/// What is known of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub index: u32,
    pub name: String,
    /// `IFLA_INFO_KIND`; empty for a physical device.
    pub kind: String,
    pub loopback: bool,
    /// The other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// The device of which the link is a port.
    pub master: Option<Master>,
    /// The device on which the link is, by interface index: a VLAN has one.
    pub on: Option<u32>,
    /// A default route leaves by the link.
    pub default_route: bool,
}

/// A device that has other links as its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    pub index: u32,
    /// `IFLA_INFO_SLAVE_KIND`: `bridge`, `vrf`, `openvswitch` and so on.
    pub kind: String,
}

impl Facts {
    /// The bridge of which the link is a port, by its interface index.
    pub fn bridge(&self) -> Option<u32> {
        self.master.as_ref().filter(|master| master.kind == "bridge").map(|master| master.index)
    }

    /// The kind of a switch other than a bridge of which the link is a port.
    pub fn switch(&self) -> Option<&str> {
        let master = self.master.as_ref().map(|master| master.kind.as_str());
        master.filter(|kind| !matches!(*kind, "bridge" | "vrf"))
    }
}

/// A host that a bridge has learned: an entry of the bridge's forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Interface indexes.
    pub bridge: u32,
    pub port: u32,
    pub mac: [u8; 6],
}

/// A classifier that is attached by clsact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub priority: u16,
    pub handle: (u16, u16),
    /// The name of the BPF program, if the classifier is one.
    pub name: Option<String>,
}

/// Direction at a link, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A connection to rtnetlink, in the network namespace of the thread that made it.
#[derive(Clone)]
pub struct Netdev {
    handle: Handle,
}

/// Something about links, their filters or their addresses has changed; the receiver has to look up what.
pub struct Changed;

impl Netdev {
    /// Connects, and also returns a stream of changes. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the kernel refuses a netlink socket.
    pub fn connect() -> anyhow::Result<(Self, impl Stream<Item = Changed> + Unpin)> {
        let (mut connection, handle, messages) = rtnetlink::new_connection().context("open rtnetlink")?;
        connection
            .socket_mut()
            .socket_mut()
            .bind(&SocketAddr::new(0, RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            .context("follow changes of links")?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _): (NetlinkMessage<RouteNetlinkMessage>, _)| {
            drop(message);
            futures::future::ready(Some(Changed))
        });
        Ok((Self { handle }, changes))
    }

    /// All links, in the order of their indexes.
    ///
    /// # Errors
    /// If the kernel cannot list links or routes.
    pub async fn links(&self) -> anyhow::Result<Vec<Facts>> {
        let routed = self.default_routes().await?;
        let mut links: Vec<Facts> =
            self.handle.link().get().execute().map_ok(|message| facts(&message)).try_collect().await?;
        for link in &mut links {
            link.default_route = routed.contains(&link.index);
        }
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    async fn default_routes(&self) -> anyhow::Result<BTreeSet<u32>> {
        let mut found = BTreeSet::new();
        let families = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for family in families {
            let mut routes = self.handle.route().get(family).execute();
            while let Some(route) = routes.try_next().await? {
                let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
                if main && route.header.destination_prefix_length == 0 {
                    found.extend(route.attributes.iter().filter_map(|attribute| match attribute {
                        RouteAttribute::Oif(index) => Some(*index),
                        _ => None,
                    }));
                }
            }
        }
        Ok(found)
    }

    /// Addresses of a link, or of all links.
    ///
    /// # Errors
    /// If the kernel cannot list addresses.
    pub async fn addresses(&self, index: Option<u32>) -> anyhow::Result<Vec<IpAddr>> {
        let messages: Vec<_> = self.handle.address().get().execute().try_collect().await?;
        let of_link =
            messages.iter().filter(|message| index.is_none_or(|index| message.header.index == index));
        Ok(of_link.filter_map(|message| own_address(&message.attributes)).collect())
    }

    /// The hosts that bridges have learned.
    ///
    /// # Errors
    /// If the kernel cannot list them.
    pub async fn stations(&self) -> anyhow::Result<Vec<Station>> {
        let mut request = self.handle.neighbours().get();
        request.message_mut().header.family = AddressFamily::Bridge;
        let entries: Vec<_> = request.execute().try_collect().await.context("list the hosts on bridges")?;
        Ok(entries.iter().filter_map(station).collect())
    }

    /// Removes a link.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove_link(&self, index: u32) -> anyhow::Result<()> {
        Ok(self.handle.link().del(index).execute().await?)
    }

    /// The classifiers on a link; none if the link has no clsact.
    ///
    /// # Errors
    /// If the kernel cannot list classifiers.
    pub async fn filters(&self, index: u32, direction: Direction) -> anyhow::Result<Vec<Filter>> {
        let handle = self.handle.clone();
        let request = handle.traffic_filter(index as i32).get();
        let request = match direction {
            Direction::Ingress => request.ingress(),
            Direction::Egress => request.egress(),
        };
        let mut found = Vec::new();
        let mut messages = Box::pin(request.execute());
        loop {
            match messages.try_next().await {
                // For each priority, one message without a handle stands for the classifier itself.
                Ok(Some(message)) if u32::from(message.header.handle) != 0 => found.push(filter(&message)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(found),
                Err(rtnetlink::Error::NetlinkError(error))
                    if matches!(error.raw_code().abs(), libc::EINVAL | libc::ENODEV | libc::ENOENT) =>
                {
                    return Ok(found);
                }
                Err(error) => return Err(error).context("list classifiers"),
            }
        }
    }

    /// Removes the clsact qdisc of a link, if there is one.
    pub async fn remove_clsact(&self, index: u32) {
        let mut request = self.handle.clone().qdisc().del(index as i32);
        let message = request.message_mut();
        message.header.parent = rtnetlink::packet_route::tc::TcHandle::CLSACT;
        message.header.handle = rtnetlink::packet_route::tc::TcHandle { major: 0xffff, minor: 0 };
        if let Err(error) = request.execute().await {
            tracing::debug!("the clsact of link {index} stays: {error}");
        }
    }
}

fn station(message: &NeighbourMessage) -> Option<Station> {
    let (mut bridge, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Controller(index) => bridge = Some(*index),
            NeighbourAttribute::LinkLocalAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Station { bridge: bridge?, port: message.header.ifindex, mac: mac? })
}

fn filter(message: &TcMessage) -> Filter {
    let handle = u32::from(message.header.handle);
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(bpf_name),
        _ => None,
    });
    Filter {
        priority: (message.header.info >> 16) as u16,
        handle: ((handle >> 16) as u16, (handle & 0xffff) as u16),
        name,
    }
}

/// The crate does not decode options of this kind: they are one attribute that contains attributes.
fn bpf_name(option: &TcOption) -> Option<String> {
    let TcOption::Other(options) = option else { return None };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let name = NlasIterator::new(&bytes).flatten().find(|attribute| attribute.kind() == TCA_BPF_NAME)?;
    Some(String::from_utf8_lossy(name.value()).trim_end_matches('\0').to_owned())
}

fn facts(message: &LinkMessage) -> Facts {
    let mut facts = Facts {
        index: message.header.index,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Facts::default()
    };
    let (mut controller, mut port_kind) = (None, String::new());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => controller = Some(*index),
            LinkAttribute::Link(index) => facts.on = Some(*index),
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => facts.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => facts.kind = kind_name(kind),
                        LinkInfo::PortKind(kind) => port_kind = kind.to_string(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    facts.master = controller.map(|index| Master { index, kind: port_kind });
    facts
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// The address of the node's end: on a point-to-point link, `IFA_ADDRESS` is the peer's (`linux/if_addr.h`).
fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

//! The node's links: what they are, what role they have, which programs others put on them, and when they
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use anyhow::Context;
use futures::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, Nla, NlasIterator};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader};
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage, TcOption};
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
    /// A port of a bridge.
    pub bridge_port: bool,
    /// A default route leads out of it.
    pub default_route: bool,
}

/// What the agent does with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A pod is behind it.
    Pod,
    /// It leads out of the node.
    Uplink,
    /// It carries the traffic of an overlay.
    Tunnel,
    /// Left alone.
    None,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Pod => "pod",
            Self::Uplink => "uplink",
            Self::Tunnel => "tunnel",
            Self::None => "none",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pod" => Ok(Self::Pod),
            "uplink" => Ok(Self::Uplink),
            "tunnel" => Ok(Self::Tunnel),
            "none" => Ok(Self::None),
            _ => Err(format!("{text}: a role is pod, uplink, tunnel or none")),
        }
    }
}

/// Roles that the operator gave by name; they win.
pub type Overrides = BTreeMap<String, Role>;

/// The role of a link and the reason for it.
pub fn role(facts: &Facts, overrides: &Overrides) -> (Role, &'static str) {
    if let Some(role) = overrides.get(&facts.name) {
        return (*role, "--link-role");
    }
    let pod_kind = matches!(facts.kind.as_str(), "veth" | "netkit" | "tun");
    if facts.loopback {
        (Role::None, "loopback")
    } else if matches!(
        facts.kind.as_str(),
        "vxlan" | "geneve" | "ipip" | "ip6tnl" | "sit" | "gre" | "wireguard"
    ) {
        (Role::Tunnel, "kind of link")
    } else if pod_kind && facts.bridge_port {
        (Role::Pod, "port of a bridge")
    } else if facts.default_route {
        // Also where its peer is elsewhere: a node that is itself a container.
        (Role::Uplink, "default route")
    } else if pod_kind && facts.peer_elsewhere {
        (Role::Pod, "peer in another network namespace")
    } else if pod_kind {
        (Role::None, "peer in this network namespace")
    } else if facts.bridge_port {
        (Role::None, "a device of the host, port of a bridge")
    } else {
        (Role::None, "no default route")
    }
}

/// A classifier that somebody attached by clsact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub priority: u16,
    pub handle: (u16, u16),
    /// Of a BPF program.
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

/// Something about links, their filters or addresses changed; what, is to be looked up.
pub struct Changed;

impl Netdev {
    /// Also gives a stream of changes. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no netlink socket.
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

    /// All links.
    ///
    /// # Errors
    /// The kernel's.
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
    /// The kernel's.
    pub async fn addresses(&self, index: Option<u32>) -> anyhow::Result<Vec<IpAddr>> {
        let messages: Vec<_> = self.handle.address().get().execute().try_collect().await?;
        let of_link =
            messages.iter().filter(|message| index.is_none_or(|index| message.header.index == index));
        Ok(of_link.filter_map(|message| own_address(&message.attributes)).collect())
    }

    /// Removes a link.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_link(&self, index: u32) -> anyhow::Result<()> {
        Ok(self.handle.link().del(index).execute().await?)
    }

    /// The classifiers on a link; none where it has no clsact.
    ///
    /// # Errors
    /// The kernel's.
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
                // One message a priority stands for the classifier itself, without a handle.
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

    /// Removes the clsact qdisc of a link; nothing where there is none.
    pub async fn remove_clsact(&self, index: u32) {
        let mut request = self.handle.clone().qdisc().del(index as i32);
        let message = request.message_mut();
        message.header.parent = rtnetlink::packet_route::tc::TcHandle::CLSACT;
        message.header.handle = rtnetlink::packet_route::tc::TcHandle { major: 0xffff, minor: 0 };
        if let Err(error) = request.execute().await {
            tracing::debug!("clsact of link {index} stays: {error}");
        }
    }
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

/// The crate leaves the options of this kind as they came: one attribute, full of attributes.
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
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => facts.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => facts.kind = kind_name(kind),
                        LinkInfo::PortKind(kind) => {
                            facts.bridge_port = format!("{kind:?}").contains("Bridge")
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    facts
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// The node's end: on a point-to-point link, `IFA_ADDRESS` is the peer's (`linux/if_addr.h`).
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: &str) -> Facts {
        Facts { index: 7, name: "x0".into(), kind: kind.into(), ..Facts::default() }
    }

    fn role_of(facts: &Facts) -> Role {
        role(facts, &Overrides::new()).0
    }

    #[test]
    fn a_veth_with_its_peer_elsewhere_is_a_pod() {
        assert_eq!(role_of(&Facts { peer_elsewhere: true, ..link("veth") }), Role::Pod);
        assert_eq!(role_of(&link("veth")), Role::None);
    }

    #[test]
    fn a_bridge_port_is_a_pod_but_a_physical_one_is_not() {
        assert_eq!(role_of(&Facts { bridge_port: true, ..link("veth") }), Role::Pod);
        assert_eq!(role_of(&Facts { bridge_port: true, ..link("") }), Role::None);
    }

    #[test]
    fn a_default_route_makes_an_uplink_and_an_overlay_kind_a_tunnel() {
        assert_eq!(role_of(&Facts { default_route: true, ..link("") }), Role::Uplink);
        assert_eq!(role_of(&Facts { default_route: true, ..link("bond") }), Role::Uplink);
        let of_a_container = Facts { default_route: true, peer_elsewhere: true, ..link("veth") };
        assert_eq!(role_of(&of_a_container), Role::Uplink);
        assert_eq!(role_of(&link("vxlan")), Role::Tunnel);
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let overrides = Overrides::from([("x0".to_owned(), Role::None)]);
        let facts = Facts { peer_elsewhere: true, ..link("veth") };
        assert_eq!(role(&facts, &overrides), (Role::None, "--link-role"));
    }
}

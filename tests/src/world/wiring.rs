//! Links, addresses, routes and filters of a world.

use super::layout::{Cni, Layout};
use super::netns::Netns;
use super::pod::Pod;
use crate::packet::Mac;
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The MAC address of the node's end of every pod link, and of `cni0`: the gateway of pods.
pub const GATEWAY_MAC: Mac = Mac([0xee; 6]);

pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x77, 0, 0, 0, 1);
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x77, 0, 0, 0, 0x100);

/// Writes the settings that must precede the first link, because links inherit them.
pub(super) fn prepare(netns: &Netns, is_node: bool, layout: &Layout) -> Result<()> {
    let rp_filter = if is_node { layout.rp_filter.to_string() } else { "0".into() };
    netns.set_sysctls(&[
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/dad_transmits", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", &rp_filter),
    ])?;
    if is_node {
        netns.set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    } else {
        // Load tests open more connections than the default range has ports.
        netns.set_sysctls(&[
            ("net/ipv4/ip_local_port_range", "32768 65535"),
            ("net/ipv4/tcp_tw_reuse", "1"),
        ])?;
    }
    netns.ip("link set lo up\n")
}

/// Makes the node's link to the outside, which has the default route.
pub(super) fn uplink(node: &Netns, outside: &Netns, layout: &Layout) -> Result<()> {
    let (mtu, peer) = (layout.mtu, outside.name());
    node.ip(&format!(
        "link add uplink mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}\n\
         addr add {NODE_V4}/24 dev uplink\n\
         addr add {NODE_V6}/64 dev uplink nodad\n\
         link set uplink up\n"
    ))?;
    outside.ip(&format!(
        "addr add {OUTSIDE_V4}/24 dev eth0\n\
         addr add {OUTSIDE_V6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add 10.244.0.0/16 via {NODE_V4}\n\
         route add fd00:10:244::/48 via {NODE_V6}\n"
    ))?;
    node.ip(&format!("route add default via {OUTSIDE_V4}\nroute add ::/0 via {OUTSIDE_V6}\n"))
}

/// Makes what the node has once, independently of its pods.
pub(super) fn cni(node: &Netns, layout: &Layout) -> Result<()> {
    let Cni::Bridge { br_netfilter, drop_invalid } = layout.cni else { return Ok(()) };
    let mtu = layout.mtu;
    node.ip(&format!(
        "link add cni0 address {GATEWAY_MAC} mtu {mtu} type bridge\n\
         addr add 10.244.1.1/24 dev cni0\n\
         addr add fd00:10:244:1::1/64 dev cni0 nodad\n\
         link set cni0 up\n"
    ))?;
    let call = if br_netfilter { "1" } else { "0" };
    node.set_sysctls(&[
        ("net/bridge/bridge-nf-call-iptables", call),
        ("net/bridge/bridge-nf-call-ip6tables", call),
    ])?;
    if drop_invalid {
        // The match itself enables conntrack in this namespace.
        let rule = ["-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"];
        node.run("iptables", &rule)?;
        node.run("ip6tables", &rule)?;
    }
    Ok(())
}

/// Makes both ends of a pod's link.
pub(super) fn pod(node: &Netns, pod: &Pod, layout: &Layout) -> Result<()> {
    match layout.cni {
        Cni::Routed => routed_pod(node, pod, layout.mtu),
        Cni::Bridge { .. } => bridged_pod(node, pod, layout.mtu),
    }
}

fn routed_pod(node: &Netns, pod: &Pod, mtu: u32) -> Result<()> {
    let Pod { link, v4, v6, netns, .. } = pod;
    node.ip(&format!(
        "link add {link} address {GATEWAY_MAC} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
         addr add fe80::1/64 dev {link} nodad\n\
         link set {link} up\n\
         route add {v4}/32 dev {link}\n\
         route add {v6}/128 dev {link}\n",
        netns.name()
    ))?;
    // Calico's node answers for 169.254.1.1 by proxy ARP; a permanent neighbour does the same without the delay.
    netns.ip(&format!(
        "addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         neigh replace 169.254.1.1 lladdr {GATEWAY_MAC} dev eth0 nud permanent\n\
         route add 169.254.1.1/32 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add ::/0 via fe80::1 dev eth0\n"
    ))
}

fn bridged_pod(node: &Netns, pod: &Pod, mtu: u32) -> Result<()> {
    let Pod { link, v4, v6, netns, .. } = pod;
    // The address of a pod never changes, because its neighbours remember it while its link is away.
    let mac = Mac([2, 0, 10, 244, 1, v4.octets()[3]]);
    node.ip(&format!(
        "link add {link} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {}\n\
         link set {link} addrgenmode none\n\
         link set {link} master cni0 up\n",
        netns.name()
    ))?;
    netns.ip(&format!(
        "addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via 10.244.1.1\n\
         route add ::/0 via fd00:10:244:1::1\n"
    ))
}

//! What kube-proxy left in IPVS mode: `kube-ipvs0` with every service address, ipsets and virtual servers.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use libc::NFNL_SUBSYS_IPSET;

use super::phrase::count;
use crate::node::genetlink::Genetlink;
use crate::node::netdev::Netdev;
use crate::node::nfnetlink::{Attributes, Message, Nfnetlink, text};

/// The device that holds every service address (pkg/proxy/ipvs/proxier.go).
pub const DEVICE: &str = "kube-ipvs0";

/// Names of kube-proxy's sets (pkg/proxy/ipvs/ipset.go), after `KUBE-`, or `KUBE-6-` for IPv6. Sets of kube-router
/// begin with `KUBE-` too.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// `linux/netfilter/ipset/ip_set.h`.
mod ipset {
    pub const PROTOCOL: u8 = 6;
    pub const CMD_DESTROY: i32 = 3;
    pub const CMD_LIST: i32 = 7;
    pub const ATTR_PROTOCOL: u16 = 1;
    pub const ATTR_SETNAME: u16 = 2;
    pub const ATTR_FLAGS: u16 = 6;
    pub const FLAG_LIST_SETNAME: u32 = 2;
}

/// The generic netlink family `IPVS` (`linux/ip_vs.h`).
mod ip_vs {
    pub const FAMILY: &str = "IPVS";
    pub const CMD_DEL_SERVICE: u8 = 3;
    pub const CMD_ATTR_SERVICE: u16 = 1;
    pub const SVC_ATTR_AF: u16 = 1;
    pub const SVC_ATTR_PROTOCOL: u16 = 2;
    pub const SVC_ATTR_ADDR: u16 = 3;
    pub const SVC_ATTR_PORT: u16 = 4;
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The interface index of [`DEVICE`], and its addresses.
    pub device: Option<(u32, Vec<IpAddr>)>,
    pub sets: Vec<String>,
    pub servers: Vec<Server>,
    /// Virtual servers that are not kube-proxy's.
    pub foreign_servers: Vec<Server>,
    /// The firewall marks of virtual servers by mark, which kube-proxy never makes.
    pub foreign_marks: Vec<u32>,
}

/// What became of an attempt to remove.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    /// What is gone.
    pub gone: Found,
    /// A phrase for each thing that is still there, and why.
    pub failed: Vec<String>,
}

/// A virtual server of IPVS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub address: SocketAddr,
}

impl Server {
    fn protocol_number(&self) -> u16 {
        let number = match self.protocol.as_str() {
            "TCP" => libc::IPPROTO_TCP,
            "UDP" => libc::IPPROTO_UDP,
            _ => libc::IPPROTO_SCTP,
        };
        number as u16
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let flag = match self.protocol.as_str() {
            "TCP" => "--tcp-service",
            "UDP" => "--udp-service",
            _ => "--sctp-service",
        };
        write!(f, "{flag} {}", self.address)
    }
}

/// Searches the links, sets and virtual servers of this network namespace.
///
/// # Errors
/// The error of the kernel; `PermissionDenied` without CAP_NET_ADMIN.
pub async fn find(netdev: &Netdev) -> anyhow::Result<Found> {
    let links = netdev.links().await?;
    let device = match links.iter().find(|link| link.name == DEVICE) {
        Some(link) => Some((link.index, netdev.addresses(Some(link.index)).await?)),
        None => None,
    };
    let on_device = device.iter().flat_map(|(_, addresses)| addresses).copied().collect();
    let of_node = netdev.addresses(None).await?.into_iter().collect();
    let table = table()?;
    let (servers, foreign_servers) =
        table.lines().filter_map(server).partition(|server| is_kube_proxys(server, &on_device, &of_node));
    let foreign_marks = table.lines().filter_map(mark).collect();
    Ok(Found { device, sets: sets()?, servers, foreign_servers, foreign_marks })
}

/// Returns true if the address of the server is on the device, or the server is a NodePort of the usual range.
/// keepalived and other programs have virtual servers too.
fn is_kube_proxys(server: &Server, device: &BTreeSet<IpAddr>, node: &BTreeSet<IpAddr>) -> bool {
    let node_port = node.contains(&server.address.ip()) && (30_000..32_768).contains(&server.address.port());
    device.contains(&server.address.ip()) || node_port
}

/// The table of virtual servers, as text.
fn table() -> io::Result<String> {
    match std::fs::read_to_string("/proc/thread-self/net/ip_vs") {
        // The kernel lacks IPVS, or IPVS is not in use.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Parses `TCP  0A600001:01BB rr`, or a line with an address such as `[fd00:0010:...]`. Other lines are real servers.
fn server(line: &str) -> Option<Server> {
    let mut words = line.split_whitespace();
    let protocol = words.next().filter(|word| ["TCP", "UDP", "SCTP"].contains(word))?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?.parse().ok()?,
        None => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(host, 16).ok()?)),
    };
    Some(Server { protocol: protocol.to_owned(), address: SocketAddr::new(host, port) })
}

/// Parses `FWM  00000007 rr`.
fn mark(line: &str) -> Option<u32> {
    let mark = line.strip_prefix("FWM")?.split_whitespace().next()?;
    u32::from_str_radix(mark, 16).ok()
}

/// The names of kube-proxy's sets that exist.
fn sets() -> io::Result<Vec<String>> {
    let list = Attributes::new()
        .bytes(ipset::ATTR_PROTOCOL, &[ipset::PROTOCOL])
        .bytes(ipset::ATTR_FLAGS, &ipset::FLAG_LIST_SETNAME.to_be_bytes());
    let mut sets = Vec::new();
    let message = Message::new(NFNL_SUBSYS_IPSET, ipset::CMD_LIST, libc::AF_INET as u8, list);
    let Some(mut netlink) = Nfnetlink::open()? else { return Ok(sets) };
    let listed = netlink.dump(&message, |attributes| {
        sets.extend(text(attributes, ipset::ATTR_SETNAME).filter(|name| is_kube_proxys_set(name)));
    });
    match listed {
        // The kernel lacks ipset.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        listed => listed.map(|()| sets),
    }
}

fn is_kube_proxys_set(name: &str) -> bool {
    let name = name.strip_prefix("KUBE-6-").or_else(|| name.strip_prefix("KUBE-"));
    name.is_some_and(|name| SETS.contains(&name))
}

fn destroy(set: &str) -> io::Result<()> {
    /// `IPSET_ERR_BUSY` of `linux/netfilter/ipset/ip_set.h`: a rule still uses the set.
    const BUSY: i32 = 4_100;
    let name =
        Attributes::new().bytes(ipset::ATTR_PROTOCOL, &[ipset::PROTOCOL]).text(ipset::ATTR_SETNAME, set);
    let message = Message::new(NFNL_SUBSYS_IPSET, ipset::CMD_DESTROY, libc::AF_INET as u8, name);
    let mut netlink = Nfnetlink::reopen()?;
    let mut tries = 50;
    loop {
        match netlink.ask(&message, |_| {}) {
            // nftables frees deleted rules a little later.
            Err(error) if error.raw_os_error() == Some(BUSY) && tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.raw_os_error() == Some(BUSY) => {
                return Err(io::Error::other("a rule of another program uses the set"));
            }
            done => return done,
        }
    }
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.device.is_none() && self.sets.is_empty() && self.servers.is_empty()
    }

    /// A phrase for each finding.
    pub fn summary(&self) -> Vec<String> {
        let device = self.device.iter();
        let device =
            device.map(|(_, addresses)| format!("{DEVICE} with {}", count(addresses.len(), "address")));
        let counts = [(self.sets.len(), "ipset"), (self.servers.len(), "IPVS virtual server")];
        let counts = counts.into_iter().filter(|(number, _)| *number > 0);
        device.chain(counts.map(|(number, what)| count(number, what))).collect()
    }

    /// Commands that do what [`Found::remove`] does.
    pub fn commands(&self) -> Vec<String> {
        let servers = self.servers.iter().map(|server| format!("ipvsadm --delete-service {server}"));
        let device = self.device.iter().map(|_| format!("ip link delete {DEVICE}"));
        let sets = self.sets.iter().map(|set| format!("ipset destroy {set}"));
        servers.chain(device).chain(sets).collect()
    }

    /// Removes what was found. Sets are in use until the rules that name them are removed. kube-proxy's virtual servers
    /// are told from others by the addresses of the device, so the device stays if a server does, and a later attempt
    /// finds both.
    pub async fn remove(self, netdev: &Netdev) -> Removal {
        let mut removal = Removal::default();
        for server in self.servers {
            match delete_server(&server) {
                Ok(()) => removal.gone.servers.push(server),
                Err(error) => removal.failed.push(format!("IPVS virtual server {server}: {error}")),
            }
        }
        if let Some((index, addresses)) = self.device {
            if removal.failed.is_empty() {
                match netdev.remove_link(index).await {
                    Ok(()) => removal.gone.device = Some((index, addresses)),
                    Err(error) => removal.failed.push(format!("{DEVICE}: {error:#}")),
                }
            } else {
                removal
                    .failed
                    .push(format!("{DEVICE} stays, because a virtual server on its addresses does"));
            }
        }
        for set in self.sets {
            match destroy(&set) {
                Ok(()) => removal.gone.sets.push(set),
                Err(error) => removal.failed.push(format!("ipset {set}: {error}")),
            }
        }
        removal
    }
}

/// Deletes a virtual server of this network namespace, as `ipvsadm --delete-service` does. One that is already gone is
/// no error.
fn delete_server(server: &Server) -> io::Result<()> {
    let (family, address) = match server.address.ip() {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut room = [0; 16];
    room[..address.len()].copy_from_slice(&address);
    let service = Attributes::new()
        .bytes(ip_vs::SVC_ATTR_AF, &(family as u16).to_ne_bytes())
        .bytes(ip_vs::SVC_ATTR_PROTOCOL, &server.protocol_number().to_ne_bytes())
        .bytes(ip_vs::SVC_ATTR_ADDR, &room)
        .bytes(ip_vs::SVC_ATTR_PORT, &server.address.port().to_be_bytes());
    let service = Attributes::new().nested(ip_vs::CMD_ATTR_SERVICE, &service);
    match Genetlink::open(ip_vs::FAMILY)?.ask(ip_vs::CMD_DEL_SERVICE, &service) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROC: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0AF4010B:192B      Masq    1      0          0
UDP  [fd00:0010:0096:0000:0000:0000:0000:000a]:0035 rr
FWM  00000001 wlc
TCP  C0A84D01:7918 rr
TCP  C0A84D01:0050 wlc
";

    #[test]
    fn virtual_servers_are_read_as_the_kernel_prints_them() {
        let servers: Vec<Server> = PROC.lines().filter_map(server).collect();
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "--tcp-service 10.96.0.1:443",
                "--udp-service [fd00:10:96::a]:53",
                "--tcp-service 192.168.77.1:31000",
                "--tcp-service 192.168.77.1:80",
            ]
        );
        let set = |text: &str| BTreeSet::from([text.parse::<IpAddr>().expect("an address")]);
        let ours: Vec<bool> = servers
            .iter()
            .map(|server| is_kube_proxys(server, &set("10.96.0.1"), &set("192.168.77.1")))
            .collect();
        assert_eq!(ours, [true, false, true, false], "port 80 of the node belongs to another program");
    }

    #[test]
    fn sets_of_kube_router_are_not_kube_proxys() {
        for name in ["KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "KUBE-NODE-PORT-LOCAL-SCTP-HASH"] {
            assert!(is_kube_proxys_set(name), "{name}");
        }
        for name in ["KUBE-DST-2FAIIK2E4RIPMTGF", "kube-router-local-ips", "inet6:KUBE-SRC-X", "KUBE-"] {
            assert!(!is_kube_proxys_set(name), "{name}");
        }
    }
}

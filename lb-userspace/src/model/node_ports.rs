//! The addresses of the node that NodePorts answer on (`--nodeport-addresses`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use lb_common::Addr;

use crate::objects::name::Family;
use crate::objects::node::Node;

/// Words and prefixes; an address counts if one of them selects it.
///
/// As with kube-proxy, a family without any word or prefix of its own is not restricted (k/k
/// pkg/proxy/util/nodeport_addresses.go), and `primary` does not restrict a family in which the Node has no address
/// (k/k cmd/kube-proxy/app/server.go). Words can be combined, as in KEP-6032.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    selectors: Vec<Selector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selector {
    All,
    /// The Node's first InternalIP of the family, else its first ExternalIP.
    Primary,
    Localhost,
    Within(IpNet),
}

impl NodePortAddresses {
    /// Returns those of `addresses`, the addresses of the node's interfaces, that NodePorts answer on. 127.0.0.0/8 is
    /// decided as a whole; [`NodePortAddresses::loopback`] represents the range.
    pub fn select(&self, addresses: &BTreeSet<Addr>, node: Option<&Node>) -> BTreeSet<Addr> {
        let selects = |addr: &&Addr| !IpAddr::from(**addr).is_loopback() && self.selects(**addr, node);
        let mut selected: BTreeSet<Addr> = addresses.iter().filter(selects).copied().collect();
        selected.extend(Family::BOTH.into_iter().filter(|f| self.has_loopback(*f, node)).map(Self::loopback));
        selected
    }

    /// The address that represents all loopback addresses of a family: 127.0.0.1 or ::1.
    pub fn loopback(family: Family) -> Addr {
        match family {
            Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
            Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn selects(&self, addr: Addr, node: Option<&Node>) -> bool {
        let family = Family::of(addr);
        self.of(family, node).into_iter().any(|selector| match selector {
            Selector::All => true,
            Selector::Primary => node.and_then(|node| node.primary_ip(family)) == Some(addr),
            Selector::Localhost => false,
            Selector::Within(net) => net.contains(&IpAddr::from(addr)),
        })
    }

    /// Whether NodePorts answer on loopback addresses. kube-proxy never serves NodePorts on ::1, and in nftables mode
    /// not on 127.0.0.1 either, because packets to these addresses cannot be redirected; sockets can.
    fn has_loopback(&self, family: Family, node: Option<&Node>) -> bool {
        self.of(family, node).into_iter().any(|selector| match selector {
            Selector::All | Selector::Localhost => true,
            Selector::Primary => false,
            Selector::Within(net) => {
                let loopback = IpAddr::from(Self::loopback(family));
                net.contains(&loopback) || net.addr().is_loopback()
            }
        })
    }

    /// The selectors that apply to a family.
    fn of(&self, family: Family, node: Option<&Node>) -> Vec<Selector> {
        let has_primary = node.is_some_and(|node| node.primary_ip(family).is_some());
        let counts = |selector: &Selector| match selector {
            Selector::All | Selector::Localhost => true,
            Selector::Primary => has_primary,
            Selector::Within(net) => net.addr().is_ipv4() == (family == Family::Ipv4),
        };
        let selectors: Vec<Selector> = self.selectors.iter().filter(|s| counts(s)).copied().collect();
        if selectors.is_empty() { vec![Selector::All] } else { selectors }
    }
}

/// `all`, `primary`, `localhost` and prefixes, separated by commas.
impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let selector = |text: &str| match text.trim() {
            "all" => Ok(Selector::All),
            "primary" => Ok(Selector::Primary),
            "localhost" => Ok(Selector::Localhost),
            text => match crate::objects::wire::net(text) {
                Ok(net) => Ok(Selector::Within(net)),
                Err(error) => Err(format!("{error}, nor one of all, primary, localhost")),
            },
        };
        let items = text.split(',').filter(|item| !item.trim().is_empty());
        Ok(Self { selectors: items.map(selector).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words = self.selectors.iter().map(|selector| match selector {
            Selector::All => "all".to_owned(),
            Selector::Primary => "primary".to_owned(),
            Selector::Localhost => "localhost".to_owned(),
            Selector::Within(net) => net.to_string(),
        });
        f.write_str(&if self.selectors.is_empty() {
            "all".to_owned()
        } else {
            words.collect::<Vec<_>>().join(",")
        })
    }
}

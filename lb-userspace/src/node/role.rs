//! What the agent does with a link, and why.

use std::collections::BTreeMap;
use std::fmt;

use super::netdev::Facts;

/// What the agent does with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A pod is behind the link.
    Pod,
    /// The link leads out of the node.
    Uplink,
    /// The link carries the traffic of an overlay.
    Tunnel,
    /// The link is left alone.
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

/// Roles that the operator set, by the name of the link; they take precedence.
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
    } else if pod_kind && facts.bridge().is_some() {
        (Role::Pod, "port of a bridge")
    } else if facts.default_route {
        // Even if the peer is elsewhere, because a node may itself be a container.
        (Role::Uplink, "default route")
    } else if pod_kind && facts.peer_elsewhere {
        (Role::Pod, "peer in another network namespace")
    } else if pod_kind {
        (Role::None, "peer in this network namespace")
    } else if facts.bridge().is_some() {
        (Role::None, "a device of the host, port of a bridge")
    } else {
        (Role::None, "no default route")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::netdev::Master;

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
        let master = Some(Master { index: 3, kind: "bridge".into() });
        assert_eq!(role_of(&Facts { master: master.clone(), ..link("veth") }), Role::Pod);
        assert_eq!(role_of(&Facts { master, ..link("") }), Role::None);
    }

    #[test]
    fn a_port_of_open_vswitch_is_told_from_one_of_a_bridge() {
        let of = |kind: &str| Facts {
            master: Some(Master { index: 3, kind: kind.into() }),
            peer_elsewhere: true,
            ..link("veth")
        };
        assert_eq!((of("openvswitch").switch(), of("openvswitch").bridge()), (Some("openvswitch"), None));
        assert_eq!(role_of(&of("openvswitch")), Role::Pod);
        assert_eq!((of("bridge").switch(), of("bridge").bridge()), (None, Some(3)));
        assert_eq!(of("vrf").switch(), None);
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

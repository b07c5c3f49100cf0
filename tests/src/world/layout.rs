//! The layout of a world.

/// How pods are attached to the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cni {
    /// Like Calico: a /32 and a /128 per pod, a host route for each on the node, gateways 169.254.1.1 and fe80::1.
    Routed,
    /// Like the bridge plugin and flannel: a bridge `cni0` with the gateway addresses, the pods' links as its ports.
    Bridge {
        /// Whether bridged packets also pass iptables.
        br_netfilter: bool,
        /// Whether `FORWARD -m conntrack --ctstate INVALID -j DROP` is set, which kube-proxy and others install.
        drop_invalid: bool,
    },
}

/// The description of a world. Start from [`Layout::routed`] or [`Layout::bridge`].
#[derive(Clone, Debug)]
pub struct Layout {
    pub cni: Cni,
    /// Backend pods `b1`, `b2`, ...
    pub backends: usize,
    /// Client pods `client`, `client2`.
    pub clients: usize,
    /// Whether each pod link has a clsact policy program, which drops replies to packets that it has not seen.
    pub policy: bool,
    /// The reverse path filter of the pods' links on the node: 0 is off, 1 strict, 2 loose.
    pub rp_filter: u8,
    pub mtu: u32,
}

impl Layout {
    /// The next backend would get the address of `client2`.
    pub const MAX_BACKENDS: usize = 19;
    pub const MAX_CLIENTS: usize = 2;

    pub fn routed() -> Self {
        Self { cni: Cni::Routed, backends: 3, clients: 1, policy: false, rp_filter: 0, mtu: 1_500 }
    }

    pub fn bridge(br_netfilter: bool, drop_invalid: bool) -> Self {
        Self { cni: Cni::Bridge { br_netfilter, drop_invalid }, ..Self::routed() }
    }

    /// Each layout in which basic traffic must work, with a name for messages. The policy program is a separate
    /// dimension: [`Layout::with_policy`].
    pub fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("routed", Self::routed()),
            ("bridge with br_netfilter", Self::bridge(true, false)),
            ("bridge", Self::bridge(false, false)),
            ("bridge with br_netfilter, INVALID dropped", Self::bridge(true, true)),
            ("bridge, INVALID dropped", Self::bridge(false, true)),
        ]
    }

    pub fn with_backends(self, backends: usize) -> Self {
        assert!(backends <= Self::MAX_BACKENDS, "at most {} backends", Self::MAX_BACKENDS);
        Self { backends, ..self }
    }

    pub fn with_clients(self, clients: usize) -> Self {
        assert!((1..=Self::MAX_CLIENTS).contains(&clients), "one or two clients");
        Self { clients, ..self }
    }

    pub fn with_policy(self) -> Self {
        Self { policy: true, ..self }
    }

    pub fn with_rp_filter(self, rp_filter: u8) -> Self {
        assert!(rp_filter <= 2, "rp_filter is 0, 1 or 2");
        Self { rp_filter, ..self }
    }

    pub fn with_mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }
}

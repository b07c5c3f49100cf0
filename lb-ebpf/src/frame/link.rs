//! The link by which a frame came.

/// How a pod's link is attached to the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The host routes to the pod.
    Routed,
    /// The pod shares a bridge with others: a reply may bypass the host's stack.
    BridgePort,
    /// As `Routed`, but the link is a tap, which has no peer in the pod.
    RoutedTap,
    /// As `BridgePort`, but the link is a tap.
    BridgeTap,
}

impl Link {
    #[inline(always)]
    pub const fn is_port(self) -> bool {
        matches!(self, Self::BridgePort | Self::BridgeTap)
    }

    #[inline(always)]
    pub const fn has_peer(self) -> bool {
        matches!(self, Self::Routed | Self::BridgePort)
    }
}

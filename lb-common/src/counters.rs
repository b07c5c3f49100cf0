//! What is counted: reasons for the node, traffic for a service or a backend.

/// Why something out of the ordinary happened to a packet: the index into `counters`. Order is part of the
/// schema; new ones go to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Counter {
    /// New flow to a service, translated.
    FlowCreated,
    /// New flow straight to a backend's address, recorded so that no translated flow takes its tuple.
    FlowDirect,
    /// Flow moved to `flows`: its far end answered.
    FlowAssured,
    /// Flow left `flows`: both ends closed, or one reset.
    FlowClosed,
    /// Flow removed by the sweep after its idle time.
    FlowExpired,
    /// `flows` is full: an assured flow stays in its LRU.
    FlowTableFull,
    /// Another source port was taken, for the tuple belonged to another flow.
    ClashResolved,
    /// Dropped: no free source port in the bounded number of tries.
    ClashDropped,
    /// UDP or SCTP flow moved to another backend, for its own is gone.
    Resteered,
    /// RST to both ends: the backend of the connection is gone.
    ResetBackendGone,
    /// RST to the client: a segment of a connection that is not known.
    ResetUnknownFlow,
    /// RST to the client: the service has no endpoint.
    ResetNoEndpoint,
    /// Dropped: nobody serves it, and no answer to it can be made (IP options, IPv6 extension headers, SCTP); or SCTP, and
    /// the endpoint listens on another port.
    DropNoEndpoint,
    /// Dropped: a Local policy, and no endpoint on this node.
    DropNoLocalEndpoint,
    /// Dropped: the packet could not be rewritten (the kernel refused).
    DropRewriteFailed,
    /// Dropped: the kernel could not store the flow.
    DropFlowInsert,
    /// Passed untranslated: a fragment to a frontend.
    PassFragment,
    /// Passed untranslated: more extension headers or VLAN tags than are followed.
    PassTooDeep,
    /// Dropped: an ICMP redirect about a translated flow.
    DropIcmpRedirect,
    /// Sent back out of the link that it came by: a pod reached itself.
    Hairpin,
    /// RST to the client: a ClusterIP, and no Service port of that number.
    ResetUnknownPort,
    /// ICMP port unreachable to the client: the service has no endpoint.
    UnreachableNoEndpoint,
    /// ICMP port unreachable to the client: a ClusterIP, and no Service port of that number.
    UnreachableUnknownPort,
    /// Dropped: an address of the range of Services that no Service has.
    DropUnallocated,
    /// Dropped: the client is in none of the service's `loadBalancerSourceRanges`.
    DropSourceRange,
    /// A process of the host named a service as its peer, and got a backend.
    SocketTranslated,
    /// ECONNREFUSED to a process of the host: the service has no endpoint.
    RefusedNoEndpoint,
    /// ECONNREFUSED to a process of the host: a ClusterIP, and no Service port of that number.
    RefusedUnknownPort,
}

impl Counter {
    pub const ALL: [Self; 28] = [
        Self::FlowCreated,
        Self::FlowDirect,
        Self::FlowAssured,
        Self::FlowClosed,
        Self::FlowExpired,
        Self::FlowTableFull,
        Self::ClashResolved,
        Self::ClashDropped,
        Self::Resteered,
        Self::ResetBackendGone,
        Self::ResetUnknownFlow,
        Self::ResetNoEndpoint,
        Self::DropNoEndpoint,
        Self::DropNoLocalEndpoint,
        Self::DropRewriteFailed,
        Self::DropFlowInsert,
        Self::PassFragment,
        Self::PassTooDeep,
        Self::DropIcmpRedirect,
        Self::Hairpin,
        Self::ResetUnknownPort,
        Self::UnreachableNoEndpoint,
        Self::UnreachableUnknownPort,
        Self::DropUnallocated,
        Self::DropSourceRange,
        Self::SocketTranslated,
        Self::RefusedNoEndpoint,
        Self::RefusedUnknownPort,
    ];

    /// A packet ended here, without an answer.
    pub const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::ClashDropped
                | Self::DropNoEndpoint
                | Self::DropNoLocalEndpoint
                | Self::DropUnallocated
                | Self::DropSourceRange
                | Self::DropRewriteFailed
                | Self::DropFlowInsert
                | Self::DropIcmpRedirect
        )
    }

    /// The name in `lb status` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlowCreated => "flow_created",
            Self::FlowDirect => "flow_direct",
            Self::FlowAssured => "flow_assured",
            Self::FlowClosed => "flow_closed",
            Self::FlowExpired => "flow_expired",
            Self::FlowTableFull => "flow_table_full",
            Self::ClashResolved => "clash_resolved",
            Self::ClashDropped => "clash_dropped",
            Self::Resteered => "resteered",
            Self::ResetBackendGone => "reset_backend_gone",
            Self::ResetUnknownFlow => "reset_unknown_flow",
            Self::ResetNoEndpoint => "reset_no_endpoint",
            Self::DropNoEndpoint => "drop_no_endpoint",
            Self::DropNoLocalEndpoint => "drop_no_local_endpoint",
            Self::DropRewriteFailed => "drop_rewrite_failed",
            Self::DropFlowInsert => "drop_flow_insert",
            Self::PassFragment => "pass_fragment",
            Self::PassTooDeep => "pass_too_deep",
            Self::DropIcmpRedirect => "drop_icmp_redirect",
            Self::Hairpin => "hairpin",
            Self::ResetUnknownPort => "reset_unknown_port",
            Self::UnreachableNoEndpoint => "unreachable_no_endpoint",
            Self::UnreachableUnknownPort => "unreachable_unknown_port",
            Self::DropUnallocated => "drop_unallocated",
            Self::DropSourceRange => "drop_source_range",
            Self::SocketTranslated => "socket_translated",
            Self::RefusedNoEndpoint => "refused_no_endpoint",
            Self::RefusedUnknownPort => "refused_unknown_port",
        }
    }
}

/// Length of the `counters` array: room for reasons to come without a new schema.
pub const COUNTERS: usize = 64;

const _: () = {
    let mut i = 0;
    while i < Counter::ALL.len() {
        assert!(Counter::ALL[i] as usize == i, "Counter::ALL is in the order of the enum");
        i += 1;
    }
    assert!(Counter::ALL.len() <= COUNTERS);
};

/// Traffic of a service (`service_stats`) or a backend (`backend_stats`), one CPU's share.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Traffic {
    /// New flows.
    pub connections: u64,
    /// From clients.
    pub packets: u64,
    /// From clients; frame length, so that an aggregated (GSO) packet counts whole.
    pub bytes: u64,
    /// To clients.
    pub reply_packets: u64,
    /// To clients.
    pub reply_bytes: u64,
}

const _: () = assert!(size_of::<Traffic>() == 40);

impl core::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            reply_packets: self.reply_packets + other.reply_packets,
            reply_bytes: self.reply_bytes + other.reply_bytes,
        }
    }
}

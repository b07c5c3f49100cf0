//! What is counted: reasons for the node, traffic for a service or a backend.

/// Declares the reasons: variant, name, and `drop` if a packet ends there without an answer.
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident {
            $($(#[$doc:meta])* $variant:ident = $name:literal $(, $drop:ident)?;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        $vis enum $enum {
            $($(#[$doc])* $variant,)+
        }

        impl $enum {
            /// Every reason, in the order of its index.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name in `lb status` and in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Whether a packet ended here without an answer.
            pub const fn is_drop(self) -> bool {
                match self {
                    $(Self::$variant => counters!(@is_drop $($drop)?),)+
                }
            }
        }
    };
    (@is_drop drop) => { true };
    (@is_drop) => { false };
}

counters! {
    /// Why something out of the ordinary happened to a packet: the index into `counters`. The order is part of the
    /// schema; new reasons go to the end.
    pub enum Counter {
        /// New flow to a service, translated.
        FlowCreated = "flow_created";
        /// New flow straight to a backend's address, recorded so that no translated flow takes its tuple.
        FlowDirect = "flow_direct";
        /// Flow assured: its far end answered.
        FlowAssured = "flow_assured";
        /// An assured flow ended: both ends closed, or one reset.
        FlowClosed = "flow_closed";
        /// Flow removed by the sweep after its idle time.
        FlowExpired = "flow_expired";
        /// `flows` is full: a flow that would be assured waits for room.
        FlowTableFull = "flow_table_full";
        /// Another source port was taken, because the tuple belonged to another flow.
        ClashResolved = "clash_resolved";
        /// Dropped: no free source port in the bounded number of tries.
        ClashDropped = "clash_dropped", drop;
        /// UDP or SCTP flow moved to another backend, because its own is gone.
        Resteered = "resteered";
        /// RST to both ends: the backend of the connection is gone.
        ResetBackendGone = "reset_backend_gone";
        /// RST to the client: a segment of a connection that is not known.
        ResetUnknownFlow = "reset_unknown_flow";
        /// RST to the client: the service has no endpoint.
        ResetNoEndpoint = "reset_no_endpoint";
        /// Dropped: no endpoint or no such port, and the packet cannot be answered (IP options, IPv6 extension headers,
        /// SCTP); or SCTP, and the endpoint listens on another port.
        DropNoEndpoint = "drop_no_endpoint", drop;
        /// Dropped: the policy is Local, and this node has no endpoint.
        DropNoLocalEndpoint = "drop_no_local_endpoint", drop;
        /// Dropped: the packet could not be rewritten (the kernel refused).
        DropRewriteFailed = "drop_rewrite_failed", drop;
        /// Dropped: the kernel could not store the flow.
        DropFlowInsert = "drop_flow_insert", drop;
        /// Passed untranslated: a fragment to a frontend.
        PassFragment = "pass_fragment";
        /// Passed untranslated: more extension headers or VLAN tags than are followed.
        PassTooDeep = "pass_too_deep";
        /// Dropped: an ICMP redirect about a translated flow.
        DropIcmpRedirect = "drop_icmp_redirect", drop;
        /// Sent back by the link of arrival: a pod reached itself.
        Hairpin = "hairpin";
        /// RST to the client: a ClusterIP without a Service port of that number.
        ResetUnknownPort = "reset_unknown_port";
        /// ICMP port unreachable to the client: the service has no endpoint.
        UnreachableNoEndpoint = "unreachable_no_endpoint";
        /// ICMP port unreachable to the client: a ClusterIP without a Service port of that number.
        UnreachableUnknownPort = "unreachable_unknown_port";
        /// Dropped: an address of the range of Services that no Service has.
        DropUnallocated = "drop_unallocated", drop;
        /// Dropped: the client is in none of the service's `loadBalancerSourceRanges`.
        DropSourceRange = "drop_source_range", drop;
        /// A process of the host named a service as its peer and got a backend.
        SocketTranslated = "socket_translated";
        /// ECONNREFUSED to a process of the host: the service has no endpoint.
        RefusedNoEndpoint = "refused_no_endpoint";
        /// ECONNREFUSED to a process of the host: a ClusterIP without a Service port of that number.
        RefusedUnknownPort = "refused_unknown_port";
        /// Flow removed because its slot in a ring was taken again.
        FlowEvicted = "flow_evicted";
        /// Left to the stack: the packet would have opened or ended a flow, but the route to its source leads to another
        /// link than the one by which it came.
        SpoofedSource = "spoofed_source";
    }
}

/// Length of the `counters` array: room for reasons to come without a new schema.
pub const COUNTERS: usize = 64;

const _: () = assert!(Counter::ALL.len() <= COUNTERS);

/// The share of one CPU in the traffic of a service (`service_stats`) or a backend (`backend_stats`).
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

//! Flows: what is remembered of a connection, in both directions.

use crate::{Addr, Port, Proto, wire_enum};

/// Five-tuple and zone as the packet shows them at the hook of the lookup: the key of `flows`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct FlowKey {
    pub src: Addr,
    pub dst: Addr,
    pub sport: Port,
    pub dport: Port,
    /// Keeps equal tuples of separate networks apart; 0 everywhere today.
    pub zone: u16,
    /// IANA protocol number.
    pub proto: u8,
    pub pad: u8,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// All zero.
    pub const BLANK: Self = Self {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        sport: Port::new(0),
        dport: Port::new(0),
        zone: 0,
        proto: 0,
        pad: 0,
    };

    /// A key of zone 0, made of whole words: the hash reads words and would wait for narrower stores.
    /// `ports` as they lie in a packet, source first.
    #[inline(always)]
    pub const fn from_words(src: Addr, dst: Addr, ports: u32, proto: u8) -> Self {
        let (s, d) = (src.words(), dst.words());
        let rest = u32::from_ne_bytes([0, 0, proto, 0]);
        // SAFETY: same size, and any bit pattern is a key.
        unsafe {
            core::mem::transmute::<[u32; 10], Self>([
                s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports, rest,
            ])
        }
    }

    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.proto == Proto::Tcp.number()
    }

    #[inline(always)]
    pub const fn is_udp(&self) -> bool {
        self.proto == Proto::Udp.number()
    }

    #[inline(always)]
    pub const fn is_sctp(&self) -> bool {
        self.proto == Proto::Sctp.number()
    }

    /// The ports as they lie in a packet, source first.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        words(self.sport, self.dport)
    }

    /// The key of a packet that goes the other way between the same ends.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..*self }
    }
}

#[inline(always)]
const fn words(source: Port, destination: Port) -> u32 {
    source.word() as u32 | (destination.word() as u32) << 16
}

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Endpoint {
    pub addr: Addr,
    pub port: Port,
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Endpoint>() == 20);

impl Endpoint {
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self { addr, port, pad: [0; 2] }
    }
}

/// One direction of a connection. A forward entry (client to service) holds the state; a reverse entry
/// (backend to client) holds what it restores, and a copy of phase and time, which saves a lookup.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Flow {
    /// The source after the rewrite.
    pub src: Endpoint,
    /// The destination after the rewrite.
    pub dst: Endpoint,
    /// Index into `services`; [`Flow::NONE`] for a direct connection to a backend's address (an identity flow).
    pub service: u32,
    /// Index into `backends`; [`Flow::NONE`] for an identity flow.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Ticks of `CLOCK_MONOTONIC`, see [`TICK_SHIFT`].
    pub first_seen: u32,
    /// Ticks of `CLOCK_MONOTONIC`; written at most once a tick.
    pub last_seen: u32,
    /// The backend before the last re-steering; [`Flow::NONE`] if there was no re-steering.
    pub previous_backend: u32,
    /// An [`Action`].
    pub action: u8,
    /// A [`Phase`].
    pub phase: u8,
    /// `Flow::REVERSE` and its siblings.
    pub flags: u8,
    /// SYNs seen of this flow, the first one and retransmissions. Saturates.
    pub syn_count: u8,
    /// On a bridge port, the source MAC address of the last reply: the next packet is sent there. Zero if not known.
    pub mac: [u8; 6],
    /// Low bits of a coarse count of jiffies: the packet path reads the clock when these bits have changed.
    pub beat: u16,
    /// In a reverse entry with `Flow::DOUBTED`: the sequence number, in host byte order, of the last segment that a
    /// pod sent with the backend's address forged and that would have ended the flow. In a forward entry: the sequence
    /// number after the client's last SYN on a flow that was there; 0 if there was none.
    pub doubted: u32,
    /// TCP: the sequence number behind the last byte that this direction has sent, in host byte order. 0 if no segment
    /// was seen yet.
    pub end: u32,
    /// TCP: the highest acknowledgement number that this direction has sent, in host byte order.
    pub ack: u32,
    /// In a forward entry, the interface index of the link by which the client's packets come; 0 if not known.
    pub link: u32,
}

const _: () = assert!(size_of::<Flow>() == 92);

impl Flow {
    /// All zero, to read into.
    pub const BLANK: Self = Self {
        src: Endpoint::new(Addr::UNSPECIFIED, Port::new(0)),
        dst: Endpoint::new(Addr::UNSPECIFIED, Port::new(0)),
        service: 0,
        backend: 0,
        generation: 0,
        first_seen: 0,
        last_seen: 0,
        previous_backend: 0,
        action: 0,
        phase: 0,
        flags: 0,
        syn_count: 0,
        mac: [0; 6],
        beat: 0,
        doubted: 0,
        end: 0,
        ack: 0,
        link: 0,
    };

    /// Bytes of an entry in the schemas 1 and 2, which had all fields before `doubted`.
    pub const LEN_V2: usize = core::mem::offset_of!(Self, doubted);

    /// Stands for no service and no backend.
    pub const NONE: u32 = u32::MAX;

    /// The entry of the direction backend to client.
    pub const REVERSE: u8 = 1;
    /// A FIN was seen from the client.
    pub const FIN_CLIENT: u8 = 2;
    /// A FIN was seen from the backend.
    pub const FIN_BACKEND: u8 = 4;
    /// The flow would be assured if there were room for it.
    pub const WAITING: u8 = 8;
    /// A segment with a forged source was seen, see `doubted`.
    pub const DOUBTED: u8 = 16;
    /// The client has sent a segment since the flow was reset.
    pub const WENT_ON_CLIENT: u8 = 32;
    /// The backend has sent a segment since the flow was reset.
    pub const WENT_ON_BACKEND: u8 = 64;

    /// Both sides have sent a FIN.
    pub const FINS: u8 = Self::FIN_CLIENT | Self::FIN_BACKEND;

    /// What the ports become, as they lie in a packet, source first.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        words(self.src.port, self.dst.port)
    }

    /// The ports of a packet in the other direction before its rewrite, source first.
    #[inline(always)]
    pub const fn reversed_ports(&self) -> u32 {
        words(self.dst.port, self.src.port)
    }

    /// `None` if the entry was written by a version that has other phases.
    #[inline(always)]
    pub const fn phase(&self) -> Option<Phase> {
        Phase::from_number(self.phase)
    }

    #[inline(always)]
    pub const fn is_in(&self, phase: Phase) -> bool {
        self.phase == phase.number()
    }

    /// Whether the flow is in this phase or a later one.
    #[inline(always)]
    pub const fn has_reached(&self, phase: Phase) -> bool {
        self.phase >= phase.number()
    }

    /// Whether this is the entry of the direction backend to client.
    #[inline(always)]
    pub const fn is_reverse(&self) -> bool {
        self.flags & Self::REVERSE != 0
    }

    /// Whether the flow would be assured if there were room for it.
    #[inline(always)]
    pub const fn is_waiting(&self) -> bool {
        self.flags & Self::WAITING != 0
    }

    /// The phase by which the idle time of a flow in this phase is limited. A flow that waits for room has all that an
    /// assured flow has, except for the room.
    #[inline(always)]
    pub const fn phase_of_timeout(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Replied if self.is_waiting() => Phase::Assured,
            phase => phase,
        }
    }

    /// Whether the flow counts among those that no flood evicts.
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        self.is_in(Phase::Assured) || self.is_in(Phase::Closing)
    }

    /// Whether a RST ended the flow while it was live. The RST may have been forged.
    #[inline(always)]
    pub const fn was_reset(&self) -> bool {
        self.is_in(Phase::Closed) && self.flags & Self::FINS != Self::FINS
    }

    /// Whether the flow may leave early when the table is nearly full: one side has closed, or packets were seen only
    /// within two ticks of the first (the kernel's `early_drop` has the same aim).
    #[inline(always)]
    pub const fn may_leave_early(&self) -> bool {
        self.is_in(Phase::Closing) || self.last_seen.saturating_sub(self.first_seen) <= 2
    }

    /// Whether client and backend are one pod.
    #[inline(always)]
    pub const fn is_hairpin(&self) -> bool {
        self.action == Action::Hairpin.number()
    }

    /// Whether packets of the flow stay as they are. `key` is the entry's.
    #[inline(always)]
    pub const fn changes_nothing(&self, key: &FlowKey) -> bool {
        self.src.addr.same(key.src) && self.dst.addr.same(key.dst) && self.ports() == key.ports()
    }

    /// Whether the flow goes through a Service; other flows are direct connections to a backend's address.
    #[inline(always)]
    pub const fn has_service(&self) -> bool {
        self.service != Self::NONE
    }
}

wire_enum! {
    /// What happens to a packet after its rewrite.
    pub enum Action: u8 {
        /// The node's stack routes the packet.
        Stack = 0,
        /// The packet leaves by the link that it came by: client and backend are one pod.
        Hairpin = 1,
    }
}

wire_enum! {
    /// The life of a flow.
    pub enum Phase: u8 {
        /// No packet has come back yet.
        New = 0,
        /// TCP: the backend has answered, and the client has not confirmed yet. Others: answered, but waiting for room.
        Replied = 1,
        /// TCP: the handshake is complete; other protocols: a reply was seen.
        Assured = 2,
        /// TCP: one side sent its FIN. A flow that was never assured does not come here.
        Closing = 3,
        /// TCP: both sides sent a FIN, or one side a RST. A SYN turns the entry into a new flow. A flow that was reset while
        /// it was live is live again if both sides go on.
        Closed = 4,
    }
}

wire_enum! {
    /// Which previous table the programs read while another takes its place.
    pub enum ReadThrough: u8 {
        /// None.
        Nothing = 0,
        /// A table of this schema.
        Same = 1,
        /// A table in three parts, of the schemas 1 and 2.
        V2 = 2,
    }
}

wire_enum! {
    /// What the program `xdp_lookup` finds for a frame.
    pub enum Finding: u32 {
        /// Not TCP or UDP over a plain header: left to tc.
        NotPlain = 0,
        /// The destination is not a Service's or a backend's.
        NotOurs = 1,
        NoFlow = 2,
        /// A flow that the packet may follow.
        Good = 3,
        /// The entry of the other direction.
        OtherWay = 4,
        /// The connection has ended, and the packet starts another.
        Over = 5,
        /// UDP or SCTP whose backend is gone.
        Moved = 6,
        /// TCP whose backend is gone.
        BackendGone = 7,
    }
}

/// Flows count time in ticks of 2^30 nanoseconds (1.07 s).
pub const TICK_SHIFT: u32 = 30;

/// Time without a packet after which a flow may be removed.
pub mod timeout {
    use super::{Phase, TICK_SHIFT};
    use crate::Proto;

    /// Seconds to ticks, rounded up.
    const fn ticks(seconds: u64) -> u32 {
        (((seconds * 1_000_000_000) >> TICK_SHIFT) + 1) as u32
    }

    /// kube-proxy's `conntrack.tcpEstablishedTimeout`.
    pub const TCP_ESTABLISHED: u32 = ticks(86_400);
    /// kube-proxy's `conntrack.tcpCloseWaitTimeout`.
    pub const TCP_CLOSING: u32 = ticks(3_600);
    /// The kernel's `nf_conntrack_tcp_timeout_time_wait`.
    pub const TCP_CLOSED: u32 = ticks(120);
    /// The kernel's `nf_conntrack_tcp_timeout_syn_recv` and `_syn_sent`, the shorter of both.
    pub const TCP_HANDSHAKE: u32 = ticks(60);
    /// The kernel's `nf_conntrack_udp_timeout_stream`.
    pub const UDP_ASSURED: u32 = ticks(120);
    /// The kernel's `nf_conntrack_udp_timeout`.
    pub const UDP_NEW: u32 = ticks(30);

    /// The kernel's `nf_conntrack_sctp_timeout_established`: seven heartbeats.
    pub const SCTP_ASSURED: u32 = ticks(210);

    /// A flow that nothing needs: its backend is gone, or it went straight to an address that is no backend's any more.
    pub const UNNEEDED: u32 = ticks(30);

    /// A flow that may leave early, when live flows have taken nine tenths of their room.
    pub const EARLY: u32 = ticks(300);

    /// The limit for a flow of this protocol in this phase, in ticks.
    pub const fn idle(proto: u8, phase: Phase) -> u32 {
        match phase {
            Phase::Assured if proto == Proto::Tcp.number() => TCP_ESTABLISHED,
            Phase::Closing => TCP_CLOSING,
            Phase::Closed => TCP_CLOSED,
            Phase::New | Phase::Replied if proto == Proto::Tcp.number() => TCP_HANDSHAKE,
            Phase::Assured if proto == Proto::Sctp.number() => SCTP_ASSURED,
            Phase::Assured => UDP_ASSURED,
            Phase::New | Phase::Replied => UDP_NEW,
        }
    }
}

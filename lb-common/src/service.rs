//! Frontends, services and slots: from an address to the set of backends behind it.

use crate::{Addr, Port, interest_bit, port_bit, wire_enum};

/// The address and port to which a client connects: the key of `frontends`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct FrontendKey {
    /// The unspecified address for a NodePort: `local_addrs` holds the addresses on which NodePorts answer.
    pub addr: Addr,
    pub port: Port,
    /// IANA protocol number.
    pub proto: u8,
    pub pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port, proto: u8) -> Self {
        Self { addr, port, proto, pad: 0 }
    }

    /// Whether this is a NodePort, under the unspecified address of its family.
    pub const fn is_node_port(&self) -> bool {
        self.addr.same(Addr::UNSPECIFIED) || self.addr.same(Addr::from_v4_word(0))
    }

    /// The bit that lets packets reach the frontend.
    pub const fn bit(&self) -> u32 {
        if self.is_node_port() { port_bit(self.port) } else { interest_bit(self.addr, self.port, self.proto) }
    }
}

/// The value of `frontends`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Frontend {
    /// Index into `services`.
    pub service: u32,
    /// A [`FrontendKind`].
    pub kind: u8,
    pub flags: u8,
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Frontend>() == 8);

impl Frontend {
    #[inline(always)]
    pub const fn is(&self, kind: FrontendKind) -> bool {
        self.kind == kind.number()
    }
}

wire_enum! {
    /// The kind of address of a frontend.
    pub enum FrontendKind: u8 {
        Cluster = 0,
        NodePort = 1,
        LoadBalancer = 2,
        External = 3,
    }
}

/// One service port: the value of `services`. A packet reads `active` once and then sees one whole record: policy,
/// algorithm and both sets are of one moment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Service {
    /// An [`Active`] word: stored with one aligned 64-bit write, which is the change of the service.
    pub active: u64,
    pub records: [ServiceRecord; 2],
}

const _: () = assert!(size_of::<Service>() == 72);

impl Service {
    /// Never written.
    pub const BLANK: Self = Self { active: 0, records: [ServiceRecord::BLANK; 2] };
}

/// The word that tells which record of a [`Service`] is in force, and how often the service has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Active(pub u64);

impl Active {
    /// Index of the record in force.
    #[inline(always)]
    pub const fn index(self) -> usize {
        (self.0 & 1) as usize
    }

    /// Counts the changes; informational.
    pub const fn version(self) -> u64 {
        self.0 >> 1
    }

    /// The word after a change: the other record, the next version.
    pub const fn flipped(self) -> Self {
        Self(((self.version() + 1) << 1) | ((self.0 & 1) ^ 1))
    }
}

/// Policy, algorithm and endpoint sets of a service port at one moment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct ServiceRecord {
    /// The endpoints for traffic under a Cluster policy, already filtered by readiness and topology.
    pub cluster: SlotRange,
    /// The endpoints of this node, for traffic under a Local policy.
    pub local: SlotRange,
    /// `ServiceRecord::INTERNAL_LOCAL` and its siblings.
    pub flags: u32,
    /// Seconds since the last new connection after which a client is forgotten; 0 means no affinity.
    pub affinity_timeout: u32,
    /// An [`Algorithm`].
    pub algorithm: u8,
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<ServiceRecord>() == 32);

impl ServiceRecord {
    /// No endpoint, no policy.
    pub const BLANK: Self = Self {
        cluster: SlotRange { offset: 0, len: 0 },
        local: SlotRange { offset: 0, len: 0 },
        flags: 0,
        affinity_timeout: 0,
        algorithm: 0,
        pad: [0; 7],
    };

    /// `internalTrafficPolicy: Local`: clients inside the cluster use the local set.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// `externalTrafficPolicy: Local`: clients outside the cluster use the local set.
    pub const EXTERNAL_LOCAL: u32 = 2;
    /// Some endpoint, on some node, could serve: an empty set means drop rather than reject.
    pub const HAS_ENDPOINTS: u32 = 4;
    /// `loadBalancerSourceRanges`: on the load balancer addresses, only clients in `source_ranges` are served.
    pub const SOURCE_RANGES: u32 = 8;
    /// The node itself is in those ranges.
    pub const HOST_ADMITTED: u32 = 16;
}

/// A run of entries in `slots`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct SlotRange {
    pub offset: u32,
    pub len: u32,
}

/// An entry of `slots`: a backend, valid only while its generation is this one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Slot {
    /// Index into `backends`.
    pub backend: u32,
    pub generation: u32,
}

const _: () = assert!(size_of::<Slot>() == 8);

wire_enum! {
    /// How a new flow finds its backend in a set. Only `Random` is implemented so far.
    pub enum Algorithm: u8 {
        Random = 0,
    }
}

/// The Service port for which a service id stands: the value of `names`. Only userspace reads and writes it: commands
/// find names, and a restarted agent finds its ids, in the pinned maps alone. Text is UTF-8 padded with zeros, in `i8`,
/// which the object's BTF calls a character; each part is a DNS label (RFC 1123) of at most 63 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct ServiceName {
    pub namespace: [i8; 64],
    pub name: [i8; 64],
    /// Empty if the Service has one unnamed port.
    pub port: [i8; 64],
    /// IANA protocol number.
    pub proto: u8,
    /// 4 or 6: a Service of both families has one service id for each.
    pub family: u8,
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<ServiceName>() == 200);

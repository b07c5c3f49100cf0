//! One write to the tables, as data.

use std::fmt;

use lb_common::{
    Active, Addr, Backend, BackendState, COARSE_FIRST, Frontend, FrontendKey, Port, Prefix, RangeRule,
    ServiceName, ServiceRecord, Slot,
};

/// Declares [`Op`] and [`OpKind`] from one list, so that the order is stated once.
macro_rules! operations {
    (
        $(#[$about:meta])*
        { $($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* },)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name { $($field: $type),* },)*
        }

        /// The kind of an [`Op`], ordered as a plan carries them out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum OpKind {
            $($name,)*
        }

        impl Op {
            pub const fn kind(&self) -> OpKind {
                match self {
                    $(Self::$name { .. } => OpKind::$name,)*
                }
            }
        }
    };
}

operations! {
    /// A step of `apply`: a write to one table entry or to a run of entries.
    ///
    /// **Make before break.** The variants stand in the order in which a plan carries them out: what a packet needs is
    /// written first, then services flip to it and frontends lead to it, and only then is the old content removed.
    /// A reader between any two operations finds the old or the new backends behind every frontend, and never
    /// anything freed. This list is the only statement of that order: [`OpKind`] follows it.
    {
        /// Makes the packet path look at packets of an address and port. `bit` is an index, see
        /// [`lb_common::interest_bit`], [`lb_common::port_bit`] and [`lb_common::range_bit`].
        SetInterest { bit: u32 },
        /// A new backend, or one in use that gets another weight or joins a set (then only that word differs).
        WriteBackend { id: u32, backend: Backend },
        /// A run of slots in a region to which no record in force refers.
        WriteSlots { offset: u32, slots: Vec<Slot> },
        /// The name of a service id that was free, or of a port that was renamed. Boxed, because a name is four times
        /// as large as the fields of any other operation.
        WriteName { id: u32, name: Box<ServiceName> },
        /// Another range of clients, before the record that requires it is in force.
        PutSourceRange { service: u32, prefix: Prefix },
        /// The record that is not in force; `index` is 0 or 1.
        WriteRecord { service: u32, index: u8, record: ServiceRecord },
        /// The change of the service: one aligned 64-bit store of an [`Active`] word.
        Flip { service: u32, active: u64 },
        /// A new frontend, or one that changes owner: replaced in place, never absent.
        PutFrontend { key: FrontendKey, frontend: Frontend },
        /// An address of the node on which NodePorts answer.
        PutLocalAddr { addr: Addr },
        DeleteFrontend { key: FrontendKey },
        DeleteLocalAddr { addr: Addr },
        /// The rule for destinations that match no frontend: ordered after all frontend changes.
        PutRange { prefix: Prefix, rule: RangeRule },
        DeleteRange { prefix: Prefix },
        DeleteSourceRange { service: u32, prefix: Prefix },
        SetBackendState { id: u32, state: BackendState },
        /// `Backend::sets` of a backend that left a set.
        SetBackendSets { id: u32, sets: u8 },
        /// State `Free` and the next generation, so that slots and flows with the previous generation no longer match.
        RetireBackend { id: u32, generation: u32 },
        DeleteName { id: u32 },
        /// Only from the sweep, which knows that no flow needs the bit; the planner never emits this operation.
        ClearInterest { bit: u32 },
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::SetInterest { bit } => write!(f, "set {}", Bit(*bit)),
            Self::WriteBackend { id, backend: b } => write!(
                f,
                "write backend {id}: {} generation {} service {} weight {} {}",
                Authority(b.addr, b.port, b.proto),
                b.generation,
                b.service,
                b.weight,
                state_name(b.state),
            ),
            Self::WriteSlots { offset, slots } => {
                write!(f, "write slots {offset}+{}:", slots.len())?;
                slots.iter().try_for_each(|slot| write!(f, " {}.{}", slot.backend, slot.generation))
            }
            Self::WriteName { id, name } => match crate::objects::name::ServicePortName::from_table(name) {
                Some(name) => write!(f, "write name {id}: {name}"),
                None => write!(f, "write name {id}: not readable"),
            },
            Self::PutSourceRange { service, prefix } => {
                write!(f, "put source range {prefix} -> service {service}")
            }
            Self::DeleteSourceRange { service, prefix } => {
                write!(f, "delete source range {prefix} -> service {service}")
            }
            Self::WriteRecord { service, index, record: r } => write!(
                f,
                "write record {service}[{index}]: cluster {}+{} local {}+{} flags {} affinity {}s algorithm {}",
                r.cluster.offset,
                r.cluster.len,
                r.local.offset,
                r.local.len,
                r.flags,
                r.affinity_timeout,
                r.algorithm,
            ),
            Self::Flip { service, active } => {
                write!(f, "flip {service} to record {} version {}", active & 1, Active(*active).version())
            }
            Self::PutFrontend { key, frontend } => {
                write!(f, "put frontend {} -> service {}", FrontendText(key), frontend.service)
            }
            Self::DeleteFrontend { key } => write!(f, "delete frontend {}", FrontendText(key)),
            Self::PutLocalAddr { addr } => write!(f, "put local address {addr}"),
            Self::DeleteLocalAddr { addr } => write!(f, "delete local address {addr}"),
            Self::PutRange { prefix, rule } => write!(f, "put range {prefix} {}", rule_name(*rule)),
            Self::DeleteRange { prefix } => write!(f, "delete range {prefix}"),
            Self::SetBackendSets { id, sets } => write!(f, "set backend {id} sets {}", sets_name(*sets)),
            Self::SetBackendState { id, state } => write!(f, "set backend {id} {}", state_name(*state as u8)),
            Self::RetireBackend { id, generation } => {
                write!(f, "retire backend {id}: generation {generation}")
            }
            Self::DeleteName { id } => write!(f, "delete name {id}"),
            Self::ClearInterest { bit } => write!(f, "clear {}", Bit(*bit)),
        }
    }
}

/// The word of `lb backends` for a [`BackendState`]. A backend drains if its endpoint terminates, or if the endpoint is
/// not serving while its connections continue.
pub const fn state_name(state: u8) -> &'static str {
    match BackendState::from_number(state) {
        Some(BackendState::Free) => "free",
        Some(BackendState::Active) => "active",
        Some(BackendState::Terminating) => "draining",
        None => "unknown",
    }
}

const fn rule_name(rule: RangeRule) -> &'static str {
    match rule {
        RangeRule::Unallocated => "unallocated",
        RangeRule::ClusterIp => "ClusterIP",
        RangeRule::Others => "another proxy's",
    }
}

const fn sets_name(sets: u8) -> &'static str {
    match sets & (Backend::IN_CLUSTER | Backend::IN_LOCAL) {
        Backend::IN_CLUSTER => "cluster",
        Backend::IN_LOCAL => "local",
        0 => "-",
        _ => "cluster, local",
    }
}

/// A bit, written as the name of its map and its index there.
struct Bit(u32);

impl fmt::Display for Bit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.checked_sub(COARSE_FIRST) {
            Some(bit) => write!(f, "coarse interest {bit}"),
            None => write!(f, "interest {}", self.0),
        }
    }
}

struct FrontendText<'a>(&'a FrontendKey);

impl fmt::Display for FrontendText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Authority(self.0.addr, self.0.port, self.0.proto).fmt(f)
    }
}

/// `address:port/protocol`, IPv6 in brackets.
struct Authority(Addr, Port, u8);

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.0.into(), self.1.host()))?;
        match lb_common::Proto::from_number(self.2) {
            Some(proto) => write!(f, "/{proto}"),
            None => write!(f, "/{}", self.2),
        }
    }
}

//! One write to the tables, as data.

use std::fmt;

use lb_common::{Active, Backend, BackendState, Frontend, FrontendKey, ServiceName, ServiceRecord, Slot};

/// What `apply` does, one table entry or run of entries at a time.
///
/// **Make before break.** The variants stand in the order in which a plan carries them out: what a packet needs
/// comes into being first, then services flip to it and frontends lead to it; only then is the old taken away.
/// A reader between any two operations finds the old or the new backends behind every frontend, and never
/// anything freed. This list is the only statement of that order: [`Op::rank`] numbers it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Packets of this address and port are worth a look. Index of a bit, see [`lb_common::interest_bit`].
    SetInterest {
        bit: u32,
    },
    /// A fresh backend, or another weight of one that is in use (then only that word differs).
    WriteBackend {
        id: u32,
        backend: Backend,
    },
    /// A run of slots in a region that no record in force refers to.
    WriteSlots {
        offset: u32,
        slots: Vec<Slot>,
    },
    /// The name of a service id that was free.
    WriteName {
        id: u32,
        name: ServiceName,
    },
    /// The record that is not in force; `index` is 0 or 1.
    WriteRecord {
        service: u32,
        index: u8,
        record: ServiceRecord,
    },
    /// The change of the service: one aligned 64-bit store of an [`Active`] word.
    Flip {
        service: u32,
        active: u64,
    },
    /// A new frontend, or one that changes owner: replaced in place, never absent.
    PutFrontend {
        key: FrontendKey,
        frontend: Frontend,
    },
    DeleteFrontend {
        key: FrontendKey,
    },
    SetBackendState {
        id: u32,
        state: BackendState,
    },
    /// State `Free` and the next generation, so that slots and flows which remember the old one notice.
    RetireBackend {
        id: u32,
        generation: u32,
    },
    DeleteName {
        id: u32,
    },
    /// Only from whoever knows that no flow needs the bit; the planner never emits it.
    ClearInterest {
        bit: u32,
    },
}

impl Op {
    /// Position of this kind within a plan: the order of the variants.
    pub const fn rank(&self) -> u8 {
        match self {
            Self::SetInterest { .. } => 0,
            Self::WriteBackend { .. } => 1,
            Self::WriteSlots { .. } => 2,
            Self::WriteName { .. } => 3,
            Self::WriteRecord { .. } => 4,
            Self::Flip { .. } => 5,
            Self::PutFrontend { .. } => 6,
            Self::DeleteFrontend { .. } => 7,
            Self::SetBackendState { .. } => 8,
            Self::RetireBackend { .. } => 9,
            Self::DeleteName { .. } => 10,
            Self::ClearInterest { .. } => 11,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::SetInterest { bit } => write!(f, "set interest {bit}"),
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
            Self::WriteName { id, name } => match crate::desired::ServicePortName::from_table(name) {
                Some(name) => write!(f, "write name {id}: {name}"),
                None => write!(f, "write name {id}: not readable"),
            },
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
            Self::SetBackendState { id, state } => write!(f, "set backend {id} {}", state_name(*state as u8)),
            Self::RetireBackend { id, generation } => {
                write!(f, "retire backend {id}: generation {generation}")
            }
            Self::DeleteName { id } => write!(f, "delete name {id}"),
            Self::ClearInterest { bit } => write!(f, "clear interest {bit}"),
        }
    }
}

/// The words of `lb backends` for a [`BackendState`]. A backend drains when its endpoint terminates, or is not
/// serving while its connections go on.
pub const fn state_name(state: u8) -> &'static str {
    match BackendState::from_u8(state) {
        Some(BackendState::Free) => "free",
        Some(BackendState::Active) => "active",
        Some(BackendState::Terminating) => "draining",
        None => "unknown",
    }
}

struct FrontendText<'a>(&'a FrontendKey);

impl fmt::Display for FrontendText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Authority(self.0.addr, self.0.port, self.0.proto).fmt(f)
    }
}

/// `address:port/protocol`, IPv6 in brackets.
struct Authority(lb_common::Addr, lb_common::Port, u8);

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.0.into(), self.1.host()))?;
        match lb_common::Proto::from_number(self.2) {
            Some(proto) => write!(f, "/{proto}"),
            None => write!(f, "/{}", self.2),
        }
    }
}

//! Turns the desired state of service ports into the writes that bring it about. Pure: the planner decides from its own
//! picture of the tables, and assumes that every plan it returns is carried out.

mod backends;
mod frontends;
mod ids;
mod owners;
mod places;
mod port;
mod regions;
mod restore;
mod source_ranges;

use std::collections::BTreeMap;

use lb_common::{capacity, names};

pub use ids::{Batch, Ids};
pub use regions::{Region, Regions};

use crate::desired::{Desired, DesiredPort, ServiceRanges};
use crate::objects::name::{Kind, ServicePortName, Subject};
use crate::objects::notice::{Board, Notice, Severity};
use crate::tables::Tables;
use crate::tables::op::Op;
use owners::Owners;

/// The capacity of the tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub frontends: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub local_addrs: u32,
    pub source_ranges: u32,
}

impl Default for Limits {
    fn default() -> Self {
        const fn entries(capacity: usize) -> u32 {
            assert!(capacity <= u32::MAX as usize);
            capacity as u32
        }
        Self {
            frontends: const { entries(capacity::FRONTENDS) },
            services: const { entries(capacity::SERVICES) },
            slots: const { entries(capacity::SLOTS) },
            backends: const { entries(capacity::BACKENDS) },
            local_addrs: const { entries(capacity::LOCAL_ADDRS) },
            source_ranges: const { entries(capacity::SOURCE_RANGES) },
        }
    }
}

/// Operations in the order of [`OpKind`](crate::tables::op::OpKind), and notices of what could not be planned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// The notices that no earlier plan had; [`Planner::notices`] has those that last.
    pub notices: Vec<Notice>,
}

/// Assigns ids and slots, and knows what the tables hold.
///
/// A packet that started earlier may still read an id, a region of slots or a record that went out of use. Each of them
/// is therefore *pending* until a grace period has passed:
///
/// 1. apply the plan,
/// 2. [`Planner::pending`] closes the batch of everything released so far,
/// 3. [`crate::tables::plane::Plane::grace`] returns,
/// 4. [`Planner::reclaim`] frees the batch.
///
/// While [`Planner::deferred`] returns true, do so (without steps 2 to 4 if nothing is pending) and plan once more with
/// an empty [`Desired`].
///
/// If `apply` fails, the planner no longer knows the tables: read them, call [`Planner::resume`], and plan a complete
/// [`Desired`].
#[derive(Clone, Debug)]
pub struct Planner {
    tables: Tables,
    owners: Owners,
    limits: Limits,
    service_ids: Ids,
    backend_ids: Ids,
    regions: Regions,
    /// As last desired.
    service_ranges: ServiceRanges,
    /// The batch to which releases belong now.
    batch: Batch,
    /// Services of which a packet may still read the record that is not in force.
    settling: BTreeMap<u32, Batch>,
    /// Changes to try again, because a grace period is pending or something was freed.
    waiting: BTreeMap<ServicePortName, DesiredPort>,
    /// Changes that wait for room in a table.
    starved: BTreeMap<ServicePortName, DesiredPort>,
    board: Board<ServicePortName>,
}

/// Why a service port cannot be programmed now.
enum Hold {
    /// A grace period will make the change possible, or show that it is not.
    Grace,
    /// The table of this name is full.
    Full(&'static str),
}

impl Planner {
    /// The writes that set the bits which the tables need and lack: bitmaps of an older schema do not have them all.
    /// Until the bits are set, the programs of this version miss the entries to which the bits lead.
    pub fn missing_bits(&mut self) -> Vec<Op> {
        let mut draft = Vec::new();
        let bits: Vec<u32> = self.tables.bits().collect();
        self.want_bits(bits, &mut draft);
        draft
    }

    /// The writes that bring the tables from their present content to `desired`. The work is proportional to the
    /// service ports in `desired` and those that wait.
    pub fn plan(&mut self, mut desired: Desired) -> Plan {
        let complete = desired.complete;
        let node_addresses = desired.node_addresses.take();
        let service_ranges = desired.service_ranges.take();
        let (wanted, gone): (Vec<_>, Vec<_>) =
            self.due(desired).into_iter().partition(|(_, port)| port.is_some());
        let wanted: Vec<_> = wanted.into_iter().filter_map(|(name, port)| Some((name, port?))).collect();
        let mut draft = Vec::new();
        for (name, _) in &gone {
            self.rename(name, &wanted, &mut draft);
        }
        let outcomes: Vec<_> =
            wanted.iter().map(|(name, port)| self.plan_port(name, port, &mut draft).err()).collect();
        // Which frontends found another owner is known only now.
        let made = draft.len();
        for ((name, port), outcome) in wanted.iter().zip(&outcomes) {
            if !matches!(outcome, Some(Hold::Full(_))) {
                self.drop_frontends(name, port, &mut draft);
            }
        }
        for (name, _) in &gone {
            if let Some(service) = self.owners.service(name) {
                self.remove_service(service, &mut draft);
            }
            self.board.replace(name.clone(), []);
        }
        if complete {
            self.remove_strays(&mut draft);
        }
        if let Some(addresses) = node_addresses {
            self.plan_local_addrs(addresses, &mut draft);
        }
        self.plan_ranges(service_ranges, complete, &mut draft);
        let deleted = draft[made..].iter().any(|op| matches!(op, Op::DeleteFrontend { .. }));
        for ((name, port), outcome) in wanted.into_iter().zip(outcomes) {
            match outcome {
                // Deletions come after insertions, so that only the next plan can use the room that they make.
                Some(Hold::Full(names::FRONTENDS)) if deleted => self.hold(name, port, Some(Hold::Grace)),
                outcome => self.hold(name, port, outcome),
            }
        }
        if deleted {
            self.waiting.append(&mut self.starved);
        }
        draft.sort_by_key(Op::kind);
        Plan { ops: draft, notices: self.board.take_news() }
    }

    /// The changes to plan: those that waited, and the new ones, which take precedence.
    fn due(&mut self, desired: Desired) -> BTreeMap<ServicePortName, Option<DesiredPort>> {
        let held = std::mem::take(&mut self.waiting);
        let mut due: BTreeMap<_, _> = if desired.complete {
            self.starved.clear();
            self.owners.names().map(|name| (name.clone(), None)).collect()
        } else {
            held.into_iter().map(|(name, port)| (name, Some(port))).collect()
        };
        self.starved.retain(|name, _| !desired.services.contains_key(name));
        due.extend(desired.services);
        due
    }

    /// Closes the batch of what waits for a grace period, so that later releases belong to the next batch. Returns
    /// `None` if nothing waits. Call this after the plan was applied.
    pub fn pending(&mut self) -> Option<Batch> {
        let waits = self.service_ids.has_pending()
            || self.backend_ids.has_pending()
            || self.regions.has_pending()
            || !self.settling.is_empty();
        waits.then(|| {
            let closed = self.batch;
            self.batch = Batch(closed.0 + 1);
            closed
        })
    }

    /// Frees what was released up to and including `batch`. Call this when a grace period that began after `batch` was
    /// closed has passed.
    pub fn reclaim(&mut self, batch: Batch) {
        self.service_ids.reclaim(batch);
        self.backend_ids.reclaim(batch);
        self.regions.reclaim(batch);
        self.settling.retain(|_, flipped| *flipped > batch);
        self.waiting.append(&mut self.starved);
    }

    /// Whether a change waits for another plan, and first for [`Planner::reclaim`] if something is pending.
    pub fn deferred(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The tables as they are once all plans so far are applied.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Every notice that still holds, including those of earlier plans.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.board.current()
    }

    /// Takes note of an operation that comes from no plan (the sweep clears interest bits).
    pub fn observe(&mut self, op: &Op) {
        self.tables.apply(op);
    }

    fn hold(&mut self, name: ServicePortName, port: DesiredPort, hold: Option<Hold>) {
        match hold {
            None => self.board.replace(name, []),
            Some(Hold::Grace) => {
                self.waiting.insert(name, port);
            }
            Some(Hold::Full(table)) => {
                let entries = self.entries_of(table);
                let state = match self.owners.service(&name) {
                    Some(_) => "its last good state stays in force",
                    None => "it is not programmed",
                };
                let notice = Notice {
                    severity: Severity::Error,
                    subject: Some(Subject { kind: Kind::Service, name: name.service() }),
                    file: None,
                    text: format!("table `{table}` is full ({entries} entries): {name}: {state}"),
                    reason: Some("TableFull"),
                };
                self.board.replace(name.clone(), [notice]);
                self.starved.insert(name, port);
            }
        }
    }

    fn entries_of(&self, table: &str) -> u32 {
        match table {
            names::FRONTENDS => self.limits.frontends,
            names::SERVICES => self.limits.services,
            names::SLOTS => self.limits.slots,
            names::SOURCE_RANGES => self.limits.source_ranges,
            _ => self.limits.backends,
        }
    }

    /// Applies the operation to the picture of the tables, and adds it to the draft.
    fn push(&mut self, draft: &mut Vec<Op>, op: Op) {
        self.tables.apply(&op);
        draft.push(op);
    }
}

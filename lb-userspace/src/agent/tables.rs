//! Writes the tables in the kernel, and knows how far its picture of them can be trusted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, trace, warn};

use crate::dataplane::Kernel;
use crate::dataplane::maps::Maps;
use crate::desired::Desired;
use crate::plan::{Batch, Plan, Planner};
use crate::tables::Tables;
use crate::tables::op::Op;
use crate::tables::plane::Plane;

/// After the kernel refused something.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The planner, and the kernel that carries its plans out.
pub(super) struct Writer {
    planner: Planner,
    kernel: Kernel,
    picture: Picture,
    first: First,
    /// A grace period is under way.
    in_grace: bool,
    /// Batches whose grace period has passed; `None` where that could not be proven.
    reclaim_in: mpsc::Sender<Option<Batch>>,
}

/// What the planner takes the tables to be.
#[derive(Debug)]
enum Picture {
    True,
    /// A write failed half-way: they have to be read back first.
    Unknown {
        retry_at: Instant,
    },
}

/// The first state that the objects ask for.
#[derive(Debug)]
enum First {
    /// Not all of it is in the tables. What it took so far.
    Awaited {
        operations: usize,
    },
    Written,
}

impl Writer {
    pub(super) fn new(planner: Planner, kernel: Kernel, reclaim_in: mpsc::Sender<Option<Batch>>) -> Self {
        let first = First::Awaited { operations: 0 };
        Self { planner, kernel, picture: Picture::True, first, in_grace: false, reclaim_in }
    }

    /// The tables as they are once all plans so far are carried out.
    pub(super) fn tables(&self) -> &Tables {
        self.planner.tables()
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.kernel.maps
    }

    /// When to read the tables back; `None` if they are known.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.picture {
            Picture::True => None,
            Picture::Unknown { retry_at } => Some(retry_at),
        }
    }

    /// Nothing may be planned before the tables are known.
    pub(super) fn is_known(&self) -> bool {
        self.retry_at().is_none()
    }

    pub(super) fn has_begun(&self) -> bool {
        matches!(self.first, First::Written)
    }

    pub(super) fn plan(&mut self, desired: Desired) -> Plan {
        self.planner.plan(desired)
    }

    /// Whether nothing of what was planned waits for a grace period.
    pub(super) fn is_whole(&self) -> bool {
        !self.planner.deferred()
    }

    /// Carries a plan out. If the kernel refuses, everything is read back and planned anew, a little later.
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), String> {
        if !plan.ops.is_empty() {
            debug!(operations = plan.ops.len(), "applying");
            plan.ops.iter().for_each(|op| trace!(?op));
        }
        self.kernel.apply(&plan.ops).map_err(|failed| {
            self.picture = Picture::Unknown { retry_at: Instant::now() + RETRY_AFTER };
            format!("writing the tables: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs())
        })
    }

    /// What is in the tables, after a write that failed? Returns true if they are known again; a complete state is to be
    /// planned then.
    pub(super) fn read_back(&mut self) -> bool {
        match self.kernel.read() {
            Ok(tables) => {
                self.planner.resume(tables);
                self.picture = Picture::True;
            }
            Err(failed) => {
                error!("reading the tables back: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs());
                self.picture = Picture::Unknown { retry_at: Instant::now() + RETRY_AFTER };
            }
        }
        self.is_known()
    }

    /// Counts the operations of a plan that was carried out. Once, when none of the first state waits for a grace
    /// period any more: how many it took.
    pub(super) fn note_first(&mut self, operations: usize) -> Option<usize> {
        let First::Awaited { operations: so_far } = self.first else { return None };
        let operations = so_far + operations;
        let is_written = self.is_whole();
        self.first = if is_written { First::Written } else { First::Awaited { operations } };
        is_written.then_some(operations)
    }

    /// Off the path of writes: what was released is free again when no packet can still read it.
    pub(super) fn start_grace(&mut self) {
        if self.in_grace {
            return;
        }
        let Some(batch) = self.planner.pending() else {
            if self.planner.deferred() {
                // Nothing to wait for: the next turn of the loop plans it.
                let _ = self.reclaim_in.try_send(None);
            }
            return;
        };
        self.in_grace = true;
        let grace = Arc::clone(&self.kernel.grace);
        let done = self.reclaim_in.clone();
        tokio::task::spawn_blocking(move || {
            let proven = match grace.wait() {
                Ok(()) => Some(batch),
                Err(failed) => {
                    warn!("no proof of a grace period, nothing is reused: {failed}");
                    std::thread::sleep(RETRY_AFTER);
                    None
                }
            };
            // The agent is ending where nobody listens.
            let _ = done.blocking_send(proven);
        });
    }

    /// A grace period has ended.
    pub(super) fn reclaim(&mut self, batch: Option<Batch>) {
        self.in_grace = false;
        if let Some(batch) = batch {
            self.planner.reclaim(batch);
        }
    }

    /// Clears bits that nothing needs. Before the first state is written, what is yet to come may need them.
    pub(super) fn clear_bits(&mut self, bits: Vec<u32>) {
        if !self.has_begun() {
            return;
        }
        for bit in bits {
            let op = Op::ClearInterest { bit };
            match self.kernel.apply(std::slice::from_ref(&op)) {
                Ok(()) => self.planner.observe(&op),
                Err(failed) => error!("sweep: {failed:#}"),
            }
        }
    }
}

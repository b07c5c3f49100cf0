//! Writes the tables in the kernel, and knows whether the planner's picture of them can be trusted.

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

/// Time until the next attempt after the kernel refused an operation.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The planner, and the kernel that carries out its plans.
pub(super) struct Writer {
    planner: Planner,
    kernel: Kernel,
    picture: Picture,
    first: First,
    /// Whether a grace period is under way.
    in_grace: bool,
    /// Takes batches whose grace period has passed; `None` if this could not be proven.
    reclaim_in: mpsc::Sender<Option<Batch>>,
}

/// Whether the planner's tables are those in the kernel.
#[derive(Debug)]
enum Picture {
    True,
    /// A write failed half-way, so the tables must be read back first.
    Unknown {
        retry_at: Instant,
    },
}

/// The first state that the objects ask for.
#[derive(Debug)]
enum First {
    /// Not all of the state is in the tables. Counts the operations so far.
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

    /// The tables after all plans so far.
    pub(super) fn tables(&self) -> &Tables {
        self.planner.tables()
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.kernel.maps
    }

    /// When to read the tables back; `None` if the tables are known.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.picture {
            Picture::True => None,
            Picture::Unknown { retry_at } => Some(retry_at),
        }
    }

    /// Whether the tables are known. Otherwise nothing may be planned.
    pub(super) fn is_known(&self) -> bool {
        self.retry_at().is_none()
    }

    /// Whether the first state is in the tables.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.first, First::Written)
    }

    pub(super) fn plan(&mut self, desired: Desired) -> Plan {
        self.planner.plan(desired)
    }

    /// Whether none of the planned changes waits for a grace period.
    pub(super) fn is_whole(&self) -> bool {
        !self.planner.deferred()
    }

    /// Carries out a plan. If the kernel refuses an operation, everything is read back and planned again a
    /// little later.
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), String> {
        if !plan.ops.is_empty() {
            debug!(operations = plan.ops.len(), "applying");
            plan.ops.iter().for_each(|op| trace!(?op));
        }
        self.kernel.apply(&plan.ops).map_err(|failed| {
            self.picture = Picture::Unknown { retry_at: Instant::now() + RETRY_AFTER };
            format!("cannot write the tables: {failed:#}; trying again in {} s", RETRY_AFTER.as_secs())
        })
    }

    /// Reads the tables back after a failed write. Returns true if they are known again; the caller then plans a
    /// complete state.
    pub(super) fn read_back(&mut self) -> bool {
        match self.kernel.read() {
            Ok(tables) => {
                self.planner.resume(tables);
                self.picture = Picture::True;
            }
            Err(failed) => {
                error!(
                    "cannot read the tables back: {failed:#}; trying again in {} s",
                    RETRY_AFTER.as_secs()
                );
                self.picture = Picture::Unknown { retry_at: Instant::now() + RETRY_AFTER };
            }
        }
        self.is_known()
    }

    /// Counts the operations of a plan that was carried out. When the first state no longer waits for a grace period,
    /// returns once how many operations that state took.
    pub(super) fn note_first(&mut self, operations: usize) -> Option<usize> {
        let First::Awaited { operations: so_far } = self.first else { return None };
        let operations = so_far + operations;
        let is_written = self.is_whole();
        self.first = if is_written { First::Written } else { First::Awaited { operations } };
        is_written.then_some(operations)
    }

    /// Waits for a grace period on another thread, so that writes continue: released entries are free again when no
    /// packet can still read them.
    pub(super) fn start_grace(&mut self) {
        if self.in_grace {
            return;
        }
        let Some(batch) = self.planner.pending() else {
            if self.planner.deferred() {
                // There is nothing to wait for: the next turn of the loop plans the changes.
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
                    warn!("no proof of a grace period, so nothing is reused: {failed}");
                    std::thread::sleep(RETRY_AFTER);
                    None
                }
            };
            // If the receiver is gone, the agent is ending.
            let _ = done.blocking_send(proven);
        });
    }

    /// Handles the end of a grace period.
    pub(super) fn reclaim(&mut self, batch: Option<Batch>) {
        self.in_grace = false;
        if let Some(batch) = batch {
            self.planner.reclaim(batch);
        }
    }

    /// Clears bits that nothing needs. Does nothing until the first state is written, which may still need the bits.
    pub(super) fn clear_bits(&mut self, bits: Vec<u32>) {
        if !self.has_begun() {
            return;
        }
        for bit in bits {
            let op = Op::ClearInterest { bit };
            match self.kernel.apply(std::slice::from_ref(&op)) {
                Ok(()) => self.planner.observe(&op),
                Err(failed) => error!("cannot clear a bit that nothing needs: {failed:#}"),
            }
        }
    }
}

//! Where plans are carried out: the kernel, or memory.

use anyhow::bail;

use super::Tables;
use super::op::Op;

/// Tables that can be read and written. The kernel's plane is in `dataplane`; tests and `--manifests` views use
/// [`MemoryPlane`].
pub trait Plane {
    /// Reads all tables, for [`crate::plan::Planner::restore`] and its `resume`.
    ///
    /// # Errors
    /// If a map cannot be read.
    fn read(&mut self) -> anyhow::Result<Tables>;

    /// Carries out the operations in the order given.
    ///
    /// # Errors
    /// If an operation fails; the operations before it are done, those after it are not. The tables are still
    /// consistent (as after each prefix of a plan), but the planner no longer knows them: read them and resume.
    fn apply(&mut self, plan: &[Op]) -> anyhow::Result<()>;

    /// Returns when every packet program that started before the call has ended.
    ///
    /// # Errors
    /// If the kernel gave no proof of this; then nothing may be reclaimed.
    fn grace(&mut self) -> anyhow::Result<()>;
}

/// A plane in memory, which fails on demand.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlane {
    tables: Tables,
    fail_after: Option<usize>,
}

impl MemoryPlane {
    pub fn new(tables: Tables) -> Self {
        Self { tables, fail_after: None }
    }

    /// Makes the operation after the next `operations` fail, once.
    pub fn fail_after(&mut self, operations: usize) {
        self.fail_after = Some(operations);
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn into_tables(self) -> Tables {
        self.tables
    }
}

impl Plane for MemoryPlane {
    fn read(&mut self) -> anyhow::Result<Tables> {
        Ok(self.tables.clone())
    }

    fn apply(&mut self, plan: &[Op]) -> anyhow::Result<()> {
        for op in plan {
            match &mut self.fail_after {
                Some(0) => {
                    self.fail_after = None;
                    bail!("{op}: failure on demand");
                }
                Some(left) => *left -= 1,
                None => {}
            }
            self.tables.apply(op);
        }
        Ok(())
    }

    fn grace(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_on_demand_comes_once_and_keeps_what_was_done() {
        let mut plane = MemoryPlane::default();
        plane.fail_after(1);
        let plan = [Op::SetInterest { bit: 1 }, Op::SetInterest { bit: 2 }];
        assert!(plane.apply(&plan).is_err());
        assert_eq!(plane.tables().interest.bits().collect::<Vec<_>>(), [1]);
        plane.apply(&plan).unwrap();
        assert_eq!(plane.tables().interest.bits().collect::<Vec<_>>(), [1, 2]);
    }
}

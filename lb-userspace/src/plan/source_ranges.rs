//! The clients of a service port.

use std::collections::BTreeSet;

use lb_common::{Prefix, names};

use super::{Hold, Planner};
use crate::desired::DesiredPort;
use crate::tables::op::Op;

impl Planner {
    pub(super) fn check_source_ranges(&self, service: Option<u32>, port: &DesiredPort) -> Result<(), Hold> {
        let ranges = &self.tables.source_ranges;
        let known = service.and_then(|service| ranges.get(&service));
        let fresh =
            port.source_ranges.iter().filter(|range| known.is_none_or(|known| !known.contains(range)));
        let used: usize = ranges.values().map(BTreeSet::len).sum();
        match fresh.count() {
            0 => Ok(()),
            fresh if used + fresh <= self.limits.source_ranges as usize => Ok(()),
            _ => Err(Hold::Full(names::SOURCE_RANGES)),
        }
    }

    /// Adds and deletes ranges. In the plan, new ranges come before the record that requires them, deletions after it.
    pub(super) fn settle_source_ranges(&mut self, service: u32, port: &DesiredPort, draft: &mut Vec<Op>) {
        self.drop_source_ranges(service, &port.source_ranges, draft);
        for prefix in &port.source_ranges {
            if !self.tables.source_ranges.get(&service).is_some_and(|known| known.contains(prefix)) {
                self.push(draft, Op::PutSourceRange { service, prefix: *prefix });
            }
        }
    }

    pub(super) fn drop_source_ranges(&mut self, service: u32, keep: &BTreeSet<Prefix>, draft: &mut Vec<Op>) {
        let known = self.tables.source_ranges.get(&service).into_iter().flatten();
        let gone: Vec<Prefix> = known.filter(|prefix| !keep.contains(prefix)).copied().collect();
        for prefix in gone {
            self.push(draft, Op::DeleteSourceRange { service, prefix });
        }
    }
}

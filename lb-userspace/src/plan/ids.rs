//! Free ids. The lowest is assigned first; a released id waits for a grace period.

use std::collections::{BTreeMap, BTreeSet};

/// Identifies what was released between two grace periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Batch(pub(crate) u64);

/// Ids below a limit.
#[derive(Clone, Debug)]
pub struct Ids {
    limit: u32,
    /// Ids from here on were never used.
    fresh: u32,
    free: BTreeSet<u32>,
    pending: BTreeMap<Batch, Vec<u32>>,
}

impl Ids {
    /// The ids `used` are taken, the ids `touched` were in use at some time. Every id below the highest of both that is
    /// not used is pending in `batch`.
    pub fn restore(
        limit: u32,
        used: &BTreeSet<u32>,
        touched: impl Iterator<Item = u32>,
        batch: Batch,
    ) -> Self {
        let fresh = touched.chain(used.last().copied()).map(|id| id.saturating_add(1)).max().unwrap_or(0);
        let idle: Vec<u32> = (0..fresh.min(limit)).filter(|id| !used.contains(id)).collect();
        let pending = if idle.is_empty() { BTreeMap::new() } else { BTreeMap::from([(batch, idle)]) };
        Self { limit, fresh, free: BTreeSet::new(), pending }
    }

    /// Takes a free id; `None` if all are taken or pending.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        let id = self.fresh;
        if id >= self.limit {
            return None;
        }
        self.fresh += 1;
        Some(id)
    }

    /// The number of ids that [`Ids::take`] could return now.
    pub fn available(&self) -> usize {
        self.free.len() + self.limit.saturating_sub(self.fresh) as usize
    }

    pub fn release(&mut self, id: u32, batch: Batch) {
        self.pending.entry(batch).or_default().push(id);
    }

    /// Frees what was released up to and including `batch`.
    pub fn reclaim(&mut self, batch: Batch) {
        for ids in passed(&mut self.pending, batch) {
            self.free.extend(ids.into_iter().filter(|id| *id < self.limit));
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Removes and returns the entries up to and including `batch`.
pub(crate) fn passed<T>(pending: &mut BTreeMap<Batch, T>, batch: Batch) -> impl Iterator<Item = T> + use<T> {
    let later = pending.split_off(&Batch(batch.0 + 1));
    std::mem::replace(pending, later).into_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Batch = Batch(0);
    const SECOND: Batch = Batch(1);

    fn ids(limit: u32) -> Ids {
        Ids::restore(limit, &BTreeSet::new(), std::iter::empty(), FIRST)
    }

    #[test]
    fn the_lowest_id_comes_first() {
        let mut ids = ids(3);
        assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn a_released_id_waits_for_its_batch() {
        let mut ids = ids(2);
        ids.take();
        ids.take();
        ids.release(0, SECOND);
        ids.reclaim(FIRST);
        assert_eq!((ids.take(), ids.has_pending()), (None, true));
        ids.reclaim(SECOND);
        assert_eq!((ids.take(), ids.has_pending()), (Some(0), false));
    }

    #[test]
    fn restored_gaps_are_pending_and_the_untouched_are_not() {
        let mut ids = Ids::restore(9, &BTreeSet::from([1, 3]), [4].into_iter(), FIRST);
        assert_eq!((ids.available(), ids.take()), (4, Some(5)));
        ids.reclaim(FIRST);
        assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Some(0), Some(2), Some(4), Some(6)]);
    }
}

//! Free runs of `slots`: a buddy allocator. Regions have power-of-two sizes and lie at multiples of their size, so that
//! a freed region merges with its neighbour, and nothing ever has to be moved.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::ids::{Batch, passed};

/// A run of `1 << order` slots that begins at a multiple of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    pub offset: u32,
    pub order: u8,
}

impl Region {
    /// The smallest region at this offset that holds `len` slots (at least one); `None` if no region of that size may
    /// begin there.
    pub fn around(offset: u32, len: u32) -> Option<Self> {
        let order = order_for(len)?;
        (offset.is_multiple_of(1 << order)).then_some(Self { offset, order })
    }

    pub const fn size(self) -> u32 {
        1 << self.order
    }

    pub const fn range(self) -> Range<u32> {
        self.offset..self.offset + self.size()
    }

    const fn buddy(self) -> u32 {
        self.offset ^ self.size()
    }
}

#[derive(Clone, Debug)]
pub struct Regions {
    /// Offsets of the free regions of each order.
    free: [BTreeSet<u32>; Regions::ORDERS],
    pending: BTreeMap<Batch, Vec<Region>>,
}

impl Regions {
    const ORDERS: usize = 32;

    /// The regions `used` do not overlap and lie below `capacity` (in slots). Unused slots below `touched` are pending
    /// in `batch`; the rest was never written and is free.
    pub fn restore(capacity: u32, used: &BTreeSet<Region>, touched: u32, batch: Batch) -> Self {
        let mut regions = Self { free: std::array::from_fn(|_| BTreeSet::new()), pending: BTreeMap::new() };
        let mut idle = Vec::new();
        let mut cursor = 0;
        for region in used {
            idle.extend(cover(cursor..region.offset));
            cursor = region.range().end;
        }
        let touched = touched.clamp(cursor.min(capacity), capacity);
        idle.extend(cover(cursor..touched));
        if !idle.is_empty() {
            regions.pending.insert(batch, idle);
        }
        for region in cover(touched..capacity) {
            regions.insert(region);
        }
        regions
    }

    /// A region for `len` slots, cut from the lowest of the smallest free regions that fit.
    pub fn take(&mut self, len: u32) -> Option<Region> {
        let order = order_for(len)?;
        let found = (usize::from(order)..Self::ORDERS).find(|o| !self.free[*o].is_empty())?;
        let offset = self.free[found].pop_first()?;
        for split in usize::from(order)..found {
            self.free[split].insert(offset + (1 << split));
        }
        Some(Region { offset, order })
    }

    pub fn release(&mut self, region: Region, batch: Batch) {
        self.pending.entry(batch).or_default().push(region);
    }

    /// Frees what was released up to and including `batch`.
    pub fn reclaim(&mut self, batch: Batch) {
        for regions in passed(&mut self.pending, batch) {
            for region in regions {
                self.insert(region);
            }
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn insert(&mut self, mut region: Region) {
        while usize::from(region.order) + 1 < Self::ORDERS
            && self.free[usize::from(region.order)].remove(&region.buddy())
        {
            region = Region { offset: region.offset.min(region.buddy()), order: region.order + 1 };
        }
        self.free[usize::from(region.order)].insert(region.offset);
    }
}

/// log2 of the smallest power of two that is not below `len`.
fn order_for(len: u32) -> Option<u8> {
    let size = len.max(1).checked_next_power_of_two()?;
    u8::try_from(size.trailing_zeros()).ok()
}

/// The fewest aligned regions that make up a range.
fn cover(range: Range<u32>) -> impl Iterator<Item = Region> {
    let mut offset = range.start;
    std::iter::from_fn(move || {
        let left = range.end.checked_sub(offset).filter(|left| *left > 0)?;
        let aligned = if offset == 0 { 31 } else { offset.trailing_zeros() };
        let order = u8::try_from(aligned.min(left.ilog2())).ok()?;
        let region = Region { offset, order };
        offset += region.size();
        Some(region)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BATCH: Batch = Batch(0);

    fn regions(capacity: u32) -> Regions {
        Regions::restore(capacity, &BTreeSet::new(), 0, BATCH)
    }

    #[test]
    fn sizes_are_powers_of_two_and_lowest_comes_first() {
        let mut regions = regions(16);
        let taken: Vec<_> = [3, 1, 2, 8].map(|len| regions.take(len).unwrap().range()).to_vec();
        assert_eq!(taken, [0..4, 4..5, 6..8, 8..16]);
        assert_eq!((regions.take(2), regions.take(1).unwrap().offset), (None, 5));
    }

    #[test]
    fn buddies_merge_after_their_batch() {
        let mut regions = regions(4);
        let halves = [regions.take(2).unwrap(), regions.take(2).unwrap()];
        for half in halves {
            regions.release(half, BATCH);
        }
        assert_eq!(regions.take(1), None);
        regions.reclaim(BATCH);
        assert_eq!(regions.take(4).unwrap().range(), 0..4);
    }

    #[test]
    fn restored_gaps_are_pending_and_the_untouched_are_not() {
        let used = BTreeSet::from([Region { offset: 2, order: 1 }, Region { offset: 5, order: 0 }]);
        let mut regions = Regions::restore(16, &used, 7, BATCH);
        assert_eq!(regions.take(8).unwrap().offset, 8);
        assert_eq!(regions.take(1).unwrap().offset, 7);
        assert_eq!(regions.take(1), None);
        regions.reclaim(BATCH);
        assert_eq!(regions.take(2).unwrap().offset, 0);
        assert_eq!([regions.take(1), regions.take(1)].map(|r| r.unwrap().offset), [4, 6]);
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_all_come_back(
            capacity in 1..300_u32,
            lens in prop::collection::vec((1..40_u32, any::<bool>()), 0..60),
        ) {
            let mut regions = regions(capacity);
            let mut held: Vec<Region> = Vec::new();
            for (len, give_back) in lens {
                if give_back && !held.is_empty() {
                    regions.release(held.swap_remove(len as usize % held.len()), BATCH);
                    regions.reclaim(BATCH);
                } else if let Some(region) = regions.take(len) {
                    prop_assert!(region.size() >= len && region.range().end <= capacity);
                    prop_assert!(region.offset.is_multiple_of(region.size()));
                    for other in &held {
                        let (a, b) = (region.range(), other.range());
                        prop_assert!(a.end <= b.start || b.end <= a.start, "{a:?} overlaps {b:?}");
                    }
                    held.push(region);
                }
            }
            for region in held {
                regions.release(region, BATCH);
            }
            regions.reclaim(BATCH);
            prop_assert_eq!(regions.free, Regions::restore(capacity, &BTreeSet::new(), 0, BATCH).free);
        }
    }
}

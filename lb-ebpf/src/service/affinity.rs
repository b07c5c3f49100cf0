//! Session affinity: the new flows of a client go to the backend of its last one.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use lb_common::{Addr, Affinity, AffinityKey, Backend, Slot, SlotRange};

use super::select;
use crate::maps::{self, EEXIST};

const SECOND: u64 = 1_000_000_000;

/// The choice of a backend for a client that has affinity.
pub struct Sticky {
    pub key: AffinityKey,
    /// Seconds since the last new flow after which a client is forgotten.
    pub timeout: u32,
    /// The set that counts for the client, as slots and as a bit of `Backend::sets`.
    pub range: SlotRange,
    pub set: u8,
}

impl Sticky {
    #[inline(always)]
    pub fn new(client: Addr, service: u32, timeout: u32, range: SlotRange, set: u8) -> Self {
        Self { key: AffinityKey { client, service }, timeout, range, set }
    }

    /// The backend that the client had last if that backend is still a member of the set, otherwise any member.
    #[inline(always)]
    pub fn choose(&self) -> Option<(Slot, &'static Backend)> {
        if self.range.len == 0 {
            return None;
        }
        // SAFETY: a plain helper call.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        let mut stale = None;
        if let Some(entry) = maps::affinity(&self.key) {
            if let Some(found) = self.remembered(entry, now) {
                entry.last_new = now;
                return Some(found);
            }
            stale = Some(*entry);
        }
        let (slot, backend) = match &stale {
            Some(stale) => select::by(self.range, self.successor(stale))?,
            None => select::random(self.range)?,
        };
        let entry = Affinity { backend: slot.backend, generation: slot.generation, last_new: now };
        if maps::affinity_insert(&self.key, &entry, stale.is_some()) == Err(EEXIST)
            && let Some(entry) = maps::affinity(&self.key)
            && let Some(found) = self.remembered(entry, now)
        {
            // Another CPU opened a flow of this client first.
            return Some(found);
        }
        Some((slot, backend))
    }

    /// The successor of an entry follows from the entry: CPUs that replace the entry at the same time, each for a new
    /// flow of the client, choose the same backend.
    #[inline(always)]
    fn successor(&self, stale: &Affinity) -> u32 {
        /// 2^64 divided by the golden ratio, for a multiplicative hash: Knuth, The Art of Computer Programming, 6.4.
        const PHI: u64 = 0x9e37_79b9_7f4a_7c15;
        let [a, b, c, d] = self.key.client.words();
        let mut hash = stale.last_new ^ u64::from(stale.backend);
        for word in [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)] {
            hash = (hash ^ word).wrapping_mul(PHI);
            hash ^= hash >> 32;
        }
        hash as u32
    }

    #[inline(always)]
    fn remembered(&self, entry: &Affinity, now: u64) -> Option<(Slot, &'static Backend)> {
        let slot = Slot { backend: entry.backend, generation: entry.generation };
        if now.saturating_sub(entry.last_new) >= u64::from(self.timeout) * SECOND {
            return None;
        }
        let backend = maps::backend(slot.backend)?;
        let is_member = backend.service == self.key.service
            && backend.generation == slot.generation
            && backend.sets & self.set != 0;
        is_member.then_some((slot, backend))
    }
}

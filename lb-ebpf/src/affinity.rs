//! Session affinity: a client's new flows go where its last one went.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use lb_common::{Addr, Affinity, AffinityKey, Backend, Slot, SlotRange};

use crate::flow::EEXIST;
use crate::maps;
use crate::select;

const SECOND: u64 = 1_000_000_000;

/// Which backend a client is to have.
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

    /// The backend that the client had last, while it is a member of the set; else any.
    #[inline(always)]
    pub fn choose(&self) -> Option<(Slot, &'static Backend)> {
        if self.range.len == 0 {
            return None;
        }
        // SAFETY: a plain helper call.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        let mut known = false;
        if let Some(entry) = maps::affinity(&self.key) {
            if let Some(found) = self.remembered(entry, now) {
                entry.last_new = now;
                return Some(found);
            }
            known = true;
        }
        let (slot, backend) = select::random(self.range)?;
        let entry = Affinity { backend: slot.backend, generation: slot.generation, last_new: now };
        if maps::affinity_insert(&self.key, &entry, known) == Err(EEXIST)
            && let Some(entry) = maps::affinity(&self.key)
            && let Some(found) = self.remembered(entry, now)
        {
            // Another CPU has a flow of this client too, and was first.
            return Some(found);
        }
        Some((slot, backend))
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

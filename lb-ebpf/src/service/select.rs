//! From a set of slots to one backend.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use lb_common::{Backend, Slot, SlotRange};

use crate::maps;

/// Slots that are tried: a slot whose backend is of another generation is skipped.
const TRIES: u32 = 4;

/// Any backend of the set, each as likely as the others: its slot and its entry. `None` if the set is empty. The
/// generation that counts is the slot's: the entry's may change as soon as it has been compared.
#[inline(always)]
pub fn random(range: SlotRange) -> Option<(Slot, &'static Backend)> {
    // SAFETY: a plain helper call.
    by(range, unsafe { bpf_get_prandom_u32() })
}

/// The backend of the set that a number from the whole range of `u32` selects.
#[inline(always)]
pub fn by(range: SlotRange, random: u32) -> Option<(Slot, &'static Backend)> {
    if range.len == 0 {
        return None;
    }
    // Multiply-shift: no division, and a negligible bias below 2^32.
    let mut index = ((u64::from(random) * u64::from(range.len)) >> 32) as u32;
    for _ in 0..TRIES {
        let slot = maps::slot(range, index)?;
        let backend = maps::backend(slot.backend)?;
        if backend.generation == slot.generation {
            return Some((slot, backend));
        }
        index = if index + 1 < range.len { index + 1 } else { 0 };
    }
    None
}

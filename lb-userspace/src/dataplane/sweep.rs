//! Removes idle flows, and finds interest bits that nothing needs any longer.
//!
//! One pass reads the flow table in batches. Keys that look idle go to the sweep program, which makes the decision in
//! the kernel, next to the packets. The bits that live flows need stay in the bitmap.

use std::collections::HashSet;

use anyhow::Context;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use lb_common::{
    Flow, FlowKey, Phase, Ring, SWEEP_BATCH, TICK_SHIFT, client_group, interest_bit, names, node_bit,
    port_bit, timeout,
};

use super::maps::Maps;
use super::shape::Sizes;
use crate::objects::name::Family;
use crate::tables::Tables;
use crate::tables::interest::Interest;

/// Length of the Ethernet header, with which the data of a test run must begin.
const HEADER: usize = 14;

/// What is remembered between passes.
#[derive(Default)]
pub struct Sweep {
    /// Bits that nothing needed in the last pass. Two passes are enough: a pass may miss an entry that is written
    /// meanwhile, but a second one does not miss it in the same way.
    idle_bits: HashSet<u32>,
}

/// The result of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries, two for each flow.
    pub entries: usize,
    /// Flows of each kind.
    pub flows: Flows,
    /// Entries removed, by [`Family`].
    pub removed: [u32; 2],
    /// Backends in use.
    pub backends: usize,
}

/// Numbers of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    pub live: usize,
    /// By [`Ring`].
    pub in_rings: [usize; Ring::COUNT],
}

impl Flows {
    /// Counts a flow by its forward entry; other entries are passed over.
    pub fn count(&mut self, key: &FlowKey, flow: &Flow) {
        if flow.is_reverse() {
        } else if flow.is_live() {
            self.live += 1;
        } else {
            let ring = if flow.is_in(Phase::Closed) { Ring::Ended } else { Ring::of_new(key) };
            self.in_rings[ring.number() as usize] += 1;
        }
    }

    /// What an operator should know if live flows leave little room.
    pub fn complaint(&self, sizes: Sizes) -> Option<String> {
        let room = sizes.live() as usize;
        is_nearly_full(self.live, sizes).then(|| {
            format!(
                "the flow table is nearly full: {} of {room} live flows; a larger --max-flows makes more room",
                self.live
            )
        })
    }

    /// Each kind by name, how many flows there are, and for how many there is room.
    pub fn fills(&self, sizes: Sizes) -> [(&'static str, usize, usize); 4] {
        let [half_open, unanswered, ended] = self.in_rings;
        let ring = sizes.ring() as usize;
        [
            (names::FLOWS_LIVE, self.live, sizes.live() as usize),
            ("half_open", half_open, ring),
            ("unanswered", unanswered, ring),
            ("ended", ended, ring),
        ]
    }
}

/// Whether live flows have taken nine tenths of their room.
fn is_nearly_full(live: usize, sizes: Sizes) -> bool {
    live >= sizes.live() as usize / 10 * 9
}

/// The time in ticks of `CLOCK_MONOTONIC_COARSE`, as the packet path counts them.
pub fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; the clock exists on every kernel that has BPF.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    ((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) >> TICK_SHIFT) as u32
}

/// Whether the flow has been silent for longer than its phase allows, than a flow may be that is not needed, or than one
/// may be in a table that is nearly full.
fn is_idle(key: &FlowKey, flow: &Flow, now: u32, nearly_full: bool, is_needed: impl Fn() -> bool) -> bool {
    let phase = Phase::from_number(flow.phase).unwrap_or(Phase::Closed);
    let idle = now.saturating_sub(flow.last_seen);
    idle > timeout::idle(key.proto, flow.phase_of_timeout(phase))
        || idle > timeout::UNNEEDED && !is_needed()
        || idle > timeout::EARLY && nearly_full && !flow.is_reverse() && flow.may_leave_early()
}

/// Whether the flow's backend is there; of a direct flow, whether its destination may be a backend's.
fn is_needed(key: &FlowKey, flow: &Flow, tables: &Tables, bits: &Interest) -> bool {
    if flow.has_service() {
        return tables.backends.get(&flow.backend).is_some_and(|b| b.generation == flow.generation);
    }
    let (addr, port) = if flow.is_reverse() { (key.src, key.sport) } else { (key.dst, key.dport) };
    bits.contains(interest_bit(addr, port, key.proto))
}

impl Sweep {
    /// Makes one pass. Also returns the bits that can be cleared: those that are set in the kernel, but that neither
    /// `tables` nor a flow needed in this pass and the last.
    ///
    /// # Errors
    /// If a map cannot be read or the program cannot be run. Flows that were removed stay removed.
    pub fn pass(
        &mut self,
        maps: &Maps,
        program: &mut SchedClassifier,
        tables: &Tables,
    ) -> anyhow::Result<(Report, Vec<u32>)> {
        let mut report = Report::default();
        let bits = Interest::from_words(maps.interest.words());
        let mut idle_bits: HashSet<u32> = bits.bits().collect();
        for bit in tables.bits() {
            idle_bits.remove(&bit);
        }
        report.backends = tables.backends.values().filter(|b| !b.is_free()).count();
        let now = now();
        let mut idle = [Vec::new(), Vec::new()];
        let before = maps.live();
        let nearly_full = is_nearly_full(before[0].max(0) as usize, maps.sizes()?);
        let mut live = vec![0; before.len()];
        maps.for_each_flow(|key, flow| {
            report.entries += 1;
            report.flows.count(key, flow);
            if flow.is_live() && !flow.is_reverse() {
                live[0] += 1;
                live[client_group(key.src) as usize] += 1;
            }
            if is_idle(key, flow, now, nearly_full, || is_needed(key, flow, tables, &bits)) {
                idle[Family::of(key.dst) as usize].push(*key);
                return;
            }
            // Packets of such a flow pass as they are, with the bit or without.
            if !flow.has_service() && flow.changes_nothing(key) {
                return;
            }
            // A flow is looked up by its destination when a packet enters (a NodePort by its number and the node's
            // block), and by its source when a reply leaves.
            idle_bits.remove(&port_bit(key.dport));
            idle_bits.remove(&node_bit(key.dst));
            idle_bits.remove(&interest_bit(key.dst, key.dport, key.proto));
            idle_bits.remove(&interest_bit(key.src, key.sport, key.proto));
        })
        .context("read the flow table")?;
        // Of what came and went meanwhile, the pass has seen one half.
        for (index, ((live, before), after)) in (0..).zip(live.iter().zip(&before).zip(maps.live())) {
            maps.correct_live(index, live - (before + after) / 2);
        }
        for (removed, idle) in report.removed.iter_mut().zip(&idle) {
            for keys in idle.chunks(SWEEP_BATCH) {
                *removed += remove(program, keys)?;
            }
        }
        let clear = idle_bits.intersection(&self.idle_bits).copied().collect();
        self.idle_bits = idle_bits;
        Ok((report, clear))
    }
}

fn remove(program: &SchedClassifier, keys: &[FlowKey]) -> anyhow::Result<u32> {
    let mut frame = vec![0; HEADER];
    for key in keys {
        // SAFETY: `repr(C)` without padding, so all of its bytes are initialised.
        let bytes =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(key).cast::<u8>(), size_of::<FlowKey>()) };
        frame.extend_from_slice(bytes);
    }
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
    Ok(program.test_run(options).context("run the sweep program")?.return_value)
}

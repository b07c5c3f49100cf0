//! The two clocks of flows.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use lb_common::TICK_SHIFT;

/// Changes about once a second (every 256 jiffies) and costs one load, whereas the clock costs 29 ns.
#[inline(always)]
pub fn beat() -> u16 {
    // SAFETY: a plain helper call, which the verifier replaces by a load.
    (unsafe { bpf_jiffies64() } >> 8) as u16
}

/// Ticks of `CLOCK_MONOTONIC`, as flows count them: a shift, because the target divides slowly.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a plain helper call.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

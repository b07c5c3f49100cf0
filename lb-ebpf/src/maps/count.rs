//! Counters: reasons for the node, traffic for a service or a backend. Each CPU has its own.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{COUNTERS, Counter, Traffic, capacity};

#[btf_map(name = "counters")]
static COUNTS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();
#[btf_map(name = "service_stats")]
static SERVICE_STATS: PerCpuArray<Traffic, { capacity::SERVICES }> = PerCpuArray::new();
#[btf_map(name = "backend_stats")]
static BACKEND_STATS: PerCpuArray<Traffic, { capacity::BACKENDS }> = PerCpuArray::new();

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own word.
        unsafe { *value += 1 };
    }
}

/// Counts traffic of a service and its backend on this CPU.
#[inline(always)]
pub fn account(service: u32, backend: u32, add: impl Fn(&mut Traffic)) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: this CPU's own value.
        add(unsafe { &mut *stats });
    }
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: this CPU's own value.
        add(unsafe { &mut *stats });
    }
}

//! `process_*` metrics, with the names of the Go client library. The collector of the prometheus crate counts CPU time
//! in whole seconds, which is too coarse for a process that uses a few seconds an hour.

use anyhow::Context;
use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// Reads /proc at each scrape.
struct OwnProcess {
    cpu: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory: Gauge,
    max_virtual_memory: Gauge,
    resident_memory: Gauge,
    start_time: Gauge,
}

/// Registers the metrics of this process.
pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(OwnProcess {
        cpu: Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?,
        open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
        max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
        virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
        max_virtual_memory: Gauge::new(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
        )?,
        resident_memory: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
        start_time: Gauge::new(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        )?,
    }))
}

impl OwnProcess {
    fn read(&self) -> anyhow::Result<()> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        // A counter must not decrease.
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        self.open_fds.set(process.fd_count()? as f64);
        let limits = process.limits()?;
        self.max_fds.set(limit(&limits.max_open_files.soft_limit));
        self.max_virtual_memory.set(limit(&limits.max_address_space.soft_limit));
        self.virtual_memory.set(stat.vsize as f64);
        self.resident_memory.set(stat.rss_bytes().get() as f64);
        let boot = procfs::boot_time_secs().context("cannot read the boot time")? as f64;
        self.start_time.set(boot + stat.starttime as f64 / ticks);
        Ok(())
    }

    fn metrics(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.open_fds,
            &self.max_fds,
            &self.virtual_memory,
            &self.max_virtual_memory,
            &self.resident_memory,
            &self.start_time,
        ]
    }
}

impl Collector for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Err(error) = self.read() {
            tracing::debug!("cannot read the metrics of the agent's process: {error:#}");
            return Vec::new();
        }
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Like Go, uses the largest number if there is no limit.
fn limit(value: &LimitValue) -> f64 {
    match value {
        LimitValue::Unlimited => u64::MAX as f64,
        LimitValue::Value(value) => *value as f64,
    }
}

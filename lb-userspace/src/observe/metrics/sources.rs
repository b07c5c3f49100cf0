//! Metrics of the sources, read from their progress at each scrape.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, Opts};

use crate::objects::name::Kind;
use crate::source::progress::Progress;

/// Ages and counts of each watched kind.
pub struct Sources {
    progress: Arc<Progress>,
    descs: Vec<Desc>,
}

struct Families {
    age: GaugeVec,
    interrupted: GaugeVec,
    lists: IntCounterVec,
    changes: IntCounterVec,
    undecoded: IntCounterVec,
    doubted: IntCounterVec,
    failures: IntCounterVec,
}

impl Families {
    fn new() -> prometheus::Result<Self> {
        let labels = &["kind"];
        let gauge = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), labels);
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            age: gauge(
                "lb_state_age_seconds",
                "Seconds since the API server last sent anything of a kind, even a bookmark, or the folder was checked",
            )?,
            interrupted: gauge(
                "lb_watch_interrupted_seconds",
                "Seconds for which the watch of a kind has been interrupted, or the folder unreadable; 0 otherwise",
            )?,
            lists: counter("lb_watch_lists_total", "Full lists of a kind that arrived")?,
            changes: counter(
                "lb_watch_changes_total",
                "Objects of a kind that were added, changed or deleted between full lists",
            )?,
            undecoded: counter(
                "lb_undecoded_objects_total",
                "Objects of a kind that could not be decoded, counted each time that they arrive",
            )?,
            doubted: counter(
                "lb_doubted_lists_total",
                "Full lists rejected because they dropped more than half of the objects; the previous state is kept \
                 until a second list arrives",
            )?,
            failures: counter(
                "lb_watch_failures_total",
                "Failed attempts to list or watch a kind, or to read the folder",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.age,
            &self.interrupted,
            &self.lists,
            &self.changes,
            &self.undecoded,
            &self.doubted,
            &self.failures,
        ]
    }
}

impl Sources {
    /// # Errors
    /// If a name is not valid, which cannot happen, because all names are constants.
    pub fn new(progress: Arc<Progress>) -> prometheus::Result<Self> {
        let families = Families::new()?;
        let descs = families.all().into_iter().flat_map(Collector::desc).cloned().collect();
        Ok(Self { progress, descs })
    }

    fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let families = Families::new()?;
        for kind in Kind::ALL {
            let label = kind.to_string();
            let label = &[label.as_str()];
            if let Some(age) = self.progress.age(kind) {
                families.age.with_label_values(label).set(age.as_secs_f64());
            }
            let interrupted = self.progress.failing(kind).unwrap_or_default();
            families.interrupted.with_label_values(label).set(interrupted.as_secs_f64());
            let state = self.progress.kind(kind);
            for (family, count) in [
                (&families.lists, &state.lists),
                (&families.changes, &state.changes),
                (&families.undecoded, &state.undecoded),
                (&families.doubted, &state.doubted),
                (&families.failures, &state.failures),
            ] {
                family.with_label_values(label).inc_by(count.load(Relaxed));
            }
        }
        Ok(families.all().into_iter().flat_map(Collector::collect).collect())
    }
}

impl Collector for Sources {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families().unwrap_or_default()
    }
}

//! The figures, as Markdown tables.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::population::Size;
use super::subject::Kind;
use super::usage::Memory;

/// A change: milliseconds since the API server's answer. They may be negative, because a watcher can see a change
/// before the writer has its answer.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Until a bare watch had decoded the change.
    bare: f64,
    /// Until the first packet was sent that reached a new endpoint.
    effect: f64,
}

impl Change {
    pub fn new(accepted: Instant, bare: Instant, effect: Instant) -> Self {
        let since = |at: Instant| match at.checked_duration_since(accepted) {
            Some(after) => milliseconds(after),
            None => -milliseconds(accepted - at),
        };
        Self { bare: since(bare), effect: since(effect) }
    }
}

/// 500 changes within a second.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// The time that the writes really took.
    pub written: Duration,
    /// From the last answer of the API server to the effect of that change.
    pub effect: Duration,
    pub cpu: Duration,
}

/// The figures of one subject with one population.
#[derive(Debug)]
pub struct Figures {
    kind: Kind,
    size: Size,
    pub starts: Vec<Duration>,
    pub start_cpu: Vec<Duration>,
    /// Two seconds after each start.
    pub memory: Vec<Memory>,
    pub changes: Vec<Change>,
    /// The CPU time of all changes together.
    pub changes_cpu: Duration,
    pub bursts: Vec<Burst>,
    /// The memory after changes and bursts.
    pub after: Option<Memory>,
    /// CPU time, and the time in which it was spent.
    pub idle: Option<(Duration, Duration)>,
}

impl Figures {
    pub fn new(kind: Kind, size: Size) -> Self {
        Self {
            kind,
            size,
            starts: Vec::new(),
            start_cpu: Vec::new(),
            memory: Vec::new(),
            changes: Vec::new(),
            changes_cpu: Duration::ZERO,
            bursts: Vec::new(),
            after: None,
            idle: None,
        }
    }
}

/// Two tables: starts and memory, then changes.
pub fn tables(all: &[Figures]) -> String {
    let mut text = String::from(
        "\n| services x endpoints | subject | start | CPU of the start | resident | of which anonymous | peak |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for figures in all {
        let memory = |of: fn(&Memory) -> u64| median(figures.memory.iter().map(|m| of(m) as f64 / 1_024.0));
        writeln!(
            text,
            "| {} | {} | {:.2} s | {:.2} s | {:.0} MiB | {:.0} MiB | {:.0} MiB |",
            figures.size,
            figures.kind.name(),
            median(figures.starts.iter().map(Duration::as_secs_f64)),
            median(figures.start_cpu.iter().map(Duration::as_secs_f64)),
            memory(|m| m.resident),
            memory(|m| m.anonymous),
            memory(|m| m.peak),
        )
        .expect("writing to a String cannot fail");
    }
    text += "\n| services x endpoints | subject | changes | bare watch p50, p99 | in effect p50, p99 | \
             later than the bare watch p50, p99 | CPU per change | 500 in 1 s: last in effect | CPU of the 500 | \
             idle CPU of 20 s | resident, peak after |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for figures in all {
        let (Some((idle, _)), Some(after)) = (figures.idle, figures.after) else { continue };
        let pair = |of: fn(&Change) -> f64| {
            let mut values: Vec<f64> = figures.changes.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            format!("{:.2}, {:.2} ms", quantile(&values, 0.5), quantile(&values, 0.99))
        };
        let count = figures.changes.len();
        writeln!(
            text,
            "| {} | {} | {count} | {} | {} | {} | {:.2} ms | {:.0} ms after {:.2} s | {:.2} s | {:.0} ms | {:.0}, {:.0} MiB |",
            figures.size,
            figures.kind.name(),
            pair(|change| change.bare),
            pair(|change| change.effect),
            pair(|change| change.effect - change.bare),
            milliseconds(figures.changes_cpu) / count.max(1) as f64,
            median(figures.bursts.iter().map(|burst| milliseconds(burst.effect))),
            median(figures.bursts.iter().map(|burst| burst.written.as_secs_f64())),
            median(figures.bursts.iter().map(|burst| burst.cpu.as_secs_f64())),
            milliseconds(idle),
            after.resident as f64 / 1_024.0,
            after.peak as f64 / 1_024.0,
        )
        .expect("writing to a String cannot fail");
    }
    text
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// A quantile of sorted values; NaN if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

//! The result of a load.

use super::chance;
use super::failure::{Failure, Kind};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Answers per backend, their latencies, and failures.
#[derive(Clone, Default, Debug)]
pub struct Report {
    pub answers: BTreeMap<String, u64>,
    /// The latencies of the answered requests, in the order of their end.
    pub latencies: Vec<Duration>,
    pub failures: Vec<Failure>,
}

impl Report {
    pub(super) fn add(&mut self, outcome: Result<(String, Duration), Failure>) {
        match outcome {
            Ok((backend, latency)) => {
                *self.answers.entry(backend).or_default() += 1;
                self.latencies.push(latency);
            }
            Err(failure) => self.failures.push(failure),
        }
    }

    /// Adds another report's figures to this one.
    pub fn merge(&mut self, other: Self) {
        for (backend, count) in other.answers {
            *self.answers.entry(backend).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self.failures.extend(other.failures);
    }

    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    pub fn requests(&self) -> u64 {
        self.answered() + self.failures.len() as u64
    }

    /// Failures per kind.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for failure in &self.failures {
            *kinds.entry(failure.kind.clone()).or_default() += 1;
        }
        kinds
    }

    /// The latency that this share of the answered requests did not exceed; `None` without answers.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(sorted[((last as f64) * share).round() as usize])
    }

    /// Panics unless there were requests and each was answered.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.failures.is_empty() && self.answered() > 0, "{self}");
    }

    /// Panics unless these backends, and no others, answered, each within `share` (0.2: 20 %) of an equal share.
    #[track_caller]
    pub fn assert_spread(&self, backends: &[&str], share: f64) {
        let even = self.answered() as f64 / backends.len() as f64;
        let is_even = |name: &&str| {
            let got = self.answers.get(*name).copied().unwrap_or_default() as f64;
            (got - even).abs() <= even * share
        };
        let only_these = self.answers.keys().all(|name| backends.contains(&name.as_str()));
        assert!(
            only_these && backends.iter().all(is_even),
            "not spread evenly (within {share}) over {backends:?}: {self}"
        );
    }

    /// Panics unless these backends, and no others, answered as evenly as a fair choice does. The chi-square test
    /// rejects a fair choice once in `1 / FALSE_ALARM` times, for any seed.
    #[track_caller]
    pub fn assert_fair(&self, backends: &[&str]) {
        let counts: Vec<u64> =
            backends.iter().map(|name| self.answers.get(*name).copied().unwrap_or(0)).collect();
        let others: Vec<_> = self.answers.keys().filter(|name| !backends.contains(&name.as_str())).collect();
        assert!(others.is_empty(), "answers from backends outside {backends:?}: {others:?}; {self}");
        let chance = chance::of_at_most_this_even(&counts);
        assert!(
            chance >= chance::FALSE_ALARM,
            "a fair choice over {backends:?} is this uneven with a probability of {chance:.1e}: {self}"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (answered, requests) = (self.answered(), self.requests());
        write!(f, "{answered} of {requests} answered, by {:?}", self.answers)?;
        if let (Some(p50), Some(p99)) = (self.quantile(0.5), self.quantile(0.99)) {
            write!(f, ", p50 {p50:.1?}, p99 {p99:.1?}")?;
        }
        if !self.failures.is_empty() {
            write!(f, "; failed: {:?}, the first: {}", self.kinds(), self.failures[0])?;
        }
        Ok(())
    }
}

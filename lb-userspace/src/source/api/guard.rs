//! Rejects a list that is suddenly much shorter, until a second list confirms it.
//!
//! A server with a cold cache, a half-restored etcd or a broken proxy can return an incomplete list. Single deletions
//! are always accepted. A full list that lacks more than half of what was known needs a second list that does too.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::objects::name::{ObjectName, ServicePortName};
use crate::tables::Tables;

/// What is known of one kind: Services, or endpoints by their slice. Only hashes of names, and numbers, are stored.
#[derive(Debug)]
pub(super) struct Guard {
    known: Weights,
    incoming: Weights,
    is_listing: bool,
    /// Whether the last list was rejected.
    doubts: bool,
}

#[derive(Debug, Default)]
struct Weights {
    /// By the hash of the name. A collision makes the count wrong by one object.
    by_name: HashMap<u64, u32>,
    total: usize,
}

/// What to do with a full list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// The list is short, but so was the previous one.
    TakeConfirmed(Loss),
    /// Request another list.
    Doubt(Loss),
    /// The previous list, which was rejected, was wrong.
    TakeInstead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) before: usize,
    pub(super) after: usize,
}

impl Guard {
    /// `before` is the number of objects that an earlier agent left in the tables.
    pub(super) fn new(before: usize) -> Self {
        let known = Weights { by_name: HashMap::new(), total: before };
        Self { known, incoming: Weights::default(), is_listing: false, doubts: false }
    }

    pub(super) fn begin(&mut self) {
        self.incoming = Weights::default();
        self.is_listing = true;
    }

    pub(super) fn apply(&mut self, name: &ObjectName, weight: u32) {
        let weights = if self.is_listing { &mut self.incoming } else { &mut self.known };
        weights.set(hash(name), weight);
    }

    /// Continues to count an object with its last known weight.
    pub(super) fn keep(&mut self, name: &ObjectName) {
        let name = hash(name);
        if self.is_listing
            && let Some(weight) = self.known.by_name.get(&name)
        {
            self.incoming.set(name, *weight);
        }
    }

    pub(super) fn delete(&mut self, name: &ObjectName) {
        self.known.set(hash(name), 0);
    }

    pub(super) fn end(&mut self) -> Verdict {
        self.is_listing = false;
        let incoming = std::mem::take(&mut self.incoming);
        let loss = Loss { before: self.known.total, after: incoming.total };
        let is_short = loss.after * 2 < loss.before;
        let did_doubt = self.doubts;
        self.doubts = is_short && !did_doubt;
        if self.doubts {
            return Verdict::Doubt(loss);
        }
        self.known = incoming;
        match (is_short, did_doubt) {
            (true, _) => Verdict::TakeConfirmed(loss),
            (false, true) => Verdict::TakeInstead,
            (false, false) => Verdict::Take,
        }
    }
}

impl Weights {
    fn set(&mut self, name: u64, weight: u32) {
        let before = match weight {
            0 => self.by_name.remove(&name),
            weight => self.by_name.insert(name, weight),
        };
        self.total = self.total + weight as usize - before.unwrap_or(0) as usize;
    }
}

fn hash(name: &ObjectName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The numbers of Services and endpoints in the tables, which are at most those in the lists that led to the tables.
pub(super) fn left_by_an_earlier_agent(tables: &Tables) -> (usize, usize) {
    let names: HashMap<u32, ObjectName> = tables
        .names
        .iter()
        .filter_map(|(id, name)| ServicePortName::from_table(name).map(|name| (*id, name.service())))
        .collect();
    let services: HashSet<_> = names.values().collect();
    let endpoints: HashSet<_> = tables
        .backends
        .values()
        .filter(|backend| !backend.is_free())
        // Each port of a Service has a backend for the same endpoint.
        .filter_map(|backend| names.get(&backend.service).map(|name| (name, backend.addr)))
        .collect();
    (services.len(), endpoints.len())
}

#[cfg(test)]
mod tests {
    use super::{Guard, Loss, Verdict};
    use crate::objects::name::ObjectName;

    fn list(guard: &mut Guard, weights: &[u32]) -> Verdict {
        guard.begin();
        for (index, weight) in weights.iter().enumerate() {
            guard.apply(&ObjectName::new("", index.to_string()), *weight);
        }
        guard.end()
    }

    #[test]
    fn a_short_list_needs_another_that_says_the_same() {
        let mut guard = Guard::new(0);
        assert_eq!(list(&mut guard, &[2, 3]), Verdict::Take);
        assert_eq!(list(&mut guard, &[2]), Verdict::Doubt(Loss { before: 5, after: 2 }));
        assert_eq!(list(&mut guard, &[2, 1]), Verdict::TakeInstead);
        assert_eq!(list(&mut guard, &[]), Verdict::Doubt(Loss { before: 3, after: 0 }));
        assert_eq!(list(&mut guard, &[]), Verdict::TakeConfirmed(Loss { before: 3, after: 0 }));
        assert_eq!(list(&mut guard, &[]), Verdict::Take);
    }

    #[test]
    fn half_is_not_more_than_half_and_single_deletions_are_believed() {
        let mut guard = Guard::new(0);
        assert_eq!(list(&mut guard, &[1, 1, 1, 1]), Verdict::Take);
        assert_eq!(list(&mut guard, &[1, 1]), Verdict::Take);
        guard.delete(&ObjectName::new("", "0"));
        guard.delete(&ObjectName::new("", "1"));
        guard.delete(&ObjectName::new("", "never there"));
        assert_eq!(list(&mut guard, &[]), Verdict::Take);
    }

    #[test]
    fn what_an_earlier_agent_left_counts() {
        assert_eq!(list(&mut Guard::new(9), &[1]), Verdict::Doubt(Loss { before: 9, after: 1 }));
        assert_eq!(list(&mut Guard::new(9), &[9]), Verdict::Take);
    }
}

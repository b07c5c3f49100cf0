//! Which backend was in the set, and when.

use std::collections::BTreeMap;
use std::time::Instant;

/// For each backend the periods in which it may have received new connections: from just before the change that added
/// it was made until just after the change that removed it was seen to be complete.
#[derive(Default)]
pub struct Membership {
    spans: BTreeMap<String, Vec<(Instant, Option<Instant>)>>,
}

impl Membership {
    /// Records that a change that adds this backend is about to be made.
    pub fn enter(&mut self, backend: &str, now: Instant) {
        let spans = self.spans.entry(backend.into()).or_default();
        assert!(spans.last().is_none_or(|(_, end)| end.is_some()), "{backend} is already in the set");
        spans.push((now, None));
    }

    /// Records that a change that removes this backend is complete.
    pub fn leave(&mut self, backend: &str, now: Instant) {
        let last = self
            .spans
            .get_mut(backend)
            .and_then(|spans| spans.last_mut())
            .expect("the backend was in the set");
        assert!(last.1.replace(now).is_none(), "{backend} is already out of the set");
    }

    /// Whether the backend was in the set at some time between these two moments.
    pub fn allows(&self, backend: &str, began: Instant, ended: Instant) -> bool {
        let mut spans = self.spans.get(backend).into_iter().flatten();
        spans.any(|(from, until)| *from <= ended && until.is_none_or(|until| began <= until))
    }

    /// Whether the backend was in the set all the time between these two moments; the set then does not explain a
    /// choice.
    pub fn is_constant(&self, backend: &str, began: Instant, ended: Instant) -> bool {
        let mut spans = self.spans.get(backend).into_iter().flatten();
        spans.any(|(from, until)| *from <= began && until.is_none_or(|until| ended <= until))
    }
}

//! Who was in the set, and when.

use std::collections::BTreeMap;
use std::time::Instant;

/// For each backend the times within which new connections may have been sent to it: from just before the change
/// that let it in was made, until just after the one that took it out was seen to be done.
#[derive(Default)]
pub struct Membership {
    spans: BTreeMap<String, Vec<(Instant, Option<Instant>)>>,
}

impl Membership {
    /// A change that lets this backend in is about to be made.
    pub fn enter(&mut self, backend: &str, now: Instant) {
        let spans = self.spans.entry(backend.into()).or_default();
        assert!(spans.last().is_none_or(|(_, end)| end.is_some()), "{backend} is in already");
        spans.push((now, None));
    }

    /// A change that takes this backend out is done.
    pub fn leave(&mut self, backend: &str, now: Instant) {
        let last = self.spans.get_mut(backend).and_then(|spans| spans.last_mut()).expect("it was in");
        assert!(last.1.replace(now).is_none(), "{backend} is out already");
    }

    /// Whether the backend was in the set at some time between these two.
    pub fn allows(&self, backend: &str, began: Instant, ended: Instant) -> bool {
        let mut spans = self.spans.get(backend).into_iter().flatten();
        spans.any(|(from, until)| *from <= ended && until.is_none_or(|until| began <= until))
    }

    /// Whether it was in all the time between these two: then the set says nothing about a choice.
    pub fn is_constant(&self, backend: &str, began: Instant, ended: Instant) -> bool {
        let mut spans = self.spans.get(backend).into_iter().flatten();
        spans.any(|(from, until)| *from <= began && until.is_none_or(|until| ended <= until))
    }
}

//! How often the tables are written: a single change at once, many changes in batches.

use std::time::Duration;

use tokio::time::Instant;

/// After a write, the loop only takes changes in for this many times the duration of the write: many changes cost at
/// most a fifth of a processor, and an object that changes twice meanwhile is written once.
const REST: u32 = 4;
/// The longest wait of a change.
const LONGEST: Duration = Duration::from_millis(100);

/// Decides when the next write may begin.
#[derive(Debug, Default)]
pub struct Pace {
    rests_until: Option<Instant>,
    is_asked: bool,
}

impl Pace {
    /// Asks to write a change. Returns true if it may be written now; otherwise it is due at [`Pace::due`].
    pub fn ask(&mut self, now: Instant) -> bool {
        self.is_asked = self.rests_until.is_some_and(|end| now < end);
        !self.is_asked
    }

    /// When to write the changes that could not be written at once.
    pub fn due(&self) -> Option<Instant> {
        self.rests_until.filter(|_| self.is_asked)
    }

    /// The changes cannot be written now.
    pub fn skip(&mut self) {
        self.is_asked = false;
    }

    /// All changes are written.
    pub fn wrote(&mut self, began: Instant, ended: Instant) {
        self.is_asked = false;
        self.rests_until = Some(ended + (ended.saturating_duration_since(began) * REST).min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_change_is_written_at_once_and_a_storm_in_batches() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert!(pace.ask(start));
        pace.wrote(start, start + 2 * MS);
        // Within the rest of 8 ms.
        assert!(!pace.ask(start + 3 * MS));
        assert!(!pace.ask(start + 9 * MS));
        assert_eq!(pace.due(), Some(start + 10 * MS));
        pace.wrote(start + 10 * MS, start + 11 * MS);
        assert_eq!(pace.due(), None);
        assert!(pace.ask(start + 15 * MS));
    }

    #[test]
    fn no_change_waits_longer_than_the_longest_rest() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.wrote(start, start + 900 * MS);
        assert!(!pace.ask(start + 901 * MS));
        assert_eq!(pace.due(), Some(start + 900 * MS + LONGEST));
    }
}

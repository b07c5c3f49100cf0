//! What is known of the sources of objects, for whoever asks while they run: watches of an API server, or a folder.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::objects::name::Kind;

/// Counts and times of each kind.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// Told when the watch of a kind goes on.
    back: Notify,
    kinds: [KindProgress; Kind::ALL.len()],
}

/// Counts since the agent's start, and times in milliseconds since then (zero is never).
#[derive(Debug, Default)]
pub struct KindProgress {
    heard: AtomicU64,
    failing_since: AtomicU64,
    fault: Mutex<Option<String>>,
    /// Full lists that came whole.
    pub lists: AtomicU64,
    /// Objects that were new or changed, or went, outside of lists.
    pub changes: AtomicU64,
    /// Objects that could not be decoded, each time they came.
    pub undecoded: AtomicU64,
    /// Full lists that were not believed, for they lost more than half.
    pub doubted: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            back: Notify::new(),
            kinds: std::array::from_fn(|_| KindProgress::default()),
        }
    }
}

impl Progress {
    pub fn kind(&self, kind: Kind) -> &KindProgress {
        &self.kinds[kind as usize]
    }

    /// How long the server said nothing of a kind: no event, no bookmark, no part of a list; or how long ago the folder
    /// was looked at. `None` before the first word.
    pub fn age(&self, kind: Kind) -> Option<Duration> {
        self.since(&self.kind(kind).heard)
    }

    /// How long the watch of a kind is interrupted, or the folder cannot be read.
    pub fn failing(&self, kind: Kind) -> Option<Duration> {
        self.since(&self.kind(kind).failing_since)
    }

    /// What keeps the watch of a kind from going on.
    pub fn fault(&self, kind: Kind) -> Option<String> {
        self.kind(kind).fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hear(&self, kind: Kind) {
        self.kind(kind).heard.store(self.now(), Relaxed);
    }

    /// `false` where it is the same fault as before.
    pub(crate) fn fail(&self, kind: Kind, text: String) -> bool {
        let state = self.kind(kind);
        state.failures.fetch_add(1, Relaxed);
        // Only the first counts, and there is one task for each kind.
        let _ = state.failing_since.compare_exchange(0, self.now(), Relaxed, Relaxed);
        let mut fault = state.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = fault.as_ref() != Some(&text);
        *fault = Some(text);
        is_new
    }

    /// The watch goes on: how long was it interrupted?
    pub(crate) fn succeed(&self, kind: Kind) -> Option<Duration> {
        let interrupted = self.failing(kind)?;
        let state = self.kind(kind);
        state.failing_since.store(0, Relaxed);
        *state.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.back.notify_waiters();
        Some(interrupted)
    }

    /// For so long, or until the watch of some kind goes on: then the server is back.
    pub(crate) async fn pause(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.back.notified()).await;
    }

    fn since(&self, time: &AtomicU64) -> Option<Duration> {
        let time = time.load(Relaxed);
        (time != 0).then(|| Duration::from_millis(self.now().saturating_sub(time)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_ends_when_the_watch_of_another_kind_goes_on() {
        let progress = Progress::default();
        assert!(
            progress.fail(Kind::Service, "gone".to_owned()) && progress.fail(Kind::Node, "gone".to_owned())
        );
        let back = async { progress.succeed(Kind::Node) };
        let pause = progress.pause(Duration::from_secs(3_600));
        let both = async { tokio::join!(pause, back) };
        let ((), back) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert!(back.is_some() && progress.failing(Kind::Service).is_some());
    }
}

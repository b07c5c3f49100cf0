//! The state of the running sources of objects: watches of an API server, or a folder.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::objects::name::Kind;

/// Counts and times of each kind.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// Notified when the watch of a kind resumes.
    back: Notify,
    kinds: [KindProgress; Kind::ALL.len()],
}

/// Counts since the agent's start, and times in milliseconds since then (zero means never).
#[derive(Debug, Default)]
pub struct KindProgress {
    heard: AtomicU64,
    failing_since: AtomicU64,
    fault: Mutex<Option<String>>,
    /// Full lists that arrived completely.
    pub lists: AtomicU64,
    /// Objects that were added, changed or deleted, outside of lists.
    pub changes: AtomicU64,
    /// Objects that could not be decoded, counted each time that they arrive.
    pub undecoded: AtomicU64,
    /// Full lists rejected because they dropped more than half of the objects.
    pub doubted: AtomicU64,
    /// Failed attempts to list or watch, or to read the folder.
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

    /// How long ago the server last sent anything of a kind (an event, a bookmark or a part of a list), or the folder
    /// was checked. `None` before the first time.
    pub fn age(&self, kind: Kind) -> Option<Duration> {
        self.since(&self.kind(kind).heard)
    }

    /// How long the watch of a kind has been interrupted, or the folder could not be read; `None` if all is well.
    pub fn failing(&self, kind: Kind) -> Option<Duration> {
        self.since(&self.kind(kind).failing_since)
    }

    /// Why the watch of a kind is interrupted, or the folder cannot be read.
    pub fn fault(&self, kind: Kind) -> Option<String> {
        self.kind(kind).fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hear(&self, kind: Kind) {
        self.kind(kind).heard.store(self.now(), Relaxed);
    }

    /// Notes a failed attempt. Returns `false` if the fault is the same as the previous one.
    pub(crate) fn fail(&self, kind: Kind, text: String) -> bool {
        let state = self.kind(kind);
        state.failures.fetch_add(1, Relaxed);
        // Only the first failure sets the time, and each kind has only one task.
        let _ = state.failing_since.compare_exchange(0, self.now(), Relaxed, Relaxed);
        let mut fault = state.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = fault.as_ref() != Some(&text);
        *fault = Some(text);
        is_new
    }

    /// Notes that the watch resumed. Returns how long it was interrupted, if it was.
    pub(crate) fn succeed(&self, kind: Kind) -> Option<Duration> {
        let interrupted = self.failing(kind)?;
        let state = self.kind(kind);
        state.failing_since.store(0, Relaxed);
        *state.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.back.notify_waiters();
        Some(interrupted)
    }

    /// Waits for `time`, or until any watch resumes, which means that the server is reachable again.
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

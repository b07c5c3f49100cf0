//! Held connections that are pinged in the background.

use super::failure::Failure;
use super::held::Held;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Pings repeatedly until it is stopped.
pub struct Pinger<H> {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: Option<JoinHandle<(H, Vec<Failure>)>>,
}

impl<H: Held> Pinger<H> {
    pub fn start(mut held: H, pause: Duration) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                failures.extend(held.ping());
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
            (held, failures)
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// How often all connections were pinged.
    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Stops, and returns the connections and every failure since the start.
    pub fn stop(mut self) -> (H, Vec<Failure>) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only stop and drop take the thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<H> Drop for Pinger<H> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

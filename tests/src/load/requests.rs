//! Many short requests, limited by number, rate or time.

use super::report::Report;
use super::request::{tcp_request, udp_request};
use crate::world::Netns;
use lb_common::Proto;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A load to run. Each request has a new connection, or a new UDP source port.
///
/// ```no_run
/// # use lb_tests::{load::Requests, world::{Family, Layout, World}};
/// # use std::time::Duration;
/// # let world = World::new(Layout::routed()).unwrap();
/// # let vip = world.backend(1).at(Family::V4, 8080);
/// let report = Requests::tcp(vip).count(1_000).run(&world.client().netns);
/// let running = Requests::udp(vip).rate(500).start(&world.client().netns);
/// running.stop().assert_clean();
/// ```
#[derive(Clone, Debug)]
pub struct Requests {
    proto: Proto,
    target: SocketAddr,
    count: u64,
    time: Duration,
    gap: Duration,
    workers: u64,
    timeout: Duration,
}

impl Requests {
    pub fn tcp(target: SocketAddr) -> Self {
        Self::new(Proto::Tcp, target)
    }

    pub fn udp(target: SocketAddr) -> Self {
        Self::new(Proto::Udp, target)
    }

    /// A load with the default limits: as fast as four workers can, for at most a minute.
    pub fn new(proto: Proto, target: SocketAddr) -> Self {
        let (count, gap) = (u64::MAX, Duration::ZERO);
        let (time, timeout) = (Duration::from_secs(60), Duration::from_secs(5));
        Self { proto, target, count, time, gap, workers: 4, timeout }
    }

    /// At most this many requests.
    pub fn count(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// No new request after this time.
    pub fn during(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// At most this many requests a second.
    pub fn rate(self, per_second: u32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second, ..self }
    }

    /// This many requests at a time.
    pub fn workers(self, workers: u64) -> Self {
        Self { workers, ..self }
    }

    /// How long one request may take.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Runs the load from this namespace until it ends.
    pub fn run(self, netns: &Netns) -> Report {
        self.start(netns).wait()
    }

    /// Starts the load in the background.
    pub fn start(self, netns: &Netns) -> Running {
        let workers = self.workers;
        let shared = Arc::new(Shared {
            plan: self,
            began: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            report: Mutex::default(),
        });
        let worker = |_| {
            let shared = shared.clone();
            netns.spawn(move || shared.work())
        };
        let threads = (0..workers).map(worker).collect();
        Running { shared, threads }
    }
}

struct Shared {
    plan: Requests,
    began: Instant,
    /// The number of the next request.
    next: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
}

impl Shared {
    fn work(&self) {
        while let Some(due) = self.next_due() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            let (target, timeout) = (self.plan.target, self.plan.timeout);
            let outcome = match self.plan.proto {
                Proto::Tcp => tcp_request(target, timeout),
                Proto::Udp => udp_request(target, timeout),
                Proto::Sctp => unreachable!("Requests are made for TCP and UDP only"),
            };
            let outcome = outcome.map(|backend| (backend, began.elapsed()));
            self.report.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
        }
    }

    /// When the next request is to start; `None` if there is none.
    fn next_due(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let offset = Duration::from_nanos((self.plan.gap.as_nanos() as u64).saturating_mul(number));
        let due = self.began + offset;
        let is_over = number >= self.plan.count
            || due.max(Instant::now()) >= self.began + self.plan.time
            || self.stop.load(Ordering::Relaxed);
        (!is_over).then_some(due)
    }
}

/// A load in the background. Stopped when dropped.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// What happened since the last call.
    pub fn take(&self) -> Report {
        std::mem::take(&mut self.shared.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of requests begun so far.
    pub fn begun(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed)
    }

    /// Begins no new request, and waits for those under way.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
        self.take()
    }

    /// Waits until the count or the time is reached.
    pub fn wait(mut self) -> Report {
        self.join();
        self.take()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

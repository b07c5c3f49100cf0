//! Continuous new connections, each recorded with its times and its backend.

use lb_tests::load::{Failure, connect_from};
use lb_tests::world::Netns;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that worked from its SYN to its last byte.
#[derive(Clone, Debug)]
pub struct Answer {
    pub backend: String,
    pub local: SocketAddr,
    /// A time before the SYN.
    pub began: Instant,
    /// A time after the last byte of the answer.
    pub ended: Instant,
}

/// Workers that connect, read the backend's name, check that a line is echoed, and start again.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    /// For each worker the start of its current connection, in nanoseconds since `epoch`; `IDLE` between two
    /// connections.
    under_way: Vec<AtomicU64>,
    outcomes: Mutex<(Vec<Answer>, Vec<Failure>)>,
}

const IDLE: u64 = u64::MAX;

impl Clients {
    /// Starts this number of workers for each target; each worker pauses between two connections.
    pub fn start(netns: &Netns, targets: &[SocketAddr], workers: usize, pause: Duration) -> Self {
        let count = targets.len() * workers;
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
            under_way: (0..count).map(|_| AtomicU64::new(IDLE)).collect(),
            outcomes: Mutex::default(),
        });
        let worker = |(number, target): (usize, SocketAddr)| {
            let shared = shared.clone();
            netns.spawn(move || shared.work(number, target, pause))
        };
        let threads = targets.iter().copied().cycle().take(count).enumerate().map(worker).collect();
        Self { shared, threads }
    }

    /// Waits until no connection that began before this moment is still under way.
    pub fn wait_for_those_before(&self, moment: Instant) {
        let limit = moment.saturating_duration_since(self.shared.epoch).as_nanos() as u64;
        let is_under_way = |slot: &AtomicU64| slot.load(Ordering::SeqCst) <= limit;
        let deadline = Instant::now() + 2 * TIMEOUT;
        while self.shared.under_way.iter().any(is_under_way) {
            assert!(Instant::now() < deadline, "a connection exceeds its timeout");
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Stops new connections and returns the outcomes so far.
    pub fn stop(mut self) -> (Vec<Answer>, Vec<Failure>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        std::mem::take(&mut self.shared.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn work(&self, number: usize, target: SocketAddr, pause: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            self.under_way[number].store((began - self.epoch).as_nanos() as u64, Ordering::SeqCst);
            let outcome = connect(target);
            self.under_way[number].store(IDLE, Ordering::SeqCst);
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok((backend, local)) => {
                    outcomes.0.push(Answer { backend, local, began, ended: Instant::now() });
                }
                Err(failure) => outcomes.1.push(failure),
            }
            drop(outcomes);
            thread::sleep(pause);
        }
    }
}

fn connect(target: SocketAddr) -> Result<(String, SocketAddr), Failure> {
    let mut stream = connect_from(0, target, TIMEOUT)?;
    let local = stream.local_addr().map_err(|error| Failure::new(&error, target, None))?;
    let mut talk = || {
        stream.write_all(b"are you there?\n")?;
        let mut lines = BufReader::new(&stream).lines();
        let mut next = || lines.next().unwrap_or_else(|| Err(Error::from(ErrorKind::UnexpectedEof)));
        let (backend, echoed) = (next()?, next()?);
        if echoed == "are you there?" { Ok(backend) } else { Err(Error::other(echoed)) }
    };
    let backend = talk().map_err(|error: Error| Failure::new(&error, target, Some(local)))?;
    Ok((backend, local))
}

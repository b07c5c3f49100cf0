//! The client of a way: a process in a pod's namespace, which can be in a cgroup of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::row::Row;
use super::server::{AT_ONCE, stay};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The options of `lb-bench client`.
#[derive(Args)]
pub struct Client {
    #[arg(value_enum)]
    pub row: Row,
    pub target: SocketAddr,
    pub milliseconds: u64,
    /// The folder of a cgroup to move to first
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
}

/// What a client has measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Connections, requests or bytes a second.
    pub rate: f64,
    /// Microseconds for a connection or request; of a stream, 0.
    pub p50: f64,
    pub p99: f64,
}

/// Measures, and prints the figures as JSON.
///
/// # Errors
/// If the server cannot be reached.
pub fn run(client: &Client) -> Result<()> {
    if let Some(cgroup) = &client.cgroup {
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    }
    if client.row.shares_a_cpu() {
        stay()?;
    }
    let time = Duration::from_millis(client.milliseconds);
    let figures = measure(client.row, client.target, time)
        .with_context(|| format!("{} to {}", client.row.name(), client.target))?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn measure(row: Row, target: SocketAddr, time: Duration) -> Result<Figures> {
    let began = Instant::now();
    match row {
        Row::Connections => Ok(figures(&connections(target, time)?, began)),
        Row::ConnectionsAtOnce => {
            let each = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..AT_ONCE).map(|_| scope.spawn(|| connections(target, time))).collect();
                let join = |thread: std::thread::ScopedJoinHandle<_>| match thread.join() {
                    Ok(done) => done,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                threads.into_iter().map(join).collect::<Result<Vec<_>>>()
            })?;
            Ok(figures(&each.concat(), began))
        }
        Row::TcpRequests => {
            let mut stream = connect(target)?;
            Ok(figures(&repeat(time, || exchange(&mut stream))?, began))
        }
        Row::UdpRequests => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(LIMIT))?;
            let request = || {
                socket.send(b"?")?;
                socket.recv(&mut [0; 8])?;
                Ok(())
            };
            Ok(figures(&repeat(time, request)?, began))
        }
        Row::Stream | Row::StreamOfPackets => {
            let mut stream = connect(target)?;
            let piece = vec![0; 256 << 10];
            let pieces = repeat(time, || Ok(stream.write_all(&piece)?))?.len();
            Ok(Figures {
                rate: (pieces * piece.len()) as f64 / began.elapsed().as_secs_f64(),
                p50: 0.0,
                p99: 0.0,
            })
        }
    }
}

fn connections(target: SocketAddr, time: Duration) -> Result<Vec<Duration>> {
    repeat(time, || exchange(&mut connect(target)?))
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    Ok(stream.read_exact(&mut [0])?)
}

/// Does something again and again for this time, and until the last is done; returns how long each took.
fn repeat(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut times = Vec::new();
    let mut last = began;
    while last - began < time {
        once()?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    Ok(times)
}

fn figures(times: &[Duration], began: Instant) -> Figures {
    let time = began.elapsed();
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let quantile = |share: f64| {
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * share).round() as usize).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Figures { rate: times.len() as f64 / time.as_secs_f64(), p50: quantile(0.5), p99: quantile(0.99) }
}

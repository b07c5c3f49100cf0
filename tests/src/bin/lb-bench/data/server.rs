//! The server of a way, in a pod.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use lb_tests::world::Netns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::row::Row;

/// How long a client may be silent.
const LIMIT: Duration = Duration::from_secs(5);
/// The number of connections that are served at once on the port for that.
pub const AT_ONCE: usize = 32;
/// The CPU of clients and servers that share one.
const CPU: usize = 0;
/// How often a waiting server looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// If the kernel refuses.
pub fn stay() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(CPU)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Threads in the pod's namespace, which end when this is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts all servers of a pod.
    ///
    /// # Errors
    /// If a port is taken.
    pub fn start(pod: &Netns) -> Result<Self> {
        let listen = |row: Row| pod.enter(|| TcpListener::bind(("0.0.0.0", row.ports().0)));
        let (one, many, sink) =
            (listen(Row::Connections)?, listen(Row::ConnectionsAtOnce)?, listen(Row::Stream)?);
        let datagrams = pod.enter(|| UdpSocket::bind(("0.0.0.0", Row::UdpRequests.ports().0)))?;
        datagrams.set_read_timeout(Some(LOOK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Self { stop, threads: Vec::new() };
        server.accept(pod, one, true, echo)?;
        for _ in 0..AT_ONCE {
            server.accept(pod, many.try_clone()?, false, echo)?;
        }
        server.accept(pod, sink, true, drain)?;
        let stop = Arc::clone(&server.stop);
        server.threads.push(pod.spawn(move || {
            stay().ok();
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
                    datagrams.send_to(&buffer[..len], from).ok();
                }
            }
        }));
        Ok(server)
    }

    /// Adds a thread that serves one connection after another.
    fn accept(
        &mut self,
        pod: &Netns,
        listener: TcpListener,
        stays: bool,
        serve: fn(TcpStream) -> io::Result<()>,
    ) -> Result<()> {
        socket2::SockRef::from(&listener).set_read_timeout(Some(LOOK))?;
        let stop = Arc::clone(&self.stop);
        self.threads.push(pod.spawn(move || {
            if stays {
                stay().ok();
            }
            while !stop.load(Ordering::Relaxed) {
                // The client knows whether it was served.
                if let Ok((stream, _)) = listener.accept() {
                    // The connection has inherited the listener's timeout.
                    stream.set_read_timeout(Some(LIMIT)).and_then(|()| serve(stream)).ok();
                }
            }
        }));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn drain(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

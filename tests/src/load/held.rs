//! Held connections: many at once, each of which repeatedly asks for the name of its backend.

use super::failure::{Failure, Kind};
use super::request::{ask, connect_from, echo_line, read_line, udp_from};
use crate::world::Netns;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// An open TCP connection and the backend that greeted it.
pub struct TcpHandle {
    pub stream: TcpStream,
    pub backend: String,
    pub target: SocketAddr,
    pub local: SocketAddr,
}

impl TcpHandle {
    /// Connects from a port of the client (0 for any) in this namespace.
    pub fn open(netns: &Netns, port: u16, target: SocketAddr) -> Result<Self, Failure> {
        netns.enter(|| Self::open_here(port, target))
    }

    fn open_here(port: u16, target: SocketAddr) -> Result<Self, Failure> {
        let mut stream = connect_from(port, target, TIMEOUT)?;
        let local = stream.local_addr().map_err(|error| Failure::new(&error, target, None))?;
        let backend = read_line(&mut stream).map_err(|error| Failure::new(&error, target, Some(local)))?;
        Ok(Self { stream, backend, target, local })
    }

    /// Sends a line, which must come back.
    pub fn ping(&mut self) -> Result<(), Failure> {
        echo_line(&mut self.stream, "ping").map_err(|kind| Failure::new(kind, self.target, Some(self.local)))
    }
}

/// A UDP socket on a fixed port of the client, and the backend that answered last.
pub struct UdpHandle {
    pub socket: UdpSocket,
    pub backend: String,
    pub target: SocketAddr,
    /// The address is unspecified; only the port counts.
    pub local: SocketAddr,
    asked: u64,
    tries: u32,
}

impl UdpHandle {
    /// Opens a socket on a port of the client (0 for any) in this namespace, and waits for a first answer.
    pub fn open(netns: &Netns, port: u16, target: SocketAddr) -> Result<Self, Failure> {
        netns.enter(|| Self::open_here(port, target))
    }

    fn open_here(port: u16, target: SocketAddr) -> Result<Self, Failure> {
        let told = |error: &std::io::Error| Failure::new(error, target, None);
        let socket = udp_from(port, target).map_err(|error| told(&error))?;
        let local = socket.local_addr().map_err(|error| told(&error))?;
        let mut handle = Self { socket, backend: String::new(), target, local, asked: 0, tries: 1 };
        handle.backend = handle.ask()?;
        Ok(handle)
    }

    /// Asks for the backend's name, without remembering it.
    pub fn ask(&mut self) -> Result<String, Failure> {
        self.asked += 1;
        let question = format!("question {}", self.asked);
        let mut answer = Err(Kind::TimedOut);
        for _ in 0..self.tries {
            answer = ask(&self.socket, self.target, &question, TIMEOUT);
            if !matches!(answer, Err(Kind::TimedOut)) {
                break;
            }
        }
        answer.map_err(|kind| Failure::new(kind, self.target, Some(self.local)))
    }

    /// Asks for the backend's name. A backend other than the previous one is a failure, and is remembered.
    pub fn ping(&mut self) -> Result<(), Failure> {
        let answered = self.ask()?;
        if answered == self.backend {
            return Ok(());
        }
        self.backend.clone_from(&answered);
        Err(Failure::new(Kind::OtherBackend(answered), self.target, Some(self.local)))
    }
}

/// Many open TCP connections to one address.
pub struct HeldTcp {
    pub connections: Vec<TcpHandle>,
}

impl HeldTcp {
    pub fn open(netns: &Netns, target: SocketAddr, count: usize) -> Result<Self, Failure> {
        let open = || (0..count).map(|_| TcpHandle::open_here(0, target)).collect::<Result<_, _>>();
        Ok(Self { connections: netns.enter(open)? })
    }

    /// The number of connections per backend.
    pub fn backends(&self) -> BTreeMap<String, usize> {
        per_name(self.connections.iter().map(|connection| connection.backend.as_str()))
    }
}

/// Many UDP sockets that talk to one address.
pub struct HeldUdp {
    pub sockets: Vec<UdpHandle>,
}

impl HeldUdp {
    pub fn open(netns: &Netns, target: SocketAddr, count: usize) -> Result<Self, Failure> {
        let open = || (0..count).map(|_| UdpHandle::open_here(0, target)).collect::<Result<_, _>>();
        Ok(Self { sockets: netns.enter(open)? })
    }

    /// Sends a question without an answer again, as a resolver does, so that it is asked this many times at most. A
    /// datagram that is lost once is no failure then.
    #[must_use]
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.sockets.iter_mut().for_each(|socket| socket.tries = tries);
        self
    }

    /// The number of sockets per backend that answered last.
    pub fn backends(&self) -> BTreeMap<String, usize> {
        per_name(self.sockets.iter().map(|socket| socket.backend.as_str()))
    }
}

fn per_name<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.to_string()).or_default() += 1;
    }
    counts
}

/// Connections that can be checked: whether each still works, and with its backend.
pub trait Held: Send + 'static {
    /// Checks each connection; returns the failures.
    fn ping(&mut self) -> Vec<Failure>;
}

impl Held for HeldTcp {
    fn ping(&mut self) -> Vec<Failure> {
        self.connections.iter_mut().filter_map(|connection| connection.ping().err()).collect()
    }
}

impl Held for HeldUdp {
    fn ping(&mut self) -> Vec<Failure> {
        self.sockets.iter_mut().filter_map(|socket| socket.ping().err()).collect()
    }
}

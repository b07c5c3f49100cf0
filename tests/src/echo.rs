//! Servers that answer with their name: what a backend pod runs.
//!
//! Over TCP, a server sends its name as a line and then returns every byte that it receives. Over UDP, it answers
//! with its name, a space and the datagram. Each port is served in both families and both protocols. The servers
//! record their clients.

use crate::world::Netns;
use anyhow::{Context, Result};
use lb_common::Proto;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// An accepted connection, or a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visit {
    pub proto: Proto,
    /// The server's port.
    pub port: u16,
    pub from: SocketAddr,
    pub at: Instant,
}

/// Servers on some ports of a pod. Dropping them resets their connections, as if the pod were killed.
pub struct Echo {
    name: String,
    visits: Arc<Mutex<Vec<Visit>>>,
    open: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts servers that answer with this name, over TCP and UDP on each port.
    pub fn start(netns: &Netns, name: &str, ports: &[u16]) -> Result<Self> {
        let listen = || ports.iter().map(|port| Listener::on(*port)).collect::<Result<Vec<_>>>();
        let listeners = netns.enter(listen).with_context(|| format!("echo servers of {name}"))?;
        let visits = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let open = Arc::new(AtomicUsize::new(0));
        let (served, noted, counted) = (name.to_string(), visits.clone(), open.clone());
        let thread = netns.spawn(move || serve(listeners, &served, &noted, &counted, stopped));
        Ok(Self { name: name.into(), visits, open, stop: Some(stop), thread: Some(thread) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// All visits so far, in order.
    pub fn visits(&self) -> Vec<Visit> {
        lock(&self.visits).clone()
    }

    /// The number of connections or datagrams so far.
    pub fn count(&self, proto: Proto) -> usize {
        lock(&self.visits).iter().filter(|visit| visit.proto == proto).count()
    }

    /// The number of open TCP connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The addresses of the clients, each once.
    pub fn sources(&self) -> Vec<IpAddr> {
        let mut sources: Vec<_> = lock(&self.visits).iter().map(|visit| visit.from.ip()).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    pub fn forget(&self) {
        lock(&self.visits).clear();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock(visits: &Mutex<Vec<Visit>>) -> std::sync::MutexGuard<'_, Vec<Visit>> {
    visits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two sockets of a port, which listen as soon as they exist.
struct Listener {
    port: u16,
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
}

impl Listener {
    fn on(port: u16) -> Result<Self> {
        let tcp = dual_stack(Type::STREAM, port).context("TCP")?;
        tcp.listen(4_096)?;
        let udp = dual_stack(Type::DGRAM, port).context("UDP")?;
        udp.set_recv_buffer_size(4 << 20)?;
        Ok(Self { port, tcp: tcp.into(), udp: udp.into() })
    }
}

fn dual_stack(kind: Type, port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    socket.bind(&address.into()).with_context(|| format!("port {port}"))?;
    Ok(socket)
}

fn serve(
    listeners: Vec<Listener>,
    name: &str,
    visits: &Arc<Mutex<Vec<Visit>>>,
    open: &Arc<AtomicUsize>,
    stop: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime needs only descriptors");
    runtime.block_on(async move {
        let mut servers = JoinSet::new();
        for Listener { port, tcp, udp } in listeners {
            let note = Note { port, visits: visits.clone(), open: open.clone() };
            let tcp = TcpListener::from_std(tcp).expect("the socket is non-blocking");
            servers.spawn(serve_tcp(tcp, name.to_string(), note.clone()));
            let udp = UdpSocket::from_std(udp).expect("the socket is non-blocking");
            servers.spawn(serve_udp(udp, name.to_string(), note));
        }
        stop.await.ok();
    });
}

/// Where a server records its visits.
#[derive(Clone)]
struct Note {
    port: u16,
    visits: Arc<Mutex<Vec<Visit>>>,
    open: Arc<AtomicUsize>,
}

impl Note {
    fn visit(&self, proto: Proto, from: SocketAddr) {
        // A socket of both families shows an IPv4 address as a mapped IPv6 address.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        lock(&self.visits).push(Visit { proto, port: self.port, from, at: Instant::now() });
    }
}

async fn serve_tcp(listener: TcpListener, name: String, note: Note) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error concerns one connection, which ended before it was accepted.
                let Ok((stream, from)) = accepted else { continue };
                note.visit(Proto::Tcp, from);
                note.open.fetch_add(1, Ordering::Relaxed);
                connections.spawn(echo_stream(stream, name.clone()));
            }
            Some(_) = connections.join_next() => {
                note.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// The client reports errors; this side only ends.
async fn echo_stream(mut stream: TcpStream, name: String) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..len]).await?;
        // A bulk transfer gets a larger buffer; a thousand idle connections keep small ones.
        if len == buffer.len() && len < 256 << 10 {
            buffer.resize(len * 2, 0);
        }
    }
}

async fn serve_udp(socket: UdpSocket, name: String, note: Note) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // Errors here are ICMP messages about earlier answers.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        note.visit(Proto::Udp, from);
        let answer = [name.as_bytes(), b" ", &buffer[..len]].concat();
        socket.send_to(&answer, from).await.ok();
    }
}

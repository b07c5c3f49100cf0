//! A proxy into a cluster's namespace that can be shut, cut, stalled and slowed down.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::{ADDRESS, Cluster};
use crate::world::Netns;

/// What happens to connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Open,
    Shut,
    Stalled,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// The delay of each piece that the server sends.
    delay: Duration,
    /// The number of cuts. Connections that began with a lower number end.
    cuts: u64,
}

/// Listens on loopback of another namespace and forwards bytes. Drop it before the world of that namespace.
pub struct Door {
    address: SocketAddr,
    state: watch::Sender<State>,
    _runtime: Runtime,
}

impl Cluster {
    /// Opens a door to the API from this namespace.
    pub fn door(&self, from: &Netns) -> Result<Door> {
        let (state, states) = watch::channel(State { mode: Mode::Open, delay: Duration::ZERO, cuts: 0 });
        let open = || -> io::Result<(StdListener, Runtime)> {
            let listener = StdListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok((listener, Builder::new_multi_thread().worker_threads(1).enable_all().build()?))
        };
        let (listener, runtime) = from.enter(open).context("cannot open a door to the cluster")?;
        let address = listener.local_addr()?;
        runtime.spawn(serve(listener, self.netns().clone(), states));
        Ok(Door { address, state, _runtime: runtime })
    }
}

impl Door {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections, including new ones.
    pub fn shut(&self) {
        self.state.send_modify(|state| state.mode = Mode::Shut);
    }

    /// Stops all bytes but ends no connection, like a network that swallows packets.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalled);
    }

    /// Returns to the initial state: stalled connections continue.
    pub fn open(&self) {
        self.state.send_modify(|state| (state.mode, state.delay) = (Mode::Open, Duration::ZERO));
    }

    /// Resets the existing connections; new ones are forwarded.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// From now on, delays each piece that the server sends.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

async fn serve(listener: StdListener, cluster: Netns, states: watch::Receiver<State>) {
    let listener = TcpListener::from_std(listener).expect("the socket is non-blocking");
    loop {
        // An error concerns one connection, which ended before it was accepted.
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(pass(client, cluster.clone(), states.clone()));
    }
}

/// Forwards both directions of a connection until it ends. An error ends it with a reset.
async fn pass(client: TcpStream, cluster: Netns, mut states: watch::Receiver<State>) -> io::Result<()> {
    client.set_zero_linger()?;
    let cuts = states.borrow().cuts;
    let is_open = states.wait_for(|state| state.mode != Mode::Stalled).await;
    if is_open.map_or(true, |state| state.mode == Mode::Shut) {
        return Ok(());
    }
    let connect = move || cluster.enter(|| StdStream::connect(ADDRESS));
    let server = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
    server.set_nonblocking(true)?;
    let server = TcpStream::from_std(server)?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;

    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let no_delay = |_: State| Duration::ZERO;
    let requests = pump(from_client, to_server, states.clone(), no_delay);
    let answers = pump(from_server, to_client, states.clone(), |state| state.delay);
    let is_over = states.wait_for(|state| state.mode == Mode::Shut || state.cuts > cuts);
    tokio::select! {
        result = async { tokio::try_join!(requests, answers) } => result.map(drop),
        _ = is_over => Ok(()),
    }
}

/// Forwards one direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut states: watch::Receiver<State>,
    delay: impl Fn(State) -> Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = from.read(&mut buffer).await?;
        let state = states.wait_for(|state| state.mode != Mode::Stalled).await.map(|state| *state);
        let Ok(state) = state else { return Ok(()) };
        tokio::time::sleep(delay(state)).await;
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..len]).await?;
    }
}

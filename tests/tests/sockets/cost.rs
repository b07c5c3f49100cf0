//! What `connect()` to a Service costs a process of the host, compared with `connect()` to the pod itself.

use anyhow::{Result, ensure};
use lb_tests::world::Family;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::stage::{Stage, Web, vip};

const BATCHES: usize = 401;
/// Few enough that a batch ends before the scheduler gives the CPU to another process.
const SOCKETS: usize = 20;
const LIMIT: Duration = Duration::from_micros(3);

/// The sockets are fresh each time, so their entries are inserted, not overwritten. UDP's `connect()` is the bare
/// system call; TCP's includes a handshake of some ten microseconds.
#[test]
fn connect_to_a_service_costs_at_most_three_microseconds_more_than_to_its_pod() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    for (name, kind, protocol) in [("UDP", Type::DGRAM, Protocol::UDP), ("TCP", Type::STREAM, Protocol::TCP)]
    {
        for family in Family::ALL {
            let pod = SocketAddr::new(stage.world.backend(1).ip(family), 8_080);
            let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
            let connects = |to| batch(|| Socket::new(domain, kind, Some(protocol)), to);
            let (mut direct, mut translated) = (Vec::new(), Vec::new());
            stage.node(|| {
                for _ in 0..BATCHES {
                    // The two take turns, so that both see the same load of the machine.
                    direct.push(connects(pod)?);
                    translated.push(connects(vip(family))?);
                }
                Ok(())
            })?;
            direct.sort();
            translated.sort();
            let case = format!(
                "{name} {family:?}: connect() to the pod {:?}, to the Service {:?}; in the quietest batch {:?} and {:?}",
                direct[BATCHES / 2],
                translated[BATCHES / 2],
                direct[0],
                translated[0]
            );
            println!("{case}");
            // Other load on the machine raises the median of one or the other.
            ensure!(translated[0] <= direct[0] + LIMIT, "{case}");
        }
    }
    Ok(())
}

/// The mean duration of one `connect()`.
fn batch(socket: impl Fn() -> std::io::Result<Socket>, to: SocketAddr) -> Result<Duration> {
    let sockets = (0..SOCKETS).map(|_| socket()).collect::<std::io::Result<Vec<_>>>()?;
    let to = to.into();
    let begin = Instant::now();
    for socket in &sockets {
        socket.connect(&to)?;
    }
    let elapsed = begin.elapsed();
    for socket in sockets.iter().filter(|socket| socket.r#type().is_ok_and(|kind| kind == Type::STREAM)) {
        // The connection is reset, so that no port stays in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(elapsed / SOCKETS as u32)
}

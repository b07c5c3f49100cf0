//! What `connect()` to a Service costs a process of the host, over one to the pod itself.

use anyhow::{Result, ensure};
use lb_tests::world::Family;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::client::any;
use crate::stage::{Stage, Web, vip};

const BATCHES: usize = 41;
const SOCKETS: usize = 200;
const LIMIT: Duration = Duration::from_micros(3);

/// Of UDP: the whole of it is the system call, while TCP's is a handshake of some ten microseconds that varies by more
/// than what is measured here. Fresh sockets each time: what is remembered of them is inserted, not overwritten.
#[test]
fn connect_to_a_service_costs_at_most_three_microseconds_more_than_to_its_pod() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1, 2]))?;
    for family in Family::ALL {
        let pod = SocketAddr::new(stage.world.backend(1).ip(family), 8_080);
        let (mut direct, mut translated) = (Vec::new(), Vec::new());
        stage.node(|| {
            for _ in 0..BATCHES {
                // In turn, so that both see the same load of the machine.
                direct.push(batch(family, pod)?);
                translated.push(batch(family, vip(family))?);
            }
            Ok(())
        })?;
        let (direct, translated) = (median(direct), median(translated));
        println!("{family:?}: connect() to the pod {direct:?}, to the Service {translated:?}");
        ensure!(translated <= direct + LIMIT, "{family:?}: {translated:?}, and {direct:?} to the pod");
    }
    Ok(())
}

/// The mean of one `connect()`.
fn batch(family: Family, to: SocketAddr) -> Result<Duration> {
    let sockets: Vec<UdpSocket> =
        (0..SOCKETS).map(|_| UdpSocket::bind((any(family), 0))).collect::<std::io::Result<_>>()?;
    let begin = Instant::now();
    for socket in &sockets {
        socket.connect(to)?;
    }
    Ok(begin.elapsed() / SOCKETS as u32)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

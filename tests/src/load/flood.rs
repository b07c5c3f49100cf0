//! SYNs without end, as an attacker or a broken client sends them.

use crate::packet::{Mac, Packet, tcp};
use crate::world::{GATEWAY_MAC, Pod, Wire};
use anyhow::{Result, ensure};
use fastrand::Rng;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

const BATCH: usize = 256;
const LIMIT: Duration = Duration::from_secs(120);
const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// SYNs to one address, from any port of sources that do not exist (198.18.0.0/15 or fd00:bad::/32) or of one address.
#[derive(Clone, Debug)]
pub struct SynFlood {
    target: SocketAddr,
    source: Option<IpAddr>,
    packets: usize,
    seed: u64,
}

impl SynFlood {
    pub fn to(target: SocketAddr) -> Self {
        Self { target, source: None, packets: 200_000, seed: 1 }
    }

    /// Sends from one address.
    pub fn from(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    pub fn packets(self, packets: usize) -> Self {
        Self { packets, ..self }
    }

    /// Sets the seed; another seed gives other sources.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sends all packets from a pod, as fast as possible; returns how long that took.
    pub fn run(&self, pod: &Pod) -> Result<Duration> {
        let wire = Wire::of(pod)?;
        let mut random = Rng::with_seed(self.seed);
        let began = Instant::now();
        let mut left = self.packets;
        while left > 0 {
            let frame = |_| self.packet(&mut random).macs(SOURCE_MAC, GATEWAY_MAC).bytes();
            let frames: Vec<_> = (0..left.min(BATCH)).map(frame).collect();
            wire.send(&frames)?;
            left -= frames.len();
            ensure!(began.elapsed() < LIMIT, "{left} packets are left after {LIMIT:?}");
        }
        Ok(began.elapsed())
    }

    fn packet(&self, random: &mut Rng) -> Packet {
        let source: IpAddr = match (self.source, self.target) {
            (Some(source), _) => source,
            (None, SocketAddr::V4(_)) => Ipv4Addr::from_bits(0xc612_0000 | random.u32(..1 << 17)).into(),
            (None, SocketAddr::V6(_)) => {
                Ipv6Addr::from_bits(0xfd00_0bad << 96 | random.u128(..1 << 96)).into()
            }
        };
        tcp((source, random.u16(1_024..)), self.target).syn().seq(random.u32(..))
    }
}

//! The functions that build packets.

use super::{Extension, Fragment, Icmp, Mac, Packet, Sctp, Tcp, Transport, Udp};
use std::net::{IpAddr, SocketAddr};

/// An address and port, from text or from values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(pub SocketAddr);

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl From<(IpAddr, u16)> for Place {
    fn from((addr, port): (IpAddr, u16)) -> Self {
        Self(SocketAddr::new(addr, port))
    }
}

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        Self(text.parse().unwrap_or_else(|_| panic!("{text:?} is not an address with a port")))
    }
}

/// A TCP segment with no flag set yet.
pub fn tcp(src: impl Into<Place>, dst: impl Into<Place>) -> Packet {
    let (Place(src), Place(dst)) = (src.into(), dst.into());
    let tcp = Tcp {
        sport: src.port(),
        dport: dst.port(),
        seq: 1_000,
        ack: 0,
        flags: 0,
        window: 64_240,
        options: Vec::new(),
        payload: Vec::new(),
    };
    packet(src.ip(), dst.ip(), Transport::Tcp(tcp))
}

/// A UDP datagram, still without payload.
pub fn udp(src: impl Into<Place>, dst: impl Into<Place>) -> Packet {
    let (Place(src), Place(dst)) = (src.into(), dst.into());
    let udp = Udp { sport: src.port(), dport: dst.port(), checksum: true, payload: Vec::new() };
    packet(src.ip(), dst.ip(), Transport::Udp(udp))
}

/// An SCTP packet, still without chunks.
pub fn sctp(src: impl Into<Place>, dst: impl Into<Place>) -> Packet {
    let (Place(src), Place(dst)) = (src.into(), dst.into());
    let sctp = Sctp { sport: src.port(), dport: dst.port(), tag: 0x1234_5678, chunks: Vec::new() };
    packet(src.ip(), dst.ip(), Transport::Sctp(sctp))
}

/// An ICMP or ICMPv6 message, depending on the family of its addresses.
pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8) -> Packet {
    packet(src, dst, Transport::Icmp(Icmp { kind, code, rest: [0; 4], body: Vec::new() }))
}

fn packet(src: IpAddr, dst: IpAddr, transport: Transport) -> Packet {
    assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst} are of different families");
    Packet {
        eth_src: Mac([2, 0, 0, 0, 0, 1]),
        eth_dst: Mac([2, 0, 0, 0, 0, 2]),
        vlans: Vec::new(),
        src,
        dst,
        hops: 64,
        class: 0,
        dont_fragment: src.is_ipv4(),
        ip_options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        transport,
    }
}

impl Packet {
    pub fn syn(self) -> Self {
        self.flags(Tcp::SYN)
    }

    pub fn syn_ack(self) -> Self {
        self.flags(Tcp::SYN | Tcp::ACK)
    }

    pub fn ack(self) -> Self {
        self.flags(Tcp::ACK)
    }

    pub fn fin(self) -> Self {
        self.flags(Tcp::FIN | Tcp::ACK)
    }

    pub fn rst(self) -> Self {
        self.flags(Tcp::RST)
    }

    pub fn flags(self, flags: u8) -> Self {
        self.with_tcp(|tcp| tcp.flags = flags)
    }

    pub fn seq(self, seq: u32) -> Self {
        self.with_tcp(|tcp| tcp.seq = seq)
    }

    pub fn acking(self, ack: u32) -> Self {
        self.with_tcp(|tcp| tcp.ack = ack)
    }

    pub fn window(self, window: u16) -> Self {
        self.with_tcp(|tcp| tcp.window = window)
    }

    /// `words` 32-bit words of TCP options, all no-operation.
    pub fn tcp_options(self, words: usize) -> Self {
        self.with_tcp(|tcp| tcp.options = vec![1; words * 4])
    }

    pub fn payload(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        match &mut self.transport {
            Transport::Tcp(tcp) => tcp.payload = bytes,
            Transport::Udp(udp) => udp.payload = bytes,
            Transport::Sctp(sctp) => sctp.chunks = bytes,
            Transport::Icmp(icmp) => icmp.body = bytes,
            Transport::Other { bytes: old, .. } => *old = bytes,
        }
        self
    }

    /// A UDP datagram over IPv4 whose checksum field is zero.
    pub fn without_checksum(mut self) -> Self {
        match &mut self.transport {
            Transport::Udp(udp) => udp.checksum = false,
            other => panic!("{other:?} has no optional checksum"),
        }
        self
    }

    /// Adds a tag inside the existing tags.
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// `words` 32-bit words of IPv4 options, all no-operation.
    pub fn ipv4_options(mut self, words: usize) -> Self {
        assert!(self.src.is_ipv4() && words <= 10, "an IPv4 header has room for 10 words of options");
        self.ip_options = vec![1; words * 4];
        self
    }

    /// Adds IPv6 extension headers of these kinds, each with 8 bytes that hold one PadN option.
    pub fn ext_headers(mut self, kinds: &[u8]) -> Self {
        assert!(self.src.is_ipv6(), "extension headers belong to IPv6");
        let header = |&kind| Extension { kind, body: vec![1, 4, 0, 0, 0, 0] };
        self.extensions.extend(kinds.iter().map(header));
        self
    }

    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.eth_src, self.eth_dst) = (src, dst);
        self
    }

    /// The same packet with another source: what a translation should produce.
    pub fn with_src(mut self, src: impl Into<Place>) -> Self {
        let Place(src) = src.into();
        self.src = src.ip();
        *self.ports_mut().0 = src.port();
        self
    }

    /// The same packet with another destination.
    pub fn with_dst(mut self, dst: impl Into<Place>) -> Self {
        let Place(dst) = dst.into();
        self.dst = dst.ip();
        *self.ports_mut().1 = dst.port();
        self
    }

    /// The fragments of this packet, each with at most `size` bytes of IP payload (a multiple of 8).
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Self> {
        assert!(size > 0 && size.is_multiple_of(8), "every fragment but the last has a multiple of 8 bytes");
        let whole = self.transport_bytes();
        let last = whole.len().div_ceil(size) - 1;
        let piece = |(i, bytes): (usize, &[u8])| Self {
            dont_fragment: false,
            fragment: Some(Fragment { id, offset: (i * size) as u16, more: i < last }),
            transport: Transport::Other { proto: self.proto(), bytes: bytes.to_vec() },
            ..self.clone()
        };
        whole.chunks(size).enumerate().map(piece).collect()
    }

    fn with_tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        match &mut self.transport {
            Transport::Tcp(tcp) => change(tcp),
            other => panic!("{other:?} is not TCP"),
        }
        self
    }

    fn ports_mut(&mut self) -> (&mut u16, &mut u16) {
        match &mut self.transport {
            Transport::Tcp(tcp) => (&mut tcp.sport, &mut tcp.dport),
            Transport::Udp(udp) => (&mut udp.sport, &mut udp.dport),
            Transport::Sctp(sctp) => (&mut sctp.sport, &mut sctp.dport),
            other => panic!("{other:?} has no ports"),
        }
    }
}

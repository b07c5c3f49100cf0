//! Writes a packet as the bytes on the wire.

use super::checksum::{Sum, crc32c};
use super::{Extension, Packet, Sctp, Tcp, Transport, Udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;

impl Packet {
    /// The frame, with every length and checksum filled in.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self.transport_bytes();
        let mut frame = [self.eth_dst.0, self.eth_src.0].concat();
        for (i, id) in self.vlans.iter().enumerate() {
            let outer_of_two = i == 0 && self.vlans.len() > 1;
            frame.extend(if outer_of_two { ETH_QINQ } else { ETH_VLAN }.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(ETH_IPV4.to_be_bytes());
                frame.extend(self.ipv4_header(src, dst, payload.len()));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend(ETH_IPV6.to_be_bytes());
                frame.extend(self.ipv6_headers(src, dst, payload.len()));
            }
            (src, dst) => panic!("{src} and {dst} are of different families"),
        }
        frame.extend(payload);
        frame
    }

    /// The payload of IP, with its checksum.
    pub(super) fn transport_bytes(&self) -> Vec<u8> {
        match &self.transport {
            Transport::Tcp(tcp) => self.checksummed(tcp_bytes(tcp), 16),
            Transport::Udp(udp) => {
                let mut bytes = udp_bytes(udp);
                if udp.checksum {
                    bytes = self.checksummed(bytes, 6);
                    // A checksum of zero is sent as all ones, because zero means "no checksum" (RFC 768).
                    if bytes[6..8] == [0, 0] {
                        bytes[6..8].fill(0xff);
                    }
                }
                bytes
            }
            Transport::Sctp(sctp) => sctp_bytes(sctp),
            Transport::Icmp(icmp) => {
                let head = [icmp.kind, icmp.code, 0, 0];
                self.checksummed([&head[..], &icmp.rest, &icmp.body].concat(), 2)
            }
            Transport::Other { bytes, .. } => bytes.clone(),
        }
    }

    fn checksummed(&self, mut bytes: Vec<u8>, field: usize) -> Vec<u8> {
        let checksum = self.transport_sum(bytes.len()).add(&bytes).complement();
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The sum of the pseudo header, which every protocol has except ICMP for IPv4.
    pub(super) fn transport_sum(&self, len: usize) -> Sum {
        match self.proto() {
            1 => Sum::default(),
            proto => Sum::default().pseudo_header(self.src, self.dst, proto, len),
        }
    }

    fn ipv4_header(&self, src: Ipv4Addr, dst: Ipv4Addr, payload: usize) -> Vec<u8> {
        assert!(self.ip_options.len().is_multiple_of(4), "IPv4 options are whole 32-bit words");
        let len = 20 + self.ip_options.len();
        let (id, place) = match self.fragment {
            Some(fragment) => (fragment.id as u16, (u16::from(fragment.more) << 13) | (fragment.offset / 8)),
            None => (0, 0),
        };
        let mut header = vec![0x40 | (len / 4) as u8, self.class];
        header.extend(u16::try_from(len + payload).expect("an IPv4 packet is at most 64 KiB").to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend((u16::from(self.dont_fragment) << 14 | place).to_be_bytes());
        header.extend([self.hops, self.proto(), 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(&self.ip_options);
        let checksum = Sum::default().add(&header).complement();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_headers(&self, src: Ipv6Addr, dst: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut chain: Vec<(u8, Vec<u8>)> =
            self.extensions.iter().map(|Extension { kind, body }| (*kind, body.clone())).collect();
        if let Some(fragment) = self.fragment {
            let place = (fragment.offset & !7) | u16::from(fragment.more);
            let body = [&place.to_be_bytes()[..], &fragment.id.to_be_bytes()].concat();
            chain.push((Extension::FRAGMENT, body));
        }
        let len: usize = chain.iter().map(|(_, body)| body.len() + 2).sum();
        let next_of = |i: usize| chain.get(i).map_or(self.proto(), |(kind, _)| *kind);

        let mut headers = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
        headers.extend(u16::try_from(len + payload).expect("an IPv6 packet is no jumbogram").to_be_bytes());
        headers.extend([next_of(0), self.hops]);
        headers.extend(src.octets());
        headers.extend(dst.octets());
        for (i, (kind, body)) in chain.iter().enumerate() {
            assert_eq!(body.len() % 8, 6, "an extension header is a multiple of 8 bytes");
            // The fragment header has a fixed length, and a reserved byte instead of the length field.
            let words = if *kind == Extension::FRAGMENT { 0 } else { (body.len() / 8) as u8 };
            headers.extend([next_of(i + 1), words]);
            headers.extend(body);
        }
        headers
    }
}

fn tcp_bytes(tcp: &Tcp) -> Vec<u8> {
    assert!(tcp.options.len().is_multiple_of(4), "TCP options are whole 32-bit words");
    let mut bytes = [tcp.sport.to_be_bytes(), tcp.dport.to_be_bytes()].concat();
    bytes.extend(tcp.seq.to_be_bytes());
    bytes.extend(tcp.ack.to_be_bytes());
    bytes.extend([((20 + tcp.options.len()) as u8 / 4) << 4, tcp.flags]);
    bytes.extend(tcp.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&tcp.options);
    bytes.extend(&tcp.payload);
    bytes
}

fn sctp_bytes(sctp: &Sctp) -> Vec<u8> {
    let mut bytes = [sctp.sport.to_be_bytes(), sctp.dport.to_be_bytes()].concat();
    bytes.extend(sctp.tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&sctp.chunks);
    let checksum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn udp_bytes(udp: &Udp) -> Vec<u8> {
    let len = u16::try_from(8 + udp.payload.len()).expect("a datagram is at most 64 KiB");
    let mut bytes = [udp.sport.to_be_bytes(), udp.dport.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    bytes.extend(&udp.payload);
    bytes
}

//! Parses bytes on the wire into a packet, or says why they are not a packet.

use super::checksum::{Sum, crc32c};
use super::{Extension, Fragment, Icmp, Mac, Packet, Sctp, Tcp, Transport, Udp};
use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether checksums must be right. Frames that a socket sees on a veth carry partial checksums (offload).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    Verify,
    Ignore,
}

impl Packet {
    /// Reads a frame; a wrong length or checksum is an error.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        Self::parse_with(frame, Checksums::Verify)
    }

    pub fn parse_with(frame: &[u8], checksums: Checksums) -> Result<Self> {
        let mut rest = Cursor(frame);
        let eth_dst = Mac(rest.array()?);
        let eth_src = Mac(rest.array()?);
        let mut vlans = Vec::new();
        let mut ethertype = rest.u16()?;
        while matches!(ethertype, 0x8100 | 0x88a8) {
            vlans.push(rest.u16()? & 0xfff);
            ethertype = rest.u16()?;
        }
        let packet = match ethertype {
            0x0800 => ipv4(rest, checksums).context("IPv4")?,
            0x86dd => ipv6(rest, checksums).context("IPv6")?,
            other => bail!("ethertype {other:#06x} is not IP"),
        };
        Ok(Self { eth_src, eth_dst, vlans, ..packet })
    }
}

/// The bytes that are left to read.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).context("cut short")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take returns the requested length"))
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }
}

fn blank(src: IpAddr, dst: IpAddr, proto: u8) -> Packet {
    Packet {
        eth_src: Mac::default(),
        eth_dst: Mac::default(),
        vlans: Vec::new(),
        src,
        dst,
        hops: 0,
        class: 0,
        dont_fragment: false,
        ip_options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        transport: Transport::Other { proto, bytes: Vec::new() },
    }
}

fn ipv4(mut rest: Cursor, checksums: Checksums) -> Result<Packet> {
    let whole = rest.0;
    let version = rest.u8()?;
    ensure!(version >> 4 == 4, "version {}", version >> 4);
    let header = usize::from(version & 0xf) * 4;
    ensure!((20..=whole.len()).contains(&header), "header of {header} bytes");
    let class = rest.u8()?;
    let total = usize::from(rest.u16()?);
    ensure!(total == whole.len(), "total length {total}, but there are {} bytes", whole.len());
    let id = rest.u16()?;
    let place = rest.u16()?;
    let (hops, proto, _checksum) = (rest.u8()?, rest.u8()?, rest.u16()?);
    let intact = Sum::default().add(&whole[..header]).is_intact();
    ensure!(checksums == Checksums::Ignore || intact, "header checksum is wrong");
    let src = Ipv4Addr::from(rest.array::<4>()?);
    let dst = Ipv4Addr::from(rest.array::<4>()?);
    let ip_options = rest.take(header - 20)?.to_vec();
    let (offset, more) = ((place & 0x1fff) * 8, place & 0x2000 != 0);
    let fragment = (offset > 0 || more).then_some(Fragment { id: id.into(), offset, more });
    let dont_fragment = place & 0x4000 != 0;
    let packet = blank(src.into(), dst.into(), proto);
    transport(Packet { hops, class, dont_fragment, ip_options, fragment, ..packet }, proto, rest, checksums)
}

fn ipv6(mut rest: Cursor, checksums: Checksums) -> Result<Packet> {
    let first = rest.u32()?;
    ensure!(first >> 28 == 6, "version {}", first >> 28);
    let len = usize::from(rest.u16()?);
    let (mut next, hops) = (rest.u8()?, rest.u8()?);
    let src = Ipv6Addr::from(rest.array::<16>()?);
    let dst = Ipv6Addr::from(rest.array::<16>()?);
    ensure!(len == rest.0.len(), "payload length {len}, but there are {} bytes", rest.0.len());
    let (mut extensions, mut fragment) = (Vec::new(), None);
    loop {
        let kind = next;
        match kind {
            Extension::HOP_BY_HOP | Extension::ROUTING | Extension::DESTINATION => {
                next = rest.u8()?;
                let len = usize::from(rest.u8()?) * 8 + 6;
                extensions.push(Extension { kind, body: rest.take(len)?.to_vec() });
            }
            Extension::FRAGMENT => {
                next = rest.u8()?;
                rest.u8()?;
                let place = rest.u16()?;
                fragment = Some(Fragment { id: rest.u32()?, offset: place & 0xfff8, more: place & 1 != 0 });
                // The rest is a part of a datagram, not a header.
                break;
            }
            _ => break,
        }
    }
    let class = (first >> 20) as u8;
    let packet = blank(src.into(), dst.into(), next);
    transport(Packet { hops, class, extensions, fragment, ..packet }, next, rest, checksums)
}

fn transport(mut packet: Packet, proto: u8, rest: Cursor, checksums: Checksums) -> Result<Packet> {
    packet.transport = match (proto, packet.src) {
        _ if packet.fragment.is_some() => Transport::Other { proto, bytes: rest.0.to_vec() },
        (6, _) => tcp(rest).context("TCP")?,
        (17, _) => udp(rest).context("UDP")?,
        (132, _) => sctp(rest, checksums).context("SCTP")?,
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => icmp(rest).context("ICMP")?,
        _ => Transport::Other { proto, bytes: rest.0.to_vec() },
    };
    let summed = match &packet.transport {
        // The checksum of SCTP covers no part of IP, and has been verified already.
        Transport::Other { .. } | Transport::Sctp(_) => false,
        Transport::Udp(udp) if !udp.checksum => {
            ensure!(packet.src.is_ipv4(), "UDP over IPv6 without a checksum");
            false
        }
        _ => checksums == Checksums::Verify,
    };
    let intact = !summed || packet.transport_sum(rest.0.len()).add(rest.0).is_intact();
    ensure!(intact, "transport checksum of {packet} is wrong");
    Ok(packet)
}

fn tcp(mut rest: Cursor) -> Result<Transport> {
    let (sport, dport, seq, ack) = (rest.u16()?, rest.u16()?, rest.u32()?, rest.u32()?);
    let header = usize::from(rest.u8()? >> 4) * 4;
    ensure!(header >= 20, "header of {header} bytes");
    let (flags, window, _checksum, _urgent) = (rest.u8()?, rest.u16()?, rest.u16()?, rest.u16()?);
    let options = rest.take(header - 20)?.to_vec();
    Ok(Transport::Tcp(Tcp { sport, dport, seq, ack, flags, window, options, payload: rest.0.to_vec() }))
}

fn udp(mut rest: Cursor) -> Result<Transport> {
    let whole = rest.0.len();
    let (sport, dport, len, checksum) = (rest.u16()?, rest.u16()?, rest.u16()?, rest.u16()?);
    ensure!(usize::from(len) == whole, "length {len}, but there are {whole} bytes");
    Ok(Transport::Udp(Udp { sport, dport, checksum: checksum != 0, payload: rest.0.to_vec() }))
}

fn sctp(mut rest: Cursor, checksums: Checksums) -> Result<Transport> {
    let mut whole = rest.0.to_vec();
    let (sport, dport, tag, checksum) =
        (rest.u16()?, rest.u16()?, rest.u32()?, u32::from_le_bytes(rest.array()?));
    whole[8..12].fill(0);
    ensure!(checksums == Checksums::Ignore || checksum == crc32c(&whole), "CRC32c is wrong");
    Ok(Transport::Sctp(Sctp { sport, dport, tag, chunks: rest.0.to_vec() }))
}

fn icmp(mut rest: Cursor) -> Result<Transport> {
    let (kind, code, _checksum) = (rest.u8()?, rest.u8()?, rest.u16()?);
    Ok(Transport::Icmp(Icmp { kind, code, rest: rest.array()?, body: rest.0.to_vec() }))
}

//! Tests the packet builder against itself and against another implementation.

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_tests::packet::{Extension, Mac, Packet, assert_same, icmp, tcp, udp};
use std::net::{IpAddr, Ipv6Addr};

fn samples() -> Vec<Packet> {
    let (a4, b4) = ("10.244.1.10:4000", "10.96.0.10:80");
    let (a6, b6) = ("[fd00:10:244:1::10]:4000", "[fd00:10:96::10]:80");
    let many = [Extension::HOP_BY_HOP, Extension::DESTINATION, Extension::ROUTING, Extension::DESTINATION];
    vec![
        tcp(a4, b4).syn(),
        tcp(a6, b6).syn_ack().tcp_options(5).seq(7).acking(9),
        tcp(a4, b4).ack().payload("odd").vlan(7),
        tcp(a6, b6).fin().payload(vec![0xab; 1_400]).vlan(5).vlan(9),
        udp(a4, b4).payload("a question"),
        udp(a6, b6).payload("odd").hops(3),
        udp(a4, b4).payload("bare").without_checksum(),
        udp(a4, b4).ipv4_options(3),
        tcp(a6, b6).rst().ext_headers(&many),
        icmp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 3, 3).payload("about a packet"),
        icmp(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into(), 1, 4).payload("about a packet"),
    ]
}

#[test]
fn what_is_written_is_read_again() -> Result<()> {
    for packet in samples() {
        assert_same(&Packet::parse(&packet.bytes())?, &packet);
    }
    Ok(())
}

#[test]
fn another_parser_finds_the_same_checksums() -> Result<()> {
    for packet in samples() {
        let bytes = packet.bytes();
        let sliced = SlicedPacket::from_ethernet(&bytes)?;
        let (src, dst) = (packet.src, packet.dst);
        let net = sliced.net.expect("every sample is an IP packet");
        if let NetSlice::Ipv4(v4) = &net {
            let header = v4.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "{packet}");
        }
        match (sliced.transport.expect("every sample has a transport"), src, dst) {
            (TransportSlice::Tcp(tcp), IpAddr::V4(src), IpAddr::V4(dst)) => {
                assert_eq!(tcp.calc_checksum_ipv4(src.octets(), dst.octets())?, tcp.checksum());
            }
            (TransportSlice::Tcp(tcp), IpAddr::V6(src), IpAddr::V6(dst)) => {
                assert_eq!(tcp.calc_checksum_ipv6(src.octets(), dst.octets())?, tcp.checksum());
            }
            (TransportSlice::Udp(udp), IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = udp.to_header();
                let calculated = header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), udp.payload())?;
                assert!(header.checksum == 0 || header.checksum == calculated, "{packet}");
            }
            (TransportSlice::Udp(udp), IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = udp.to_header();
                let calculated = header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload())?;
                assert_eq!(header.checksum, calculated, "{packet}");
            }
            (TransportSlice::Icmpv6(icmp), IpAddr::V6(src), IpAddr::V6(dst)) => {
                assert!(icmp.is_checksum_valid(src.octets(), dst.octets()), "{packet}");
            }
            (TransportSlice::Icmpv4(icmp), ..) => {
                let header = icmp.header();
                assert_eq!(header.icmp_type.calc_checksum(icmp.payload()), header.checksum, "{packet}");
            }
            (other, ..) => panic!("{packet} was read as {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn damage_is_noticed() {
    for packet in samples().into_iter().filter(|packet| packet.proto() == 6) {
        let mut bytes = packet.bytes();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let error = Packet::parse(&bytes).expect_err("a flipped bit breaks the checksum");
        assert!(format!("{error:#}").contains("checksum"), "{error:#}");
    }
}

#[test]
fn fragments_make_the_packet_again() -> Result<()> {
    let whole = udp("[fd00::1]:1", "[fd00::2]:2").payload(vec![7; 100]);
    let pieces = whole.fragments(42, 64);
    assert_eq!(pieces.len(), 2);
    for piece in &pieces {
        assert_same(&Packet::parse(&piece.bytes())?, piece);
    }
    Ok(())
}

#[test]
fn a_difference_names_the_field() {
    let sent = tcp("10.244.1.10:4000", "10.96.0.10:80").syn();
    let got = sent.clone().with_dst("10.244.1.11:8080").macs(Mac([1; 6]), sent.eth_dst);
    let difference = got.difference(&sent);
    assert!(difference.contains("destination: 10.244.1.11:8080 | 10.96.0.10:80"), "{difference}");
    assert!(difference.contains("eth source: 01:01:01:01:01:01"), "{difference}");
    assert_eq!(difference.lines().count(), 2, "{difference}");
}

//! Packets as text: one line for each, and the fields that differ.

use super::{Packet, Tcp, Transport};
use anyhow::{Context, Result};
use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>();
        let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).with_context(|| format!("{text:?} is not a MAC address"))
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for id in &self.vlans {
            write!(f, "vlan {id} ")?;
        }
        match &self.transport {
            Transport::Tcp(tcp) => {
                let Tcp { seq, ack, window, .. } = tcp;
                write!(f, "{} > {} TCP {} ", self.from(), self.to(), flag_names(tcp.flags))?;
                write!(f, "seq {seq} ack {ack} win {window}")?;
            }
            Transport::Udp(_) => write!(f, "{} > {} UDP", self.from(), self.to())?,
            Transport::Sctp(sctp) => {
                write!(f, "{} > {} SCTP tag {:08x}", self.from(), self.to(), sctp.tag)?;
            }
            Transport::Icmp(icmp) => {
                write!(f, "{} > {} ICMP type {} code {}", self.src, self.dst, icmp.kind, icmp.code)?;
            }
            Transport::Other { proto, bytes } => {
                write!(f, "{} > {} protocol {proto}, {} bytes", self.src, self.dst, bytes.len())?;
            }
        }
        if let Some(piece) = self.fragment {
            write!(f, " fragment {} at {}{}", piece.id, piece.offset, if piece.more { "+" } else { "" })?;
        }
        write!(f, " data {}", self.data().len())
    }
}

fn flag_names(flags: u8) -> String {
    let names =
        [(Tcp::SYN, "SYN"), (Tcp::FIN, "FIN"), (Tcp::RST, "RST"), (Tcp::PSH, "PSH"), (Tcp::ACK, "ACK")];
    let set: Vec<_> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".into() } else { set.join("|") }
}

impl Packet {
    /// Each field with its name.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("eth source", self.eth_src.to_string()),
            ("eth destination", self.eth_dst.to_string()),
            ("VLANs", format!("{:?}", self.vlans)),
            ("source", self.from().to_string()),
            ("destination", self.to().to_string()),
            ("protocol", self.proto().to_string()),
            ("hops", self.hops.to_string()),
            ("traffic class", self.class.to_string()),
            ("don't fragment", self.dont_fragment.to_string()),
            ("IPv4 options", format!("{:02x?}", self.ip_options)),
            ("extension headers", format!("{:02x?}", self.extensions)),
            ("fragment", format!("{:?}", self.fragment)),
        ];
        match &self.transport {
            Transport::Tcp(tcp) => fields.extend([
                ("flags", flag_names(tcp.flags)),
                ("sequence", tcp.seq.to_string()),
                ("acknowledgement", tcp.ack.to_string()),
                ("window", tcp.window.to_string()),
                ("TCP options", format!("{:02x?}", tcp.options)),
                ("payload", excerpt(&tcp.payload)),
            ]),
            Transport::Udp(udp) => fields.extend([
                ("UDP checksum", if udp.checksum { "present" } else { "none" }.into()),
                ("payload", excerpt(&udp.payload)),
            ]),
            Transport::Sctp(sctp) => {
                fields.extend([
                    ("verification tag", format!("{:08x}", sctp.tag)),
                    ("payload", excerpt(&sctp.chunks)),
                ]);
            }
            Transport::Icmp(icmp) => fields.extend([
                ("ICMP type and code", format!("{} {}", icmp.kind, icmp.code)),
                ("ICMP second word", format!("{:02x?}", icmp.rest)),
                ("payload", excerpt(&icmp.body)),
            ]),
            Transport::Other { bytes, .. } => fields.push(("payload", excerpt(bytes))),
        }
        fields
    }

    /// The fields in which another packet differs, one per line; empty if the packets are equal.
    pub fn difference(&self, other: &Self) -> String {
        let (mine, theirs) = (self.fields(), other.fields());
        let value = |fields: &[(&'static str, String)], name| {
            fields.iter().find(|(n, _)| *n == name).map_or("-".to_string(), |(_, value)| value.clone())
        };
        let mut names: Vec<_> = mine.iter().chain(&theirs).map(|(name, _)| *name).collect();
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        let line = |name| {
            let (a, b) = (value(&mine, name), value(&theirs, name));
            (a != b).then(|| format!("  {name}: {a} | {b}\n"))
        };
        names.into_iter().filter_map(line).collect()
    }
}

/// The first bytes, with the number and a hash of all bytes.
fn excerpt(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(24)].escape_ascii();
    let hash = bytes.iter().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
    format!("\"{shown}\" ({} bytes, hash {hash:08x})", bytes.len())
}

/// Panics if the packets differ, and names the fields that do.
#[track_caller]
pub fn assert_same(got: &Packet, expected: &Packet) {
    assert!(
        got == expected,
        "packets differ\n  got      {got}\n  expected {expected}\nfield: got | expected\n{}",
        got.difference(expected)
    );
}

//! The part of a packet that the policy reads: TCP and UDP over IPv4 and IPv6, without extension headers.

use aya_ebpf::programs::TcContext;

const ETHERNET: usize = 14;
const ETHERNET_TYPE: usize = 12;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Linux takes the source ports of clients from here on, so a lower destination port is a server's.
const FIRST_EPHEMERAL: u16 = 32768;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tuple {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u8,
    pad: u8,
    /// Where the TCP or UDP header starts. This is the same in both directions, so it may be part of a key.
    transport: u16,
}

impl Tuple {
    /// `None` for packets that the policy ignores.
    #[inline(always)]
    pub fn of(packet: &TcContext) -> Option<Self> {
        let kind = u16::from_be_bytes(packet.load(ETHERNET_TYPE).ok()?);
        let (source, destination, protocol, transport) = match kind {
            IPV4 => {
                let length: u8 = packet.load(ETHERNET).ok()?;
                let source = mapped(packet.load(ETHERNET + 12).ok()?);
                let destination = mapped(packet.load(ETHERNET + 16).ok()?);
                let transport = ETHERNET + usize::from(length & 0x0f) * 4;
                (source, destination, packet.load(ETHERNET + 9).ok()?, transport)
            }
            IPV6 => {
                let source = packet.load(ETHERNET + 8).ok()?;
                let destination = packet.load(ETHERNET + 24).ok()?;
                (source, destination, packet.load(ETHERNET + 6).ok()?, ETHERNET + 40)
            }
            _ => return None,
        };
        if protocol != TCP && protocol != UDP {
            return None;
        }
        let source_port = packet.load(transport).ok()?;
        let destination_port = packet.load(transport + 2).ok()?;
        let transport = transport as u16;
        Some(Self { source, destination, source_port, destination_port, protocol, pad: 0, transport })
    }

    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// Whether the packet begins a connection to the pod: a first segment, or a datagram to a server's port.
    #[inline(always)]
    pub fn begins(&self, packet: &TcContext) -> bool {
        if self.protocol == UDP {
            return u16::from_be_bytes(self.destination_port) < FIRST_EPHEMERAL;
        }
        let flags: Result<u8, _> = packet.load(usize::from(self.transport) + TCP_FLAGS);
        flags.is_ok_and(|flags| flags & (SYN | ACK) == SYN)
    }
}

#[inline(always)]
fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

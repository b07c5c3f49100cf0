//! The part of nfnetlink that nftables and ipset need: requests, dumps, and batches that are carried out completely or
//! not at all. No available crate supports it without a C library.

use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::netlink::{ACK, DUMP, Netlink, REQUEST, write_header};

const NLA_F_NESTED: u16 = 0x8000;
/// `NFNL_BATCH_GENID` of `linux/netfilter/nfnetlink.h`.
const BATCH_GENID: u16 = 1;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// Attributes of a message, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a string that ends with a zero, as the kernel requires.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an integer, big-endian like all integers of nfnetlink.
    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// The value of an attribute; `None` if the attribute is absent.
pub fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all_attributes(attributes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Kind and value of each attribute; ends at bytes that are no attribute.
pub fn all_attributes(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut rest = attributes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// The value of a string attribute, without its final zero.
pub fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
}

/// The value of a big-endian integer of 32 bits.
pub fn be32(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

/// The value of a big-endian integer of 64 bits.
pub fn be64(attributes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

/// A message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Subsystem and command.
    pub kind: u16,
    /// `AF_INET` or `AF_INET6`; `NFPROTO_*` has the same numbers.
    pub family: u8,
    pub attributes: Attributes,
}

impl Message {
    pub fn new(subsystem: i32, command: i32, family: u8, attributes: Attributes) -> Self {
        Self { kind: (subsystem << 8 | command) as u16, family, attributes }
    }

    fn write(&self, out: &mut Vec<u8>, flags: u16, sequence: u32, resource: u16) {
        write_header(out, FAMILY_HEADER + self.attributes.0.len(), self.kind, flags, sequence);
        out.extend_from_slice(&[self.family, 0]);
        out.extend_from_slice(&resource.to_be_bytes());
        out.extend_from_slice(&self.attributes.0);
    }
}

/// A socket, in the network namespace of the thread that opened it.
pub struct Nfnetlink {
    netlink: Netlink,
    sequence: u32,
}

impl Nfnetlink {
    /// `None` if the kernel has no nfnetlink, and therefore neither rules of nftables nor sets: without its module, or
    /// before anything has loaded the module.
    ///
    /// # Errors
    /// If there is no socket to be had.
    pub fn open() -> io::Result<Option<Self>> {
        let netlink = match Netlink::open(NETLINK_NETFILTER) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            opened => opened?,
        };
        // The kernel answers within the call that asks, and never takes long; the limit is a safeguard.
        let limit = libc::timeval { tv_sec: 30, tv_usec: 0 };
        netlink.set_option(libc::SO_RCVTIMEO, &limit)?;
        Ok(Some(Self { netlink, sequence: 0 }))
    }

    /// Like [`Nfnetlink::open`], for a change of what was found before.
    ///
    /// # Errors
    /// As above, and if the kernel has no nfnetlink.
    pub fn reopen() -> io::Result<Self> {
        Self::open()?.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTONOSUPPORT))
    }

    /// Asks for a list; `visit` gets the attributes of each entry.
    ///
    /// # Errors
    /// The error of the kernel; `Interrupted` if the list changed meanwhile and cannot be trusted.
    pub fn dump(&mut self, message: &Message, visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.exchange(message, REQUEST | DUMP, visit)
    }

    /// Requests one object, or one action.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn ask(&mut self, message: &Message, visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.exchange(message, REQUEST | ACK, visit)
    }

    fn exchange(&mut self, message: &Message, flags: u16, visit: impl FnMut(&[u8])) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.sequence += 1;
        message.write(&mut bytes, flags, self.sequence, 0);
        self.netlink.send(&bytes)?;
        self.receive(self.sequence, self.sequence, visit)
    }

    /// Sends messages that the subsystem carries out completely or not at all, and only if its rules are still of
    /// generation `generation`.
    ///
    /// # Errors
    /// The error of the first message that was refused; ERESTART if the rules are of another generation.
    pub fn batch(&mut self, subsystem: i32, generation: u32, messages: &[Message]) -> io::Result<()> {
        let Some((last, others)) = messages.split_last() else { return Ok(()) };
        let mut bytes = Vec::new();
        let genid = Attributes::new().bytes(BATCH_GENID, &generation.to_be_bytes());
        let frame = |kind: i32, attributes| Message { kind: kind as u16, family: 0, attributes };
        let first = self.sequence + 1;
        let begin = frame(libc::NFNL_MSG_BATCH_BEGIN, genid);
        begin.write(&mut bytes, REQUEST, first, subsystem as u16);
        let mut sequence = first;
        for message in others {
            sequence += 1;
            message.write(&mut bytes, REQUEST, sequence, 0);
        }
        sequence += 1;
        last.write(&mut bytes, REQUEST | ACK, sequence, 0);
        let end = frame(libc::NFNL_MSG_BATCH_END, Attributes::new());
        end.write(&mut bytes, REQUEST, sequence + 1, subsystem as u16);
        self.sequence = sequence + 1;
        // A batch is one datagram, however long.
        let room = (bytes.len() + 4096) as libc::c_int;
        self.netlink.set_option(libc::SO_SNDBUFFORCE, &room)?;
        self.netlink.send(&bytes)?;
        self.receive(first, sequence, |_| {})
    }

    fn receive(&mut self, first: u32, last: u32, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        let interrupted =
            self.netlink.receive(first, last, |body| visit(body.get(FAMILY_HEADER..).unwrap_or_default()))?;
        if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let inner = Attributes::new().text(2, "KUBE");
        let all = Attributes::new().text(1, "nat").u64(3, 7).nested(4, &inner);
        // 4 + "nat\0"; 4 + 8; 4 + (4 + "KUBE\0" padded to 8).
        assert_eq!(all.0.len(), 8 + 12 + 16);
        assert_eq!(text(&all.0, 1).as_deref(), Some("nat"));
        assert_eq!(be64(&all.0, 3), Some(7));
        assert_eq!(text(attribute(&all.0, 4).expect("nested"), 2).as_deref(), Some("KUBE"));
        assert_eq!(attribute(&all.0, 9), None);
        assert_eq!(all_attributes(&all.0).count(), 3);
    }

    #[test]
    fn cut_attributes_end_the_list_and_harm_nobody() {
        let all = Attributes::new().text(1, "nat").text(2, "KUBE-SERVICES");
        for length in 0..all.0.len() {
            assert!(all_attributes(&all.0[..length]).count() <= 2);
        }
    }
}

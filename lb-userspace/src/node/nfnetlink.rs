//! nfnetlink, as far as nftables and ipset need it: requests, dumps, and batches that are carried out whole or
//! not at all. No crate at hand speaks it without a C library; the framing is that of `rtnetlink`'s own crates.

use std::io;
use std::os::fd::AsRawFd;

use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
/// `NFNL_BATCH_GENID` of `linux/netfilter/nfnetlink.h`.
const BATCH_GENID: u16 = 1;

/// Length of `struct nlmsghdr` and of `struct nfgenmsg`.
const HEADERS: usize = 20;

/// Room for a part of a dump. The kernel fills what it is offered, up to 32 KiB, and begins each part by going
/// through the list from its start.
const DATAGRAM: usize = 1 << 16;

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

    /// Ends with a zero, as the kernel wants.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Big-endian, as all integers of nfnetlink.
    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// The value of an attribute; `None` where it is not there.
pub fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all_attributes(attributes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Kind and value of each; ends where the bytes make no sense.
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

/// A string attribute, without its zero.
pub fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
}

/// A big-endian integer.
pub fn be32(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

/// A big-endian integer.
pub fn be64(attributes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

/// A message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Subsystem and command.
    pub kind: u16,
    /// `AF_INET` or `AF_INET6`, as `NFPROTO_*` number them too.
    pub family: u8,
    pub attributes: Attributes,
}

impl Message {
    pub fn new(subsystem: i32, command: i32, family: u8, attributes: Attributes) -> Self {
        Self { kind: (subsystem << 8 | command) as u16, family, attributes }
    }

    fn write(&self, out: &mut Vec<u8>, flags: u16, sequence: u32, resource: u16) {
        let length = (HEADERS + self.attributes.0.len()) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&flags.to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0_u32.to_ne_bytes());
        out.extend_from_slice(&[self.family, 0]);
        out.extend_from_slice(&resource.to_be_bytes());
        out.extend_from_slice(&self.attributes.0);
    }
}

/// A socket, in the network namespace of the thread that opened it.
pub struct Nfnetlink {
    socket: Socket,
    sequence: u32,
}

impl Nfnetlink {
    /// # Errors
    /// Where the kernel has no nfnetlink.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers while it is asked: it never takes long. A bound all the same.
        let limit = libc::timeval { tv_sec: 30, tv_usec: 0 };
        set_option(&socket, libc::SO_RCVTIMEO, &limit)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a list; `visit` gets the attributes of each entry.
    ///
    /// # Errors
    /// The kernel's. `Interrupted` where the list changed meanwhile and is not to be trusted.
    pub fn dump(&mut self, message: &Message, visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP, visit)
    }

    /// Asks for one thing, or that one thing be done.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&mut self, message: &Message, visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK, visit)
    }

    fn exchange(&mut self, message: &Message, flags: u16, visit: impl FnMut(&[u8])) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.sequence += 1;
        message.write(&mut bytes, flags, self.sequence, 0);
        self.send(&bytes)?;
        self.receive(self.sequence, self.sequence, visit)
    }

    /// Messages that the subsystem carries out whole or not at all, if nothing changed since generation
    /// `generation` of its rules.
    ///
    /// # Errors
    /// That of the first message which was refused. ERESTART where the rules are of another generation.
    pub fn batch(&mut self, subsystem: i32, generation: u32, messages: &[Message]) -> io::Result<()> {
        let Some((last, others)) = messages.split_last() else { return Ok(()) };
        let mut bytes = Vec::new();
        let genid = Attributes::new().bytes(BATCH_GENID, &generation.to_be_bytes());
        let frame = |kind: i32, attributes| Message { kind: kind as u16, family: 0, attributes };
        let first = self.sequence + 1;
        let begin = frame(libc::NFNL_MSG_BATCH_BEGIN, genid);
        begin.write(&mut bytes, NLM_F_REQUEST, first, subsystem as u16);
        let mut sequence = first;
        for message in others {
            sequence += 1;
            message.write(&mut bytes, NLM_F_REQUEST, sequence, 0);
        }
        sequence += 1;
        last.write(&mut bytes, NLM_F_REQUEST | NLM_F_ACK, sequence, 0);
        let end = frame(libc::NFNL_MSG_BATCH_END, Attributes::new());
        end.write(&mut bytes, NLM_F_REQUEST, sequence + 1, subsystem as u16);
        self.sequence = sequence + 1;
        // A batch is one datagram, however long.
        let room = (bytes.len() + 4096) as libc::c_int;
        set_option(&self.socket, libc::SO_SNDBUFFORCE, &room)?;
        self.send(&bytes)?;
        self.receive(first, sequence, |_| {})
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("netlink took a part of a message")) }
    }

    /// Reads until the end of a dump or the acknowledgement of `last`; errors count from `first` on.
    fn receive(&mut self, first: u32, last: u32, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        const NLM_F_DUMP_INTR: u16 = 16;
        let mut interrupted = false;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            self.socket.recv(&mut datagram, 0)?;
            let mut rest = &datagram[..];
            while rest.len() >= HEADERS {
                let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let length = message.length() as usize;
                let payload = &rest[16..length];
                let sequence = message.sequence_number();
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    // What is left of an earlier request that failed.
                    _ if !(first..=last).contains(&sequence) => {}
                    NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                        Some(0) if sequence == last => return Ok(()),
                        Some(0) => {}
                        Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    _ => visit(payload.get(4..).unwrap_or_default()),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn set_option<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for the length given, and of the type that the option takes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

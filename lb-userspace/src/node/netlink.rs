//! The framing of netlink messages, for the subsystems that no available crate supports. Sockets and headers come from
//! the crates of `rtnetlink`.

use std::io;
use std::os::fd::AsRawFd;

use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::{Socket, SocketAddr};

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 16;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Room for a part of a dump. The kernel fills the room that it is offered, up to 32 KiB, and walks the list from its
/// start for each part.
const DATAGRAM: usize = 1 << 16;

/// A socket, in the network namespace of the thread that opened it.
pub(super) struct Netlink(Socket);

impl Netlink {
    /// # Errors
    /// If the kernel does not know the protocol.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sets an option of `SOL_SOCKET`, whose value has the type `T`.
    pub(super) fn set_option<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is readable for the length given, and of the type that the option takes.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends messages as one datagram.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.0.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("netlink cut a message short")) }
    }

    /// Reads until the end of a dump or the acknowledgement of message `last`; errors count from message `first` on.
    /// `visit` gets what follows the header of each other message. Returns true if a dump is not to be trusted, because
    /// its list changed meanwhile.
    pub(super) fn receive(
        &mut self,
        first: u32,
        last: u32,
        mut visit: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        let mut interrupted = false;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            self.0.recv(&mut datagram, 0)?;
            let mut rest = &datagram[..];
            while rest.len() >= HEADER {
                let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let length = message.length() as usize;
                let body = &rest[HEADER..length];
                let sequence = message.sequence_number();
                interrupted |= message.flags() & DUMP_INTERRUPTED != 0;
                match message.message_type() {
                    // The rest of an earlier request that failed.
                    _ if !(first..=last).contains(&sequence) => {}
                    DONE => return Ok(interrupted),
                    ERROR => match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                        Some(0) if sequence == last => return Ok(false),
                        Some(0) => {}
                        Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    _ => visit(body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Appends the header of a message whose body has `body` bytes.
pub(super) fn write_header(out: &mut Vec<u8>, body: usize, kind: u16, flags: u16, sequence: u32) {
    out.extend_from_slice(&((HEADER + body) as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    // The port: the kernel fills in the socket's.
    out.extend_from_slice(&0_u32.to_ne_bytes());
}

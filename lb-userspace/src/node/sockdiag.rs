//! Ends sockets of this network namespace by `sock_diag(7)`: a process that reads or writes such a socket gets an error
//! (`ECONNABORTED`) and can connect again; the far end of a TCP connection gets a RST.

use std::io;

use lb_common::{Addr, Port, Proto};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::{ACK, DUMP, HEADER, Netlink, REQUEST, write_header};

/// `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// Length of `struct inet_diag_sockid`, and its offset in `struct inet_diag_msg`.
const ID: usize = 48;
const ID_AT: usize = 4;
/// All states of `net/tcp_states.h` except TIME_WAIT (6), LISTEN (10) and NEW_SYN_RECV (12), in which no process waits
/// for an answer.
const STATES: u32 = 0xfff & !(1 << 6 | 1 << 10 | 1 << 12);

/// A connected socket, as the kernel lists it.
pub struct Connected {
    family: u8,
    proto: Proto,
    /// `struct inet_diag_sockid`, by which the kernel finds the socket again.
    id: [u8; ID],
}

impl Connected {
    /// The kernel's number of the socket (`SO_COOKIE`).
    pub fn cookie(&self) -> u64 {
        // Two words, the low half first.
        let (low, high) = (self.word(40), self.word(44));
        u64::from(low) | u64::from(high) << 32
    }

    /// The peer, as the kernel knows it.
    pub fn peer(&self) -> (Addr, Port) {
        let addr = if i32::from(self.family) == libc::AF_INET {
            Addr::from_v4_word(self.word(20))
        } else {
            Addr::from_words([20, 24, 28, 32].map(|at| self.word(at)))
        };
        (addr, Port::from_word(u16::from_ne_bytes([self.id[2], self.id[3]])))
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.id[at], self.id[at + 1], self.id[at + 2], self.id[at + 3]])
    }
}

/// Ends the connected sockets of a protocol for which `is_over` returns true, and returns how many.
///
/// # Errors
/// If CAP_NET_ADMIN is missing, or if the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
pub fn end(proto: Proto, is_over: impl Fn(&Connected) -> bool) -> io::Result<usize> {
    let mut diag = Diag::open()?;
    let mut ended = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let over: Vec<Connected> =
            diag.connected(family as u8, proto)?.into_iter().filter(|socket| is_over(socket)).collect();
        for socket in over {
            match diag.destroy(&socket) {
                Ok(()) => ended += 1,
                // The socket ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

struct Diag {
    netlink: Netlink,
    sequence: u32,
}

impl Diag {
    fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_SOCK_DIAG)?, sequence: 0 })
    }

    fn connected(&mut self, family: u8, proto: Proto) -> io::Result<Vec<Connected>> {
        self.send(SOCK_DIAG_BY_FAMILY, DUMP, family, proto, &[0; ID])?;
        let mut found = Vec::new();
        self.receive(|body| {
            let id = body.get(ID_AT..ID_AT + ID).and_then(|id| id.first_chunk());
            found.extend(id.map(|id| Connected { family, proto, id: *id }));
        })?;
        // A socket without a peer serves other peers as well.
        found.retain(|socket| socket.peer().1.host() != 0);
        Ok(found)
    }

    fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        self.send(SOCK_DESTROY, ACK, socket.family, socket.proto, &socket.id)?;
        self.receive(|_| {})
    }

    /// Sends a `struct inet_diag_req_v2`.
    fn send(&mut self, kind: u16, flags: u16, family: u8, proto: Proto, id: &[u8; ID]) -> io::Result<()> {
        const REQUEST_BODY: usize = 8 + ID;
        let mut bytes = Vec::with_capacity(HEADER + REQUEST_BODY);
        self.sequence += 1;
        write_header(&mut bytes, REQUEST_BODY, kind, REQUEST | flags, self.sequence);
        bytes.extend_from_slice(&[family, proto as u8, 0, 0]);
        bytes.extend_from_slice(&STATES.to_ne_bytes());
        bytes.extend_from_slice(id);
        self.netlink.send(&bytes)
    }

    /// Reads until the end of a dump, or until the acknowledgement. A list that changed meanwhile is good enough: the
    /// next pass finds the sockets that were missed.
    fn receive(&mut self, visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.netlink.receive(self.sequence, self.sequence, visit).map(drop)
    }
}

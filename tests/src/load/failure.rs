//! Why a request failed.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// RST to a SYN, or ICMP port unreachable.
    Refused,
    /// RST to an open connection.
    Reset,
    TimedOut,
    /// FIN instead of an answer.
    Closed,
    /// An answer from an address other than the target.
    WrongSource(SocketAddr),
    /// Other bytes than expected.
    WrongAnswer(String),
    /// A held flow was answered by this backend instead of the previous one.
    OtherBackend(String),
    Other(String),
}

impl From<&io::Error> for Kind {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            // A read timeout of a blocking socket is WouldBlock.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// A failed request.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub target: SocketAddr,
    /// The client's own address, if known: with the target, the tuple to look for in `lb flows` and captures.
    pub local: Option<SocketAddr>,
    pub at: Instant,
}

impl Failure {
    pub fn new(kind: impl Into<Kind>, target: SocketAddr, local: Option<SocketAddr>) -> Self {
        Self { kind: kind.into(), target, local, at: Instant::now() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let local = self.local.map_or("?".to_string(), |local| local.to_string());
        write!(f, "{local} > {}: {:?}", self.target, self.kind)
    }
}

impl std::error::Error for Failure {}

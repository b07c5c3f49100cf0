//! A frame: the link that it came by, what is read of it, how it is rewritten, and what becomes of it.

mod link;
mod packet;
pub mod parse;
pub mod rewrite;
mod verdict;

pub use link::Link;
pub use packet::{Bytes, ETH_LEN, Headers, Packet, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, is_syn};
pub use verdict::{Drop, Verdict, finish};

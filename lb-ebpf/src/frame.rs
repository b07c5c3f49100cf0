//! A frame: the link by which it came, what is read from it, how it is rewritten, and what becomes of it.

mod headers;
pub mod layout;
mod link;
mod packet;
pub mod parse;
pub mod plain;
pub mod rewrite;
mod verdict;

pub use headers::{Headers, Span, is_syn};
pub use link::Link;
pub use packet::Packet;
pub use verdict::{Drop, Verdict};

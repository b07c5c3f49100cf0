//! Clients: many short requests, held connections, bulk transfers, floods.
//!
//! Every answer is checked: it must come from the target of the request, with the bytes that were sent.

mod bulk;
mod chance;
mod failure;
mod flood;
mod held;
mod pinger;
mod report;
mod request;
mod requests;

pub use bulk::{Transfer, transfer};
pub use failure::{Failure, Kind};
pub use flood::SynFlood;
pub use held::{Held, HeldTcp, HeldUdp, TcpHandle, UdpHandle};
pub use pinger::Pinger;
pub use report::Report;
pub use request::{connect_from, tcp_request, udp_request};
pub use requests::{Requests, Running};

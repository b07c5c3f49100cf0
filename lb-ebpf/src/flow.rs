//! Flows: found, judged, opened, kept, closed and swept.
//!
//! A flow is two entries, forward and reverse. A flow starts in a ring and is out of its reach when it is assured (TCP:
//! the handshake is complete; others: the far end has answered). A flood of requests therefore evicts no established
//! connection, and a flood of SYNs no flow of UDP or SCTP, nor the reverse.

mod claim;
mod clock;
pub mod icmp;
mod open;
mod ring;
mod source;
mod standing;
pub mod sweep;
mod track;
mod tuple;
mod window;

pub use open::{Opened, open_flow};
pub use source::{is_doubted, is_proven, look_at_end_of_reply, mac_to_learn};
pub use standing::{Standing, standing};
pub use track::{forget, has_changed, touch_forward, track_reply};

//! Flows: found, judged, opened, kept, closed and swept.
//!
//! A flow is two entries, forward and reverse. A flow starts in the LRU of its protocol and moves to `flows` when
//! the far end has answered, so that a flood of requests evicts neither established connections nor those of the
//! other protocols.

mod claim;
mod clock;
pub mod icmp;
mod open;
mod standing;
pub mod sweep;
mod track;
mod tuple;

pub use clock::beat;
pub use open::{Opened, open_flow};
pub use standing::{Standing, standing};
pub use track::{forget, touch_forward, track_backend};

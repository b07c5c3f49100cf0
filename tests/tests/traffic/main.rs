//! Real sockets reach the backends of a Service in every layout and through every change.

mod affinity;
mod clash;
mod hairpin;
mod hold;
mod hook;
mod host_network;
mod kinds;
mod layout;
mod removal;
mod reply;
mod spread;
mod stage;
mod turnover;
mod whole;

//! What sources tell of: names, the compact form of each kind of object, and what is to be said about one.

pub(crate) mod addresses;
pub mod cidr;
pub mod event;
pub mod name;
pub mod node;
pub mod notice;
pub mod service;
pub mod slice;
pub(crate) mod wire;

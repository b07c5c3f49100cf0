//! What sources deliver: names, the compact form of each kind of object, and notices about objects.

pub(crate) mod addresses;
pub mod cidr;
pub mod event;
pub mod name;
pub mod node;
pub mod notice;
pub mod service;
pub mod slice;
pub(crate) mod wire;

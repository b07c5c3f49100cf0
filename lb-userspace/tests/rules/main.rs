//! The rules of Kubernetes that the model follows, one test each, from objects to what is desired. `tests/tests/rules` runs
//! them once more, and sends packets.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

mod affinity;
mod clients;
mod conflicts;
mod endpoints;
mod lists;
mod node_ports;
mod objects;
mod sets;
mod source_ranges;
mod surfaces;
mod verdicts;
mod which;
mod world;

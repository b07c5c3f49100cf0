//! The rules of Kubernetes that the model follows, one test for each, from objects to the desired state.
//! `tests/tests/rules` runs them again with packets.

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

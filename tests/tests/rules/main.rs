//! Runs the tests of `lb-userspace/tests/rules` unchanged, with packets of pods: whenever a test looks at the desired
//! state, that state is written into real maps. Packets through the real programs then show, for every address that
//! ever had a frontend in the test, the outcome that `Model::lookup` returns.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

#[path = "../../../lb-userspace/tests/rules/affinity.rs"]
mod affinity;
#[path = "../../../lb-userspace/tests/rules/clients.rs"]
mod clients;
#[path = "../../../lb-userspace/tests/rules/conflicts.rs"]
mod conflicts;
#[path = "../../../lb-userspace/tests/rules/endpoints.rs"]
mod endpoints;
#[path = "../../../lb-userspace/tests/rules/node_ports.rs"]
mod node_ports;
#[path = "../../../lb-userspace/tests/rules/objects.rs"]
mod objects;
#[path = "../../../lb-userspace/tests/rules/sets.rs"]
mod sets;
#[path = "../../../lb-userspace/tests/rules/source_ranges.rs"]
mod source_ranges;
#[path = "../../../lb-userspace/tests/rules/verdicts.rs"]
mod verdicts;
#[path = "../../../lb-userspace/tests/rules/which.rs"]
mod which;

mod packets;
mod world;

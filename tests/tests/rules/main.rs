//! The rules of Kubernetes once more, as packets of pods meet them: the tests of `lb-userspace/tests/rules`, word for word.
//! Whenever one of them looks at what is desired, that is written into real maps, and packets through the real
//! programs show for every address that the test ever had a frontend on what `Model::lookup` says of it.

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

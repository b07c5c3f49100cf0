//! Backends of a service port: ids for new ones, states and weights of those that stay, the end of the others.

use std::collections::BTreeSet;

use lb_common::{Backend, Endpoint, interest_bit, names};

use super::{Hold, Planner};
use crate::desired::{BackendShare, DesiredPort};
use crate::objects::name::ServicePortName;
use crate::tables::op::Op;

/// The first generation of a backend id: an entry of zeros matches no slot that was ever written.
const FIRST_GENERATION: u32 = 1;

impl Planner {
    pub(super) fn check_backends(&self, service: Option<u32>, port: &DesiredPort) -> Result<(), Hold> {
        let is_known =
            |endpoint: &Endpoint| service.is_some_and(|id| self.owners.backend(id, endpoint).is_some());
        let fresh = port.backends.keys().filter(|endpoint| !is_known(endpoint)).count();
        if fresh > self.backend_ids.available() {
            return Err(self.full(names::BACKENDS, self.backend_ids.has_pending()));
        }
        Ok(())
    }

    /// Adds the backends that are new to the service; [`Planner::check_backends`] has made sure of enough ids.
    pub(super) fn add_backends(
        &mut self,
        service: u32,
        name: &ServicePortName,
        port: &DesiredPort,
        draft: &mut Vec<Op>,
    ) {
        for (endpoint, share) in &port.backends {
            if self.owners.backend(service, endpoint).is_some() {
                continue;
            }
            let Some(id) = self.backend_ids.take() else { return };
            let generation = self.tables.backends.get(&id).map_or(FIRST_GENERATION, |b| b.generation);
            let backend = Backend {
                addr: endpoint.addr,
                port: endpoint.port,
                proto: name.proto as u8,
                state: share.state as u8,
                generation,
                service,
                weight: share.weight,
                sets: sets(port, endpoint),
                pad: 0,
            };
            self.want_bits([interest_bit(endpoint.addr, endpoint.port, name.proto as u8)], draft);
            self.push(draft, Op::WriteBackend { id, backend });
            self.owners.add_backend(service, *endpoint, id);
        }
    }

    /// Updates the backends that stay, and retires the others.
    pub(super) fn settle_backends(&mut self, service: u32, port: &DesiredPort, draft: &mut Vec<Op>) {
        let known: Vec<(Endpoint, u32)> = self.owners.backends(service).collect();
        for (endpoint, id) in known {
            match port.backends.get(&endpoint) {
                Some(share) => self.settle_backend(id, *share, sets(port, &endpoint), draft),
                None => {
                    self.owners.remove_backend(service, endpoint);
                    self.retire(id, draft);
                }
            }
        }
    }

    pub(super) fn settle_backend(&mut self, id: u32, share: BackendShare, sets: u8, draft: &mut Vec<Op>) {
        let Some(backend) = self.tables.backends.get(&id).copied() else { return };
        let joined = Backend { weight: share.weight, sets: backend.sets | sets, ..backend };
        if backend != joined {
            self.push(draft, Op::WriteBackend { id, backend: joined });
        }
        if backend.state != share.state as u8 {
            self.push(draft, Op::SetBackendState { id, state: share.state });
        }
        if joined.sets != sets {
            self.push(draft, Op::SetBackendSets { id, sets });
        }
    }

    pub(super) fn retire(&mut self, id: u32, draft: &mut Vec<Op>) {
        let generation =
            self.tables.backends.get(&id).map_or(FIRST_GENERATION, |b| next_generation(b.generation));
        self.push(draft, Op::RetireBackend { id, generation });
        self.backend_ids.release(id, self.batch);
    }
}

/// Generations start over after 2^32 uses of an id; zero is skipped.
const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => FIRST_GENERATION,
        next => next,
    }
}

/// The sets of which the endpoint is a member, as bits of `Backend::sets`.
fn sets(port: &DesiredPort, endpoint: &Endpoint) -> u8 {
    let set = |set: &BTreeSet<Endpoint>, bit| if set.contains(endpoint) { bit } else { 0 };
    set(&port.cluster, Backend::IN_CLUSTER) | set(&port.local, Backend::IN_LOCAL)
}

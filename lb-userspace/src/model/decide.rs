//! Decides one Service from the objects alone.

use std::collections::BTreeMap;

use super::changes::notices;
use super::claims::conflict;
use super::endpoints;
use super::policy::{self, Standpoint};
use super::{HealthCheck, Model, NoticeOrigin};
use crate::desired::DesiredPort;
use crate::objects::name::{Family, Kind, ObjectName, ServicePortName};
use crate::objects::notice::{Problem, Severity};
use crate::objects::slice::Slice;

/// What follows for one Service.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) ports: BTreeMap<ServicePortName, DesiredPort>,
    pub(super) problems: Vec<Problem>,
}

impl Model {
    pub(super) fn known_of(&self, name: &ObjectName) -> Vec<ServicePortName> {
        let first = ServicePortName::first_of(name.clone());
        let of_name = |port: &&ServicePortName| port.namespace == name.namespace && port.name == name.name;
        self.known.range(first..).take_while(of_name).cloned().collect()
    }

    pub(super) fn slices_of(&self, name: &ObjectName) -> Vec<&Slice> {
        let first = (name.clone(), ObjectName::default());
        let names = self.slices_of.range(first..).take_while(|(owner, _)| owner == name);
        names.filter_map(|(_, slice)| self.slices.get(slice)).collect()
    }

    /// The service ports of one Service, from the objects alone. A port that lost all frontends to other Services is
    /// included, without any.
    pub(super) fn decide(&self, name: &ObjectName) -> Decided {
        let slices = self.slices_of(name);
        let mut decided = Decided::default();
        let Some(service) = self.services.get(name) else {
            if !slices.is_empty() {
                decided.problems.push(Problem::new(
                    Severity::Info,
                    "EndpointSlices name this Service, but it does not exist",
                ));
            }
            return decided;
        };
        if service.unserved(&self.rules).is_some() {
            return decided;
        }
        if slices.is_empty() {
            decided.problems.push(Problem::new(
                Severity::Warning,
                "no EndpointSlice names this Service: it has no endpoint",
            ));
        }
        let place = Standpoint { name: &self.node_name, node: self.node(), rules: &self.rules };
        for family in service.cluster_ips.iter().map(|ip| Family::of(*ip)) {
            for port in &service.ports {
                let desired = policy::port(service, port, family, &slices, place);
                decided.ports.insert(service.port_name(port, family), desired);
            }
        }
        for claim in service.claims(&self.rules) {
            match (self.claims.winner(&claim.key), decided.ports.get_mut(&claim.port)) {
                (Some(winner), Some(port)) if winner.port == claim.port => {
                    port.frontends.insert(claim.key, winner.kind);
                }
                (Some(winner), _) => decided.problems.push(conflict(&claim, winner)),
                (None, _) => {}
            }
        }
        decided.problems.extend(decided.ports.iter().filter_map(policy::sctp_port_change));
        decided.problems.extend(endpoints::unmatched_ports(service, &slices));
        decided
    }

    pub(super) fn note_health(&mut self, name: &ObjectName) {
        let slices = self.slices_of(name);
        let service = self.services.get(name).filter(|s| s.unserved(&self.rules).is_none());
        let checks = service.into_iter().flat_map(|service| {
            let port = service.health_check_node_port;
            service.health_check_families().map(move |family| (family, port))
        });
        let mut checks: BTreeMap<Family, HealthCheck> = checks
            .map(|(family, port)| {
                let local_endpoints = endpoints::local_ready(&slices, family, &self.node_name);
                (family, HealthCheck { port, local_endpoints })
            })
            .collect();
        for family in Family::BOTH {
            let key = (name.clone(), family);
            match checks.remove(&family) {
                Some(check) => self.health_checks.insert(key, check),
                None => self.health_checks.remove(&key),
            };
        }
    }

    pub(super) fn say(&mut self, name: &ObjectName, problems: &[Problem]) {
        let file = self.services.get(name).and_then(|service| service.file.clone());
        self.board
            .replace(NoticeOrigin::Service(name.clone()), notices(Kind::Service, name, &file, problems));
    }
}

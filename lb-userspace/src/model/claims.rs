//! Which Service port owns an address and port that more than one asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lb_common::{Addr, FrontendKey, FrontendKind, Port};

use crate::objects::name::{Family, ObjectName, ServicePortName};
use crate::objects::notice::{Problem, Severity};

/// A Service port that asks for a frontend. Claims are ordered by frontend, then by priority: the oldest Service first
/// (kube-proxy does not notice the conflict; Cilium refuses the second Service), then by name. If a Service port asks
/// twice for the same address, as a load balancer address and in `externalIPs`, the order of [`FrontendKind`] decides,
/// so that `loadBalancerSourceRanges` apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) key: FrontendKey,
    pub(super) age: Age,
    pub(super) port: ServicePortName,
    pub(super) kind: FrontendKind,
}

/// When a Service was created, in seconds since 1970. A Service without this time counts as the youngest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    Created(i64),
    Unknown,
}

/// All claims, in one tree: a collection for each frontend would cost more than its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    all: BTreeSet<Claim>,
}

impl Claims {
    /// Replaces the claims `before` of a Service by `after`. Returns all Services that ask for a frontend whose owner
    /// changed.
    pub(super) fn replace(&mut self, before: &[Claim], after: Vec<Claim>) -> BTreeSet<ObjectName> {
        let keys: BTreeSet<FrontendKey> = before.iter().chain(&after).map(|claim| claim.key).collect();
        let winners: BTreeMap<FrontendKey, Option<Claim>> =
            keys.into_iter().map(|key| (key, self.winner(&key).cloned())).collect();
        for claim in before {
            self.all.remove(claim);
        }
        self.all.extend(after);
        let mut touched = BTreeSet::new();
        for (key, winner) in winners {
            if self.winner(&key) != winner.as_ref() {
                touched.extend(self.of(&key).map(|claim| claim.port.service()));
            }
        }
        touched
    }

    pub(super) fn winner(&self, key: &FrontendKey) -> Option<&Claim> {
        self.of(key).next()
    }

    /// Whether a Service has this address as its ClusterIP, whatever its ports.
    pub(super) fn is_cluster_ip(&self, addr: Addr) -> bool {
        let first = FrontendKey::new(addr, Port::new(0), 0);
        let mut claims = self.from(first).take_while(|claim| claim.key.addr == addr);
        claims.any(|claim| claim.kind == FrontendKind::Cluster)
    }

    fn of(&self, key: &FrontendKey) -> impl Iterator<Item = &Claim> {
        self.from(*key).take_while(move |claim| claim.key == *key)
    }

    fn from(&self, key: FrontendKey) -> impl Iterator<Item = &Claim> {
        let age = Age::Created(i64::MIN);
        let first = Claim {
            key,
            age,
            port: ServicePortName::first_of(ObjectName::default()),
            kind: FrontendKind::Cluster,
        };
        self.all.range((Bound::Included(first), Bound::Unbounded))
    }
}

/// Why a claim is not granted.
pub(super) fn conflict(claim: &Claim, winner: &Claim) -> Problem {
    let (port, owner) = (&claim.port, &winner.port);
    let what = match claim.kind {
        FrontendKind::NodePort => format!("node port {}/{} of {}", claim.key.port, port.proto, port.family),
        _ => {
            let address = std::net::SocketAddr::new(claim.key.addr.into(), claim.key.port.host());
            format!("{address}/{}", port.proto)
        }
    };
    let whose = match winner.kind {
        kind if kind == claim.kind => "",
        FrontendKind::Cluster => " as its ClusterIP",
        FrontendKind::LoadBalancer => " as a load balancer address",
        FrontendKind::External => " as an externalIP",
        FrontendKind::NodePort => " as a node port",
    };
    Problem::new(
        Severity::Error,
        format!(
            "port \"{}\": {what} belongs{whose} to port \"{}\" of Service {}/{}, which is older or first by name",
            port.port, owner.port, owner.namespace, owner.name,
        ),
    )
    .told("AddressConflict")
}

/// The key of a NodePort, which has one entry, under the unspecified address.
pub(super) fn node_port_key(family: Family, port: Port, proto: u8) -> FrontendKey {
    FrontendKey::new(family.unspecified(), port, proto)
}

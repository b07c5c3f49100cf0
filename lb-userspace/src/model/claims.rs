//! Who may have an address and port that more than one Service port asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lb_common::{Addr, FrontendKey, FrontendKind, Port};

use crate::objects::name::{Family, ObjectName, ServicePortName};
use crate::objects::notice::{Problem, Severity};

/// A Service port that asks for a frontend. Ordered by frontend, then by right: the oldest Service first (kube-proxy
/// does not notice the clash; Cilium refuses the second), then by name. Where a Service port asks twice for the same
/// address, as a load balancer's and in `externalIPs`, the kinds stand in the order of [`FrontendKind`]: so
/// `loadBalancerSourceRanges` hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) key: FrontendKey,
    pub(super) age: Age,
    pub(super) port: ServicePortName,
    pub(super) kind: FrontendKind,
}

/// Seconds of creation since 1970. A Service that does not say is taken for the youngest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    Created(i64),
    Unknown,
}

/// All claims, in one tree: a collection for each frontend would cost more than what it holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    all: BTreeSet<Claim>,
}

impl Claims {
    /// A Service claims `after` instead of `before`. Returns all Services that ask for a frontend whose owner
    /// changed by it.
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

    /// Some Service has this address as its ClusterIP, whatever the ports.
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

/// The key of a NodePort: it stands once, under the unspecified address.
pub(super) fn node_port_key(family: Family, port: Port, proto: u8) -> FrontendKey {
    FrontendKey::new(family.unspecified(), port, proto)
}

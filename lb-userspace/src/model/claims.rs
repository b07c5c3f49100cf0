//! Who may have an address and port that more than one Service port asks for.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{FrontendKey, FrontendKind};

use super::service::Service;
use crate::desired::ServicePortName;
use crate::event::ObjectName;

/// A Service port that asks for a frontend. Ordered by right: the oldest Service first (kube-proxy does not
/// notice the clash; Cilium refuses the second), then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) age: Age,
    pub(super) port: ServicePortName,
    pub(super) key: FrontendKey,
    pub(super) kind: FrontendKind,
}

/// Seconds of creation since 1970. A Service that does not say is taken for the youngest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    Created(i64),
    Unknown,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_key: BTreeMap<FrontendKey, BTreeSet<Claim>>,
    by_service: BTreeMap<ObjectName, Vec<Claim>>,
}

impl Claims {
    /// These are all the claims of a Service now. Returns the other Services that gain or lose by it.
    pub(super) fn replace(&mut self, name: &ObjectName, service: Option<&Service>) -> BTreeSet<ObjectName> {
        let before = self.by_service.remove(name).unwrap_or_default();
        let after = service.map(Service::claims).unwrap_or_default();
        let keys: BTreeSet<FrontendKey> = before.iter().chain(&after).map(|claim| claim.key).collect();
        let winners: BTreeMap<FrontendKey, Option<Claim>> =
            keys.iter().map(|key| (*key, self.winner(key).cloned())).collect();
        for claim in &before {
            if let Some(claims) = self.by_key.get_mut(&claim.key) {
                claims.remove(claim);
                if claims.is_empty() {
                    self.by_key.remove(&claim.key);
                }
            }
        }
        for claim in &after {
            self.by_key.entry(claim.key).or_default().insert(claim.clone());
        }
        if !after.is_empty() {
            self.by_service.insert(name.clone(), after);
        }
        let mut touched = BTreeSet::new();
        for (key, winner) in winners {
            if self.winner(&key) != winner.as_ref() {
                let others = self.by_key.get(&key).into_iter().flatten();
                touched.extend(others.map(|claim| ObjectName::new(&claim.port.namespace, &claim.port.name)));
            }
        }
        touched
    }

    pub(super) fn winner(&self, key: &FrontendKey) -> Option<&Claim> {
        self.by_key.get(key)?.first()
    }
}

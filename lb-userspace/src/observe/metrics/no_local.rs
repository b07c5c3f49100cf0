//! Service ports that have endpoints, but none on this node for their Local policy.

use std::collections::BTreeSet;

use lb_common::ServiceRecord;

use crate::desired::{Desired, DesiredPort};
use crate::objects::name::{Family, ServicePortName};

/// Updated with each change, so that a scrape does not search.
#[derive(Clone, Debug, Default)]
pub(crate) struct NoLocal {
    internal: ByFamily,
    external: ByFamily,
}

/// Indexed by [`Family`].
type ByFamily = [BTreeSet<ServicePortName>; 2];

impl NoLocal {
    pub(crate) fn follow(&mut self, desired: &Desired) {
        if desired.complete {
            *self = Self::default();
        }
        for (name, port) in &desired.services {
            for (policy, flag) in [
                (&mut self.internal, ServiceRecord::INTERNAL_LOCAL),
                (&mut self.external, ServiceRecord::EXTERNAL_LOCAL),
            ] {
                let policy = &mut policy[name.family as usize];
                if port.as_ref().is_some_and(|port| lacks(port, flag)) {
                    policy.insert(name.clone());
                } else {
                    policy.remove(name);
                }
            }
        }
    }

    pub(crate) fn internal(&self, family: Family) -> usize {
        self.internal[family as usize].len()
    }

    pub(crate) fn external(&self, family: Family) -> usize {
        self.external[family as usize].len()
    }
}

/// Whether traffic under the policy is dropped: k/k pkg/proxy/nftables/proxier.go, `serviceNoLocalEndpointsTotal`.
fn lacks(port: &DesiredPort, policy: u32) -> bool {
    port.flags & policy != 0 && port.flags & ServiceRecord::HAS_ENDPOINTS != 0 && port.local.is_empty()
}

//! The frontends of a service port, and the interest bits that lead packets to them.

use lb_common::{Frontend, FrontendKey, FrontendKind, names};

use super::{Hold, Planner};
use crate::desired::DesiredPort;
use crate::objects::name::ServicePortName;
use crate::tables::op::Op;

impl Planner {
    /// Checks that the table has room. Deletions come after insertions, so that they make no room within one plan.
    pub(super) fn check_frontends(&self, port: &DesiredPort) -> Result<(), Hold> {
        let fresh = port.frontends.keys().filter(|key| !self.tables.frontends.contains_key(key)).count();
        if self.tables.frontends.len() + fresh > self.limits.frontends as usize {
            return Err(Hold::Full(names::FRONTENDS));
        }
        Ok(())
    }

    /// Deletes the frontends that the service no longer has and that no other service took over.
    pub(super) fn drop_frontends(&mut self, name: &ServicePortName, port: &DesiredPort, draft: &mut Vec<Op>) {
        let Some(service) = self.owners.service(name) else { return };
        let owned = self.owners.frontends(service);
        let stale: Vec<FrontendKey> = owned.filter(|key| !port.frontends.contains_key(key)).collect();
        for key in stale {
            self.owners.remove_frontend(service, key);
            self.push(draft, Op::DeleteFrontend { key });
        }
    }

    /// Puts the frontends of these kinds that are new, or that belong to another service so far.
    pub(super) fn move_frontends(
        &mut self,
        service: u32,
        port: &DesiredPort,
        draft: &mut Vec<Op>,
        may: impl Fn(FrontendKind) -> bool,
    ) {
        for (key, kind) in port.frontends.iter().filter(|(_, kind)| may(**kind)) {
            let frontend = Frontend { service, kind: *kind as u8, flags: 0, pad: [0; 2] };
            let before = self.tables.frontends.get(key).copied();
            if before == Some(frontend) {
                continue;
            }
            if let Some(before) = before {
                self.owners.remove_frontend(before.service, *key);
            }
            self.owners.add_frontend(service, *key);
            self.want_bits([key.bit()], draft);
            self.push(draft, Op::PutFrontend { key: *key, frontend });
        }
    }
}

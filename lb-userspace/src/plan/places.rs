//! The plan for addresses alone: the node's own addresses, and the ranges of ClusterIPs.

use std::collections::BTreeSet;

use lb_common::{Addr, FrontendKey, FrontendKind, Port, Prefix, RangeRule, node_bit};

use super::Planner;
use crate::desired::ServiceRanges;
use crate::tables::op::Op;

impl Planner {
    /// Each address that comes or goes is one write; the first address of a block also sets a bit. Addresses beyond the
    /// table's capacity are left out: no node has as many.
    pub(super) fn plan_local_addrs(&mut self, addresses: BTreeSet<Addr>, draft: &mut Vec<Op>) {
        let wanted: BTreeSet<Addr> = addresses.into_iter().take(self.limits.local_addrs as usize).collect();
        self.want_bits(wanted.iter().copied().map(node_bit), draft);
        let known = &self.tables.local_addrs;
        let gone: Vec<Addr> = known.difference(&wanted).copied().collect();
        let fresh: Vec<Addr> = wanted.difference(known).copied().collect();
        for addr in gone {
            self.push(draft, Op::DeleteLocalAddr { addr });
        }
        for addr in fresh {
            self.push(draft, Op::PutLocalAddr { addr });
        }
    }

    /// Plans the rules of the addresses whose frontends the draft changes, or of all addresses.
    pub(super) fn plan_ranges(&mut self, ranges: Option<ServiceRanges>, complete: bool, draft: &mut Vec<Op>) {
        let mut touched: BTreeSet<Prefix> =
            draft.iter().filter_map(frontend_address).map(Prefix::host).collect();
        if complete || ranges.is_some() {
            touched.extend(self.tables.ranges.keys());
            touched.extend(self.tables.frontends.keys().map(|key| Prefix::host(key.addr)));
            if let Some(mut ranges) = ranges {
                ranges.cidrs.retain(Prefix::has_blocks);
                self.service_ranges = ranges;
            }
            touched.extend(&self.service_ranges.cidrs);
            touched.extend(self.service_ranges.others.iter().copied().map(Prefix::host));
        }
        for prefix in touched {
            let rule = self.rule(prefix);
            if self.tables.ranges.get(&prefix).copied() == rule {
                continue;
            }
            match rule {
                Some(rule) => {
                    if rule != RangeRule::Others {
                        self.want_bits(prefix.range_bits(), draft);
                    }
                    self.push(draft, Op::PutRange { prefix, rule });
                }
                None => self.push(draft, Op::DeleteRange { prefix }),
            }
        }
    }

    fn rule(&self, prefix: Prefix) -> Option<RangeRule> {
        let is_host = prefix == Prefix::host(prefix.addr);
        if is_host && self.is_cluster_ip(prefix.addr) {
            Some(RangeRule::ClusterIp)
        } else if is_host && self.service_ranges.others.contains(&prefix.addr) {
            Some(RangeRule::Others)
        } else {
            self.service_ranges.cidrs.contains(&prefix).then_some(RangeRule::Unallocated)
        }
    }

    fn is_cluster_ip(&self, addr: Addr) -> bool {
        let first = FrontendKey::new(addr, Port::new(0), 0);
        let last = FrontendKey::new(addr, Port::new(u16::MAX), u8::MAX);
        let mut frontends = self.tables.frontends.range(first..=last);
        frontends.any(|(_, frontend)| frontend.is(FrontendKind::Cluster))
    }

    pub(super) fn want_bits(&mut self, bits: impl IntoIterator<Item = u32>, draft: &mut Vec<Op>) {
        for bit in bits {
            if !self.tables.interest.contains(bit) {
                self.push(draft, Op::SetInterest { bit });
            }
        }
    }
}

fn frontend_address(op: &Op) -> Option<Addr> {
    match op {
        Op::PutFrontend { key, .. } | Op::DeleteFrontend { key } => Some(key.addr),
        _ => None,
    }
}

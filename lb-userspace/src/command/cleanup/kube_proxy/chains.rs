//! Which chains of iptables are kube-proxy's, and what has to be removed with them.

use std::collections::{BTreeMap, BTreeSet};

/// A chain of one table, in either variant of iptables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// `PREROUTING` and the like.
    pub builtin: bool,
    pub rules: Vec<Rule>,
}

/// A rule, reduced to what matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The chain to which the rule jumps or goes; `None` for any other target.
    pub jump: Option<String>,
    /// What identifies the rule to the kernel or to iptables-restore.
    pub id: String,
}

/// What removes kube-proxy from a table and leaves everything else, in this order: rules, emptied, chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Jumps in built-in chains: the chain, and the id of the rule.
    pub rules: Vec<(String, String)>,
    /// Chains to which a rule of another program jumps, with the chain of that rule. They lose their rules and stay.
    pub emptied: Vec<(String, String)>,
    /// Chains that are emptied, then deleted.
    pub chains: Vec<String>,
    /// Chains that stay as they are because a rule of another program uses them to mark packets, with the chain of that
    /// rule.
    pub kept: Vec<(String, String)>,
}

impl Removal {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.emptied.is_empty() && self.chains.is_empty()
    }
}

/// Chains to which built-in chains jump (`iptablesJumpChains`, pkg/proxy/iptables/proxier.go; `iptablesJumpChain`,
/// pkg/proxy/ipvs/proxier.go).
const ENTRIES: [&str; 10] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    // IPVS mode.
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// Chains to which only chains of kube-proxy jump, and its canary.
const INNER: [&str; 3] = [MARK_MASQ, "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER"];

/// One chain for each service port or endpoint. `KUBE-XLB-` until Kubernetes 1.23.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// Other programs may use this chain to have packets masqueraded; the portmap plugin can be told to.
const MARK_MASQ: &str = "KUBE-MARK-MASQ";
const POSTROUTING: &str = "KUBE-POSTROUTING";

/// Returns true if a chain of this name is kube-proxy's. Chains of kubelet (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`,
/// `KUBE-IPTABLES-HINT`, `KUBE-MARK-DROP`) are not: kubelet continues to run.
pub fn is_kube_proxys(name: &str) -> bool {
    ENTRIES.contains(&name) || INNER.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns what removes kube-proxy from a table.
pub fn removal(chains: &[Chain]) -> Removal {
    let ours: BTreeSet<&str> =
        chains.iter().map(|chain| chain.name.as_str()).filter(|name| is_kube_proxys(name)).collect();
    let mut removal = Removal::default();
    // By chain of kube-proxy: the chain whose rule needs it.
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    let mut jumps = Vec::new();
    for chain in chains.iter().filter(|chain| !ours.contains(chain.name.as_str())) {
        for rule in &chain.rules {
            let Some(target) = rule.jump.as_deref().filter(|target| ours.contains(target)) else { continue };
            if chain.builtin && ENTRIES.contains(&target) {
                jumps.push((chain.name.as_str(), target, rule.id.as_str()));
            } else {
                users.insert(target, &chain.name);
            }
        }
    }
    let marks = users.get(MARK_MASQ).copied();
    let stays = |name: &str| marks.filter(|_| [MARK_MASQ, POSTROUTING].contains(&name));
    for (chain, target, id) in jumps {
        if stays(target).is_none() {
            removal.rules.push((chain.to_owned(), id.to_owned()));
        }
    }
    for name in ours {
        match (stays(name), users.get(name)) {
            (Some(user), _) => removal.kept.push((name.to_owned(), user.to_owned())),
            (None, Some(user)) => removal.emptied.push((name.to_owned(), (*user).to_owned())),
            (None, None) => removal.chains.push(name.to_owned()),
        }
    }
    removal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, builtin: bool, jumps: &[&str]) -> Chain {
        let rules = jumps.iter().enumerate().map(|(index, jump)| Rule {
            jump: (!jump.is_empty()).then(|| (*jump).to_owned()),
            id: format!("{name}-{index}"),
        });
        Chain { name: name.into(), builtin, rules: rules.collect() }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn chains_of_kubelet_and_of_others_are_not_kube_proxys() {
        for name in [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-DROP",
            "KUBE-ROUTER-FORWARD",
            "KUBE-NWPLCY-X",
            "KUBE",
            "DOCKER",
            "cali-FORWARD",
        ] {
            assert!(!is_kube_proxys(name), "{name}");
        }
        for name in ["KUBE-FORWARD", "KUBE-FW-7CZWRQZJHAZQ4YZU", "KUBE-SEP-ABC", "KUBE-PROXY-CANARY"] {
            assert!(is_kube_proxys(name), "{name}");
        }
    }

    #[test]
    fn jumps_go_before_chains_and_foreign_rules_stay() {
        let table = [
            chain("PREROUTING", true, &["", "KUBE-SERVICES", "DOCKER"]),
            chain("DOCKER", false, &[""]),
            chain("KUBE-SERVICES", false, &["KUBE-SVC-A"]),
            chain("KUBE-SVC-A", false, &["KUBE-MARK-MASQ"]),
            chain("KUBE-MARK-MASQ", false, &[""]),
            chain("KUBE-FIREWALL", false, &[""]),
        ];
        let found = removal(&table);
        assert_eq!(found.rules, pairs(&[("PREROUTING", "PREROUTING-1")]));
        assert_eq!(found.chains, ["KUBE-MARK-MASQ", "KUBE-SERVICES", "KUBE-SVC-A"]);
        assert!(found.emptied.is_empty() && found.kept.is_empty());
    }

    #[test]
    fn who_has_packets_masqueraded_by_kube_proxys_mark_keeps_that() {
        let table = [
            chain("POSTROUTING", true, &["KUBE-POSTROUTING"]),
            chain("CNI-HOSTPORT-SETMARK", false, &["KUBE-MARK-MASQ"]),
            chain("KUBE-MARK-MASQ", false, &[""]),
            chain("KUBE-POSTROUTING", false, &[""]),
            chain("KUBE-SERVICES", false, &[]),
        ];
        let found = removal(&table);
        let user = "CNI-HOSTPORT-SETMARK";
        assert_eq!(found.kept, pairs(&[("KUBE-MARK-MASQ", user), ("KUBE-POSTROUTING", user)]));
        assert!(found.rules.is_empty(), "{:?}", found.rules);
        assert_eq!(found.chains, ["KUBE-SERVICES"]);
    }

    #[test]
    fn a_chain_that_others_jump_to_is_emptied_and_stays() {
        let table = [
            chain("INPUT", true, &["KUBE-SVC-A", "KUBE-NODEPORTS"]),
            chain("KUBE-NODEPORTS", false, &[""]),
            chain("KUBE-SVC-A", false, &[""]),
        ];
        let found = removal(&table);
        assert_eq!(found.rules, pairs(&[("INPUT", "INPUT-1")]));
        assert_eq!(found.emptied, pairs(&[("KUBE-SVC-A", "INPUT")]), "kube-proxy writes no such rule");
        assert_eq!(found.chains, ["KUBE-NODEPORTS"]);
    }
}

//! Reports the fields of a configuration that have no effect here, once and by name.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::Value;

use super::kube_proxy::{KubeProxyConfiguration, parse_node_ports};
use super::remark::Remark;

/// The fields that are used.
const USED: [&str; 13] = [
    "apiVersion",
    "kind",
    "bindAddress",
    "bindAddressHardFail",
    "clientConnection.kubeconfig",
    "healthzBindAddress",
    "hostnameOverride",
    "iptables.syncPeriod",
    "ipvs.syncPeriod",
    "metricsBindAddress",
    "nftables.syncPeriod",
    "nodePortAddresses",
    "oomScoreAdj",
];

const NO_CONNTRACK: &str = "not supported: lb tracks connections in its own tables, whose timeouts are fixed, not in \
                            the host's conntrack";
const OF_IPVS: &str = "not supported: lb does not use IPVS";
const NOT_WINDOWS: &str = "not supported: for Windows only";
const NO_MASQUERADE: &str =
    "not supported: source addresses are kept if the reply comes back through this node";
const SOURCE_IS_KNOWN: &str =
    "not needed: the link on which a packet arrives shows whether a pod of this node sent it";
const AT_ONCE: &str = "not needed: a change is written at once, a storm of changes in batches";
const OWN_CLIENT: &str = "not needed: the agent asks the API server for a few watches only";

/// By field or section: whether something is missing without it, and why it is not used.
const UNUSED: [(&str, bool, &str); 28] = [
    ("clientConnection", false, OWN_CLIENT),
    ("clusterCIDR", false, SOURCE_IS_KNOWN),
    ("configSyncPeriod", false, OWN_CLIENT),
    ("conntrack", true, NO_CONNTRACK),
    ("detectLocal", false, SOURCE_IS_KNOWN),
    ("detectLocalMode", false, SOURCE_IS_KNOWN),
    ("enableProfiling", true, "not supported: the agent has no Go profiler"),
    ("featureGates", true, "not supported: lb has no feature gates"),
    ("iptables.localhostNodePorts", true, "not supported: for the iptables mode only"),
    ("iptables.masqueradeAll", true, NO_MASQUERADE),
    ("iptables.masqueradeBit", false, "not needed: packets are not marked"),
    ("iptables.minSyncPeriod", false, AT_ONCE),
    ("ipvs.excludeCIDRs", false, "not needed: lb does not use IPVS"),
    ("ipvs.minSyncPeriod", false, AT_ONCE),
    ("ipvs.scheduler", true, "not supported: backends are chosen at random"),
    (
        "ipvs.strictARP",
        false,
        "not needed: no interface has addresses of Services, so nothing answers ARP for them",
    ),
    ("ipvs.tcpFinTimeout", true, OF_IPVS),
    ("ipvs.tcpTimeout", true, OF_IPVS),
    ("ipvs.udpTimeout", true, OF_IPVS),
    ("logging", true, "not supported: LB_LOG in the environment selects what is logged (docs/config.md)"),
    (
        "mode",
        false,
        "not needed: lb is a mode of its own, ebpf; `lb cleanup --kube-proxy` removes what the other mode wrote",
    ),
    ("nftables.masqueradeAll", true, NO_MASQUERADE),
    ("nftables.masqueradeBit", false, "not needed: packets are not marked"),
    ("nftables.minSyncPeriod", false, AT_ONCE),
    ("portRange", false, "not needed: kube-proxy does not use it either"),
    ("showHiddenMetricsForVersion", false, "not needed: no metric is hidden"),
    ("windowsRunAsService", true, NOT_WINDOWS),
    ("winkernel", true, NOT_WINDOWS),
];

/// Returns a remark for each field that differs from its default and has no effect.
///
/// # Errors
/// If a value that is used cannot be parsed; kube-proxy rejects it too.
pub fn review(given: &KubeProxyConfiguration) -> anyhow::Result<Vec<Remark>> {
    check(given)?;
    let leaves = |config: &KubeProxyConfiguration| -> anyhow::Result<BTreeMap<String, Value>> {
        let mut config = config.clone();
        config.set_defaults();
        let mut leaves = BTreeMap::new();
        collect("", serde_json::to_value(&config)?, &mut leaves);
        Ok(leaves)
    };
    let defaults = leaves(&KubeProxyConfiguration::default())?;
    let differ = leaves(given)?.into_iter().filter(|(field, value)| defaults.get(field) != Some(value));
    Ok(differ.filter_map(|(field, _)| remark(field)).collect())
}

fn remark(field: String) -> Option<Remark> {
    let (_, is_warning, text) = UNUSED.iter().find(|(name, ..)| is_within(&field, name))?;
    Some(Remark { text, is_warning: *is_warning, field })
        .filter(|remark| !USED.contains(&remark.field.as_str()))
}

/// Returns true if `field` is `name`, or lies in the section `name`.
fn is_within(field: &str, name: &str) -> bool {
    field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn check(config: &KubeProxyConfiguration) -> anyhow::Result<()> {
    parse_node_ports(config.node_port_addresses.as_deref().unwrap_or_default())?;
    if let Some(score) = config.oom_score_adj {
        ensure!((-1000..=1000).contains(&score), "oomScoreAdj: {score} is not within -1000 to 1000");
    }
    Ok(())
}

/// Collects scalars and lists by their path.
fn collect(path: &str, value: Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                collect(&path, field, leaves);
            }
        }
        leaf => {
            leaves.insert(path.to_owned(), leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_used_or_has_a_reason_why_not() {
        let mut config = KubeProxyConfiguration::default();
        config.set_defaults();
        config.windows_run_as_service = true;
        config.feature_gates.insert("X".into(), true);
        let mut leaves = BTreeMap::new();
        collect("", serde_json::to_value(&config).unwrap(), &mut leaves);
        for field in leaves.keys() {
            let is_known = USED.contains(&field.as_str()) || remark(field.clone()).is_some();
            assert!(is_known, "{field}");
        }
        assert!(leaves.len() > 50, "{}", leaves.len());
    }
}

//! A real kube-proxy on a real API server writes its rules and is killed; then its rules are cleaned up.

use crate::rules::{FOREIGN, assert_same, nft, restore, ruleset, saved};
use anyhow::{Result, bail};
use lb_tests::cluster::{Cluster, KubeProxy};
use lb_tests::world::{Layout, World};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// Objects that produce each kind of chain in iptables mode: Services, firewalls, external traffic, local policies,
/// endpoints.
const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
status:
  addresses: [{address: 192.168.77.1, type: InternalIP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:10:96::a']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [198.51.100.0/24, '2001:db8::/64']
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
status:
  loadBalancer: {ingress: [{ip: 203.0.113.10}, {ip: '2001:db8:1::10'}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec:
  clusterIP: 10.96.0.20
  ports: [{port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.11], nodeName: node-1}
- {addresses: [10.244.2.12], nodeName: node-2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: ['fd00:10:244:1::11'], nodeName: node-1}
";

/// Starts kube-proxy; `path` is where it finds its `iptables`.
fn start(world: &World, kubeconfig: &Path, mode: &str, path: &str) -> Result<KubeProxy> {
    let mut command = KubeProxy::command(world, kubeconfig, mode)?;
    command.env("PATH", path);
    KubeProxy::start(world, command)
}

/// Waits until kube-proxy has written its rules for both families.
fn wait(proxy: &mut KubeProxy, are_there: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !are_there()? {
        let ended = proxy.ended()?;
        if ended.is_some() || Instant::now() > deadline {
            bail!("kube-proxy ({ended:?}) wrote no rules:\n{}", proxy.log());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A `PATH` that begins with a folder in which `iptables` is of this variant.
fn path_of(world: &World, variant: &str) -> Result<String> {
    let folder = world.folder().path().join(variant);
    fs::create_dir(&folder)?;
    for family in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            symlink(format!("/usr/sbin/{family}-{variant}{tool}"), folder.join(format!("{family}{tool}")))?;
        }
    }
    Ok(format!("{}:{USUAL_PATH}", folder.display()))
}

/// kube-proxy also creates kubelet's chain, with a jump and a rule, if kubelet has not, and leaves the chain when
/// told to clean up (`iptablesKubeletJumpChains`, pkg/proxy/iptables/proxier.go).
fn is_of_kubelets_firewall(line: &str) -> bool {
    line.ends_with("-A OUTPUT -j KUBE-FIREWALL") || line.contains("block incoming localnet connections")
}

fn check_iptables(variant: &str) -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(OBJECTS)?;
    let world = World::new(Layout::routed().with_backends(1))?;
    let door = cluster.door(world.node())?;
    let node = world.node();
    restore(node, variant, FOREIGN)?;
    let before = saved(node)?;

    let path = path_of(&world, variant)?;
    let mut proxy = start(&world, &cluster.kubeconfig_at("admin", door.address())?, "iptables", &path)?;
    wait(&mut proxy, || {
        let rules = saved(node)?;
        let has = |program: &str, chain: &str| {
            let begin = format!("{program}-{variant} :{chain}");
            rules.iter().any(|line| line.starts_with(&begin))
        };
        let chains = ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SVL-"];
        Ok(["iptables", "ip6tables"].iter().all(|program| chains.iter().all(|chain| has(program, chain))))
    })?;

    let refused = world.lb_output(&["cleanup", "--kube-proxy"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let named = format!("process {} is a kube-proxy", proxy.pid());
    assert!(!refused.status.success() && said.contains(&named), "{said}");
    let report = world.lb(&["check"])?;
    assert!(report.contains(&format!("it runs: process {}", proxy.pid())), "{report}");
    assert!(report.contains("10256 (health) is taken by kube-proxy (process"), "{report}");
    drop(proxy);

    let output = world.lb_output(&["check"])?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && report.contains("error    leftovers"), "{report}");
    assert!(report.contains("route_localnet is 1, as kube-proxy sets it"), "{report}");
    let said = world.lb(&["cleanup", "--kube-proxy"])?;
    assert!(said.contains(&format!("iptables-{variant} ip6 nat: ")), "{said}");
    let mut after = saved(node)?;
    after.retain(|line| !is_of_kubelets_firewall(line));
    assert_same(&after, &before);
    let report = world.lb(&["check"])?;
    assert!(report.contains("ok       leftovers"), "{report}");
    Ok(())
}

#[test]
fn what_a_real_kube_proxy_wrote_by_iptables_nft_goes() -> Result<()> {
    check_iptables("nft")
}

#[test]
fn what_a_real_kube_proxy_wrote_by_iptables_legacy_goes() -> Result<()> {
    check_iptables("legacy")
}

#[test]
fn what_a_real_kube_proxy_wrote_in_nftables_mode_goes() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(OBJECTS)?;
    let world = World::new(Layout::routed().with_backends(1))?;
    let door = cluster.door(world.node())?;
    let node = world.node();
    nft(
        node,
        "table inet mine { chain forward { type filter hook forward priority 0; tcp dport 9 drop; }; }\n",
    )?;
    let before = ruleset(node)?;
    let mut proxy = start(&world, &cluster.kubeconfig_at("admin", door.address())?, "nftables", USUAL_PATH)?;
    wait(&mut proxy, || {
        let rules = ruleset(node)?;
        Ok(["10.244.1.11", "[fd00:10:244:1::11]"]
            .iter()
            .all(|to| rules.contains(&format!("dnat to {to}:8080"))))
    })?;
    drop(proxy);
    let rules = ruleset(node)?;
    assert!(rules.contains("table ip kube-proxy") && rules.contains("table ip6 kube-proxy"), "{rules}");
    let said = world.lb(&["cleanup", "--kube-proxy"])?;
    assert_eq!(said.trim(), "removed: nftables table ip kube-proxy; nftables table ip6 kube-proxy");
    assert_eq!(ruleset(node)?, before);
    Ok(())
}

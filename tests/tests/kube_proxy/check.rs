//! What `lb check` reports about a node, and that the command leaves the node unchanged.

use crate::process::Process;
use crate::rules::{KUBE_PROXY, VARIANTS, assert_same, nft, restore, ruleset, saved};
use anyhow::{Context, Result};
use lb_tests::cluster::Cluster;
use lb_tests::world::{Layout, World, lb_binary};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn world(layout: Layout) -> Result<World> {
    World::new(layout.with_backends(1))
}

/// The finding for all programs: those of links, those of sockets, and the sweep.
fn all_programs() -> String {
    use lb_common::names::{ON_LINKS, ON_SOCKETS};
    format!("the kernel accepts all {};", ON_LINKS.len() + ON_SOCKETS.len() + 1)
}

/// The report of `lb check -o json`.
struct Report(Value);

impl Report {
    fn read(world: &World, args: &[&str]) -> Result<Self> {
        let output = world.lb_output(&[&["check", "-o", "json"], args].concat())?;
        Self::parse(&output)
    }

    fn parse(output: &std::process::Output) -> Result<Self> {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(report["ok"], output.status.success());
        assert_eq!(output.status.code(), Some(if report["ok"] == true { 0 } else { 1 }));
        for line in report["checks"].as_array().context("checks")? {
            let is_fine = line["level"] == "ok";
            assert_eq!(
                line["advice"].is_null(),
                is_fine,
                "advice is given exactly if a line is not ok: {line}"
            );
        }
        Ok(Self(report))
    }

    /// Level and finding of each line of this check.
    fn of(&self, check: &str) -> Vec<(&str, &str)> {
        let lines = self.0["checks"].as_array().into_iter().flatten().filter(|line| line["check"] == check);
        lines.filter_map(|line| Some((line["level"].as_str()?, line["found"].as_str()?))).collect()
    }

    /// Asserts that one line of the check has this level and contains all of the words.
    fn assert(&self, check: &str, level: &str, words: &[&str]) {
        let is_it = |(its_level, found): &(&str, &str)| {
            *its_level == level && words.iter().all(|word| found.contains(word))
        };
        assert!(self.of(check).iter().any(is_it), "{check} {level} {words:?}: {:#?}", self.of(check));
    }

    fn errors(&self) -> Vec<&Value> {
        self.0["checks"].as_array().into_iter().flatten().filter(|line| line["level"] == "error").collect()
    }
}

#[test]
fn a_node_that_can_run_lb_is_reported_so_and_left_unchanged() -> Result<()> {
    let world = world(Layout::routed())?;
    let node = world.node();
    let pins = world.folder().pins();
    let before = (ruleset(node)?, node.run("ip", &["-details", "link"])?, node.run("tc", &["qdisc"])?);
    let report = Report::read(&world, &[])?;
    assert!(report.errors().is_empty(), "{:#?}", report.errors());
    report.assert("capabilities", "ok", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    report.assert("programs", "ok", &[&all_programs()]);
    report.assert("btf", "ok", &["/sys/kernel/btf/vmlinux"]);
    report.assert("bpffs", "ok", &[&pins.to_string_lossy()]);
    report.assert("cgroup", "ok", &["version 2 at /sys/fs/cgroup"]);
    report.assert("memory", "ok", &["MiB at once"]);
    report.assert("links", "ok", &["of pods 2, uplinks 1, tunnels 0"]);
    report.assert("tcx", "ok", &[]);
    report.assert("others", "ok", &["none"]);
    report.assert("forwarding", "ok", &["net.ipv4.ip_forward"]);
    report.assert("forwarding", "ok", &["net.ipv6.conf.all.forwarding"]);
    report.assert("rp-filter", "ok", &[]);
    report.assert("firewall", "ok", &[]);
    report.assert("kube-proxy", "ok", &[]);
    report.assert("leftovers", "ok", &[]);
    report.assert("ports", "ok", &["10256 (health) is free"]);
    report.assert("ports", "ok", &["10249 (metrics) is free"]);
    let after = (ruleset(node)?, node.run("ip", &["-details", "link"])?, node.run("tc", &["qdisc"])?);
    assert_eq!(after, before);
    assert!(!pins.join(format!("v{}", lb_common::SCHEMA)).exists(), "nothing is pinned");

    let text = world.lb(&["check"])?;
    assert!(text.contains("\nthis node can run lb: errors 0, "), "{text}");
    // A running agent does not change the result.
    let _agent = world.start_agent(&[])?;
    let report = Report::read(&world, &[])?;
    assert!(report.errors().is_empty(), "{:#?}", report.errors());
    report.assert("others", "ok", &["none"]);
    report.assert("memory", "ok", &["exist already"]);
    Ok(())
}

#[test]
fn a_capability_that_is_missing_is_named() -> Result<()> {
    let world = world(Layout::routed())?;
    let needed = lb_userspace::node::capabilities::NEEDED.map(|capability| capability.name);
    let bounding = |names: &[&str]| {
        let kept: Vec<String> =
            names.iter().map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
        format!("-all,{}", kept.join(","))
    };
    let check = |kept: &[&str]| -> Result<Report> {
        let mut command = world.node().command("setpriv");
        command.arg(format!("--bounding-set={}", bounding(kept))).arg(lb_binary()?);
        command.args(["check", "-o", "json", "--pin-dir"]).arg(world.folder().pins());
        Report::parse(&command.output().context("setpriv (package util-linux)")?)
    };
    let report = check(&needed)?;
    assert!(report.errors().is_empty(), "no other capability is needed: {:#?}", report.errors());
    report.assert("programs", "ok", &[&all_programs()]);
    for missing in needed {
        let kept: Vec<&str> = needed.into_iter().filter(|name| *name != missing).collect();
        let report = check(&kept)?;
        assert_eq!(report.errors().len(), 1, "{missing}: {:#?}", report.errors());
        report.assert("capabilities", "error", &[missing, "is missing, for "]);
        report.assert("programs", "warning", &["not seen"]);
    }
    Ok(())
}

#[test]
fn without_root_it_says_what_it_could_not_see() -> Result<()> {
    let world = world(Layout::routed())?;
    let binary = world.folder().path().join("lb");
    fs::copy(lb_binary()?, &binary).context("copy lb")?;
    let mut command = world.node().command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
    command.args(["check", "-o", "json", "--pin-dir"]).arg(world.folder().pins());
    let report = Report::parse(&command.output().context("setpriv (package util-linux)")?)?;
    assert_eq!(report.of("capabilities").len(), 3, "{:#?}", report.of("capabilities"));
    for check in ["programs", "tcx", "leftovers"] {
        report.assert(check, "warning", &["not seen"]);
    }
    report.assert("forwarding", "ok", &["net.ipv4.ip_forward"]);
    report.assert("links", "ok", &["of pods 2"]);
    report.assert("ports", "ok", &["10256"]);
    Ok(())
}

#[test]
fn without_bpffs_it_says_who_can_mount_one() -> Result<()> {
    let world = world(Layout::routed())?;
    let pins = world.folder().pins();
    umount2(&pins, MntFlags::empty())?;
    let report = Report::read(&world, &[])?;
    report.assert("bpffs", "warning", &[&pins.to_string_lossy(), "the agent will mount one"]);
    assert!(report.errors().is_empty());
    let mut command = world.node().command("setpriv");
    command.arg("--bounding-set=-all,+bpf,+net_admin,+perfmon").arg(lb_binary()?);
    command.args(["check", "-o", "json", "--pin-dir"]).arg(&pins);
    let report = Report::parse(&command.output()?)?;
    report.assert("bpffs", "error", &["without CAP_SYS_ADMIN"]);
    assert!(
        !fs::read_to_string("/proc/mounts")?.contains(&*pins.to_string_lossy()),
        "the check mounts nothing"
    );
    Ok(())
}

#[test]
fn sysctls_in_the_way_are_named() -> Result<()> {
    let world = world(Layout::routed())?;
    let node = world.node();
    node.ip("link add tunnel1 type vxlan id 7 dstport 4789\nlink set tunnel1 up\n")?;
    node.set_sysctls(&[
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv4/conf/all/route_localnet", "1"),
        ("net/ipv4/conf/tunnel1/rp_filter", "1"),
    ])?;
    let report = Report::read(&world, &[])?;
    report.assert("forwarding", "error", &["net.ipv4.ip_forward is 0"]);
    report.assert("forwarding", "warning", &["net.ipv6.conf.all.forwarding is 0"]);
    report.assert("localnet", "warning", &["route_localnet is 1"]);
    report.assert("rp-filter", "warning", &["strict (1) on tunnel1:"]);
    report.assert("links", "ok", &["tunnels 1"]);
    // The greater of the two values counts: 2 for all links makes the filter loose.
    node.set_sysctls(&[("net/ipv4/conf/all/rp_filter", "2")])?;
    Report::read(&world, &[])?.assert("rp-filter", "ok", &[]);
    node.set_sysctls(&[("net/ipv4/conf/all/rp_filter", "1"), ("net/ipv4/conf/tunnel1/rp_filter", "0")])?;
    Report::read(&world, &[])?.assert("rp-filter", "warning", &["tunnel1"]);
    Ok(())
}

#[test]
fn programs_of_others_are_named_with_their_hook() -> Result<()> {
    let world = world(Layout::routed().with_policy())?;
    for args in [&[][..], &["--attach", "tcx"]] {
        let report = Report::read(&world, &[])?;
        report.assert("others", "warning", &["clsact program policy_from_pod at ingress of 2 links of pods"]);
        report.assert("others", "warning", &["clsact program policy_to_pod at egress of 2 links of pods"]);
        assert_eq!(
            report.of("others").len(),
            2,
            "our own programs are not listed: {:#?}",
            report.of("others")
        );
        assert!(report.errors().is_empty());
        world.start_agent(args)?.terminate()?;
    }
    Ok(())
}

#[test]
fn what_kube_proxy_left_is_an_error_and_while_it_runs_it_is_not() -> Result<()> {
    let world = world(Layout::routed())?;
    let node = world.node();
    for variant in VARIANTS {
        restore(node, variant, KUBE_PROXY)?;
    }
    nft(node, "table ip kube-proxy { chain services { }; }\n")?;
    node.ip("link add kube-ipvs0 type ifb\naddr add 10.96.0.1/32 dev kube-ipvs0\n")?;
    let before = saved(node)?;

    let report = Report::read(&world, &[])?;
    report.assert("leftovers", "error", &["nftables table ip kube-proxy", "kube-ipvs0 with 1 address"]);
    report.assert(
        "leftovers",
        "error",
        &["iptables-nft ip nat: 7 chains", "iptables-legacy ip6 filter: 6 chains"],
    );
    assert_eq!(report.errors().len(), 1);

    let process = Process::start(world.folder().path(), node, "kube-proxy")?;
    let report = Report::read(&world, &[])?;
    report.assert("kube-proxy", "warning", &["it runs: process", &process.id().to_string()]);
    report.assert("leftovers", "ok", &["of the running kube-proxy"]);
    assert!(report.errors().is_empty());
    drop(process);

    // The leftovers are found by netlink alone, without any program of iptables.
    let mut command = node.command(lb_binary()?);
    command.args(["check", "-o", "json", "--pin-dir"]).arg(world.folder().pins()).env("PATH", "/nowhere");
    let report = Report::parse(&command.output()?)?;
    report.assert("leftovers", "error", &["iptables-legacy ip nat: 7 chains"]);
    assert_same(&saved(node)?, &before);
    world.lb(&["cleanup", "--kube-proxy"])?;
    Report::read(&world, &[])?.assert("leftovers", "ok", &[]);
    Ok(())
}

#[test]
fn a_firewall_that_drops_what_it_forwards_is_named() -> Result<()> {
    let world = world(Layout::routed())?;
    let node = world.node();
    for variant in VARIANTS {
        node.run(&format!("ip6tables-{variant}"), &["-P", "FORWARD", "DROP"])?;
        node.run(&format!("iptables-{variant}"), &["-A", "FORWARD", "-j", "DROP"])?;
    }
    nft(
        node,
        "add table inet fw; add chain inet fw out { type filter hook forward priority 0; policy drop; }",
    )?;
    let report = Report::read(&world, &[])?;
    report.assert("firewall", "warning", &["chain out in the nftables table inet fw"]);
    report.assert("firewall", "warning", &["chain FORWARD in the nftables table ip6 filter"]);
    report.assert("firewall", "warning", &["chain FORWARD of ip6tables-legacy"]);
    assert_eq!(report.of("firewall").len(), 3, "a rule is not a policy: {:#?}", report.of("firewall"));
    assert!(report.errors().is_empty());
    Ok(())
}

#[test]
fn the_configuration_that_the_agent_will_get_is_checked() -> Result<()> {
    let world = world(Layout::routed())?;
    let file = world.folder().path().join("config.yaml");
    let path = file.to_string_lossy();
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(&file, format!("{head}healthzBindAddress: 0.0.0.0:20256\nwinkernel: {{networkName: x}}\n"))?;
    let few = Report::read(&world, &["--config", &path, "--max-flows", "1000"])?;
    few.assert("config", "warning", &["winkernel"]);
    few.assert("ports", "ok", &["20256 (health) is free"]);
    let many = Report::read(&world, &["--max-flows", "1000000000"])?;
    assert!(many.of("config").is_empty(), "without a file there is no line");
    assert_eq!(few.of("memory")[0].0, "ok");
    assert_ne!(many.of("memory")[0].0, "ok", "{:?}", many.of("memory"));
    fs::write(&file, format!("{head}bindAddress: here\n"))?;
    Report::read(&world, &["--config", &path])?.assert("config", "error", &["bindAddress: \"here\""]);
    Ok(())
}

#[test]
fn the_owner_of_a_taken_port_is_named() -> Result<()> {
    let world = world(Layout::routed())?;
    let node = world.node();
    let health = node.enter(|| TcpListener::bind("[::]:10256"))?;
    let metrics = node.enter(|| TcpListener::bind("127.0.0.1:10249"))?;
    // The listener is asked for /proxyMode and never answers, so it may be a kube-proxy.
    let report = Report::read(&world, &[])?;
    report.assert(
        "kube-proxy",
        "warning",
        &["it may be the process that has http://127.0.0.1:10249/proxyMode"],
    );
    let me = format!("(process {})", std::process::id());
    report.assert("ports", "error", &["10256 (health) is taken by ", &me]);
    report.assert("ports", "error", &["10249 (metrics) is taken by ", &me]);
    assert_eq!(report.errors().len(), 2);
    drop((health, metrics));
    assert!(Report::read(&world, &[])?.errors().is_empty());
    Ok(())
}

/// All verbs that the agent needs, except for two.
const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: lb-check}
rules:
- {apiGroups: ['', discovery.k8s.io, networking.k8s.io], resources: [services, endpointslices, servicecidrs], verbs: [list, watch]}
- {apiGroups: [''], resources: [nodes], verbs: [list]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: lb-check}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: lb-check}
subjects: [{kind: User, name: nobody, apiGroup: rbac.authorization.k8s.io}]
";

#[test]
fn what_the_api_server_does_not_grant_is_named() -> Result<()> {
    let cluster = Cluster::shared()?;
    let world = world(Layout::routed())?;
    let door = cluster.door(world.node())?;
    let check = |user: &str| -> Result<Report> {
        let kubeconfig = cluster.kubeconfig_at(user, door.address())?;
        Report::read(&world, &["--kubeconfig", &kubeconfig.to_string_lossy()])
    };
    Report::read(&world, &[])?.assert("api", "warning", &["not asked: no --kubeconfig"]);
    check("admin")?.assert("api", "ok", &["grants all"]);
    let report = check("nobody")?;
    assert_eq!(report.of("api").len(), 5, "{:#?}", report.of("api"));
    report.assert("api", "error", &["not allowed to list, watch services"]);
    report.assert("api", "error", &["not allowed to list, watch endpointslices.discovery.k8s.io"]);

    cluster.apply(ROLE)?;
    let expected =
        [("error", "not allowed to watch nodes"), ("error", "not allowed to patch events.events.k8s.io")];
    // The server's authorizer learns of a role a moment after it was written.
    let deadline = Instant::now() + Duration::from_secs(10);
    while check("nobody")?.of("api") != expected && Instant::now() < deadline {}
    assert_eq!(check("nobody")?.of("api"), expected);
    cluster.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "lb-check")?;
    cluster.delete("rbac.authorization.k8s.io/v1", "ClusterRole", "", "lb-check")?;

    door.shut();
    check("admin")?.assert("api", "error", &["the API server cannot be asked"]);
    Ok(())
}

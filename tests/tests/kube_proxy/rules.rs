//! Rules as kube-proxy, kubelet and other programs write them, and the rules of a namespace as text.

use anyhow::{Context, Result};
use lb_tests::world::Netns;
use std::io::Write;
use std::process::{Command, Stdio};

/// The variants of iptables, by the suffix of their programs.
pub const VARIANTS: [&str; 2] = ["nft", "legacy"];
const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];

/// Rules of kubelet and other programs, in all three tables, with details that mislead a careless parser.
pub const FOREIGN: &str = r#"*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:MINE - [0:0]
-A INPUT -j KUBE-FIREWALL
[7:420] -A INPUT -p tcp -m tcp --dport 22 -m limit --limit 3/min -j ACCEPT
-A FORWARD -m comment --comment "say \"-j KUBE-FORWARD\" twice" -j MINE
-A MINE -m conntrack --ctstate INVALID -j DROP
-A MINE -i uplink -g KUBE-FIREWALL
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "-j KUBE-SERVICES" -j DOCKER
-A POSTROUTING -o uplink -j MASQUERADE --random-fully
-A DOCKER -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
COMMIT
"#;

/// The rules of kube-proxy in iptables mode for one Service with one endpoint; chains are in the order of its
/// restores.
pub const KUBE_PROXY: &str = r#"*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SVC-7CZWRQZJHAZQ4YZU - [0:0]
:KUBE-SEP-35DKKIB2LKEFV6JW - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -m comment --comment "default/web cluster IP" -j KUBE-SVC-7CZWRQZJHAZQ4YZU
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-7CZWRQZJHAZQ4YZU -j KUBE-SEP-35DKKIB2LKEFV6JW
-A KUBE-SEP-35DKKIB2LKEFV6JW -j KUBE-MARK-MASQ
COMMIT
"#;

/// Adds rules to both families of a variant.
pub fn restore(netns: &Netns, variant: &str, rules: &str) -> Result<()> {
    PROGRAMS.iter().try_for_each(|program| {
        let mut command = netns.command(format!("{program}-{variant}-restore"));
        feed(command.args(["--noflush", "--counters"]), rules)
    })
}

/// Runs lines of `nft`.
pub fn nft(netns: &Netns, lines: &str) -> Result<()> {
    feed(netns.command("nft").args(["-f", "-"]), lines)
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let line = format!("{command:?}");
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context(line.clone())?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The rules of a namespace as each variant's `-save` prints them, in order. Counters are kept only for the rule that
/// no packet meets; the others count unrelated traffic.
pub fn saved(netns: &Netns) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for variant in VARIANTS {
        for program in PROGRAMS {
            let text = netns.run(&format!("{program}-{variant}-save"), &["--counters"])?;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let rule = line.strip_prefix('[').and_then(|line| line.split_once("] "));
                let line = match rule {
                    Some(("7:420", _)) => line,
                    Some((_, rule)) => rule,
                    None => line.split(" [").next().unwrap_or(line),
                };
                lines.push(format!("{program}-{variant} {line}"));
            }
        }
    }
    Ok(lines)
}

/// Fails with the lines that only one of the two has.
pub fn assert_same(found: &[String], wanted: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    assert!(found == wanted, "too many: {:#?}\nmissing: {:#?}", only(found, wanted), only(wanted, found));
}

/// The whole ruleset of nftables.
pub fn ruleset(netns: &Netns) -> Result<String> {
    netns.run("nft", &["list", "ruleset"])
}

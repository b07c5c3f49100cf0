//! Firewalls that drop forwarded packets unless a rule accepts them. Packets of pods are forwarded.

use std::io;

use libc::{NF_DROP, NF_INET_FORWARD, NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFT_MSG_GETCHAIN};

use super::line::{Line, ok, unseen, warning};
use crate::command::cleanup::kube_proxy::family::NfFamily;
use crate::command::cleanup::kube_proxy::legacy;
use crate::node::nfnetlink::{Attributes, Message, Nfnetlink, attribute, be32, text};

/// Attributes of `linux/netfilter/nf_tables.h`.
mod nfta {
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const CHAIN_POLICY: u16 = 5;
    pub const HOOK_NUMBER: u16 = 1;
}

pub fn check() -> Vec<Line> {
    let found = of_nftables().and_then(|mut found| {
        found.extend(of_iptables_legacy()?);
        Ok(found)
    });
    match found {
        Ok(chains) if chains.is_empty() => vec![ok("firewall", "no chain drops forwarded packets by policy")],
        Ok(chains) => chains.iter().map(|chain| dropping(chain)).collect(),
        Err(error) => vec![unseen("firewall", &error)],
    }
}

fn dropping(chain: &str) -> Line {
    warning(
        "firewall",
        format!("the policy of {chain} is to drop: packets of pods pass only if a rule accepts them"),
        "kube-proxy's KUBE-FORWARD accepts what kube-proxy translated, and is removed with it: make sure that rules of \
         the CNI accept the packets of its pods in both directions, or run iptables -A FORWARD -s POD-CIDR -j ACCEPT, \
         and the same with -d",
    )
}

/// Base chains at the forward hook, including those of iptables-nft.
fn of_nftables() -> io::Result<Vec<String>> {
    let families =
        [(NFPROTO_INET as u8, "inet"), (NfFamily::V4.number(), "ip"), (NfFamily::V6.number(), "ip6")];
    let mut found = Vec::new();
    let Some(mut netlink) = Nfnetlink::open()? else { return Ok(found) };
    for (number, family) in families {
        let list = Message::new(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN, number, Attributes::new());
        let dumped = netlink.dump(&list, |chain| {
            let hook = attribute(chain, nfta::CHAIN_HOOK).and_then(|hook| be32(hook, nfta::HOOK_NUMBER));
            let is_forward = hook == Some(NF_INET_FORWARD as u32);
            if is_forward && be32(chain, nfta::CHAIN_POLICY) == Some(NF_DROP as u32) {
                let name = |attribute| text(chain, attribute).unwrap_or_default();
                let (table, chain) = (name(nfta::CHAIN_TABLE), name(nfta::CHAIN_NAME));
                found.push(format!("chain {chain} in the nftables table {family} {table}"));
            }
        });
        match dumped {
            // The kernel lacks nftables, or this family of it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
            dumped => dumped?,
        }
    }
    Ok(found)
}

fn of_iptables_legacy() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (family, program) in [(NfFamily::V4, "iptables"), (NfFamily::V6, "ip6tables")] {
        if legacy::drops_forwarded(family)? {
            found.push(format!("chain FORWARD of {program}-legacy"));
        }
    }
    Ok(found)
}

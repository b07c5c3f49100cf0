//! What kube-proxy left in nftables: its own tables, and its chains in those of iptables-nft. Everything is removed in
//! one transaction, by netlink: this needs no `nft` of a matching version (`nft` fails on rules of another version,
//! kubernetes/kubernetes#136786).

use std::collections::BTreeMap;
use std::io;

use libc::{
    NFNL_SUBSYS_NFTABLES, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELTABLE, NFT_MSG_GETCHAIN,
    NFT_MSG_GETGEN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE,
};

use super::chains::{Chain, Removal, Rule, is_kube_proxys, removal};
use super::family::NfFamily;
use super::phrase::count;
use crate::node::nfnetlink::{Attributes, Message, Nfnetlink, all_attributes, attribute, be32, be64, text};

/// Attributes of `linux/netfilter/nf_tables.h`.
mod nfta {
    pub const TABLE_NAME: u16 = 1;
    pub const CHAIN_TABLE: u16 = 1;
    pub const CHAIN_NAME: u16 = 3;
    pub const CHAIN_HOOK: u16 = 4;
    pub const RULE_TABLE: u16 = 1;
    pub const RULE_CHAIN: u16 = 2;
    pub const RULE_HANDLE: u16 = 3;
    pub const RULE_EXPRESSIONS: u16 = 4;
    pub const EXPR_NAME: u16 = 1;
    pub const EXPR_DATA: u16 = 2;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CHAIN: u16 = 2;
    pub const GEN_ID: u16 = 1;
}

/// kube-proxy's own table in nftables mode (pkg/proxy/nftables/proxier.go).
const TABLE: &str = "kube-proxy";
/// iptables-nft keeps its rules in tables of these names.
const IPTABLES: [&str; 4] = ["nat", "filter", "mangle", "raw"];

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The generation of the rules when they were read.
    generation: u32,
    /// Families that have a table `kube-proxy`.
    pub own: Vec<NfFamily>,
    /// Tables of iptables-nft with chains of kube-proxy.
    pub iptables: Vec<(NfFamily, String, Removal)>,
}

/// Searches the rules of this network namespace.
///
/// # Errors
/// The error of the kernel; `PermissionDenied` without CAP_NET_ADMIN.
pub fn find() -> io::Result<Found> {
    const TRIES: usize = 10;
    for _ in 1..TRIES {
        match find_once() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel lacks nftables.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(Found::default());
            }
            found => return found,
        }
    }
    find_once()
}

fn find_once() -> io::Result<Found> {
    let Some(mut netlink) = Nfnetlink::open()? else { return Ok(Found::default()) };
    let mut found = Found { generation: generation(&mut netlink)?, ..Found::default() };
    for family in NfFamily::BOTH {
        let mut tables = Vec::new();
        let list = message(NFT_MSG_GETTABLE, family, Attributes::new());
        netlink.dump(&list, |attributes| tables.extend(text(attributes, nfta::TABLE_NAME)))?;
        if tables.iter().any(|name| name == TABLE) {
            found.own.push(family);
        }
        for table in IPTABLES.into_iter().filter(|name| tables.iter().any(|found| found == name)) {
            let removal = removal(&chains(&mut netlink, family, table)?);
            if !removal.is_empty() || !removal.kept.is_empty() {
                found.iptables.push((family, table.to_owned(), removal));
            }
        }
    }
    if generation(&mut netlink)? == found.generation {
        Ok(found)
    } else {
        Err(io::ErrorKind::Interrupted.into())
    }
}

fn message(command: i32, family: NfFamily, attributes: Attributes) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES, command, family.number(), attributes)
}

/// The number of transactions on all rules so far.
fn generation(netlink: &mut Nfnetlink) -> io::Result<u32> {
    let mut generation = None;
    let ask = Message::new(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, 0, Attributes::new());
    netlink.ask(&ask, |attributes| generation = be32(attributes, nfta::GEN_ID))?;
    generation.ok_or_else(|| io::Error::other("nftables reported no generation"))
}

fn chains(netlink: &mut Nfnetlink, family: NfFamily, table: &str) -> io::Result<Vec<Chain>> {
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    let of_table = |attributes: &[u8], kind| text(attributes, kind).as_deref() == Some(table);
    let list = message(NFT_MSG_GETCHAIN, family, Attributes::new().text(nfta::CHAIN_TABLE, table));
    netlink.dump(&list, |attributes| {
        let Some(name) = text(attributes, nfta::CHAIN_NAME) else { return };
        if of_table(attributes, nfta::CHAIN_TABLE) {
            let builtin = attribute(attributes, nfta::CHAIN_HOOK).is_some();
            chains.insert(name.clone(), Chain { name, builtin, rules: Vec::new() });
        }
    })?;
    // The content of kube-proxy's chains does not matter, and may be a hundred thousand rules.
    for chain in chains.values_mut().filter(|chain| !is_kube_proxys(&chain.name)) {
        let name = chain.name.clone();
        let of_chain = Attributes::new().text(nfta::RULE_TABLE, table).text(nfta::RULE_CHAIN, &name);
        netlink.dump(&message(NFT_MSG_GETRULE, family, of_chain), |attributes| {
            let is_of_it = text(attributes, nfta::RULE_CHAIN).as_deref() == Some(&*name);
            if is_of_it && of_table(attributes, nfta::RULE_TABLE) {
                let id = be64(attributes, nfta::RULE_HANDLE).unwrap_or_default().to_string();
                chain.rules.push(Rule { jump: jump(attributes), id });
            }
        })?;
    }
    Ok(chains.into_values().collect())
}

/// The chain to which a rule jumps or goes.
fn jump(rule: &[u8]) -> Option<String> {
    let expressions = attribute(rule, nfta::RULE_EXPRESSIONS)?;
    all_attributes(expressions).find_map(|(_, expression)| {
        if text(expression, nfta::EXPR_NAME)? != "immediate" {
            return None;
        }
        let data = attribute(attribute(expression, nfta::EXPR_DATA)?, nfta::IMMEDIATE_DATA)?;
        text(attribute(data, nfta::DATA_VERDICT)?, nfta::VERDICT_CHAIN)
    })
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.iptables.iter().all(|(_, _, removal)| removal.is_empty())
    }

    /// A phrase for each finding.
    pub fn summary(&self) -> Vec<String> {
        let own = self.own.iter().map(|family| format!("nftables table {family} {TABLE}"));
        let chains = self.iptables.iter().filter(|(_, _, removal)| !removal.is_empty());
        let chains = chains.map(|(family, table, removal)| {
            let jumps = count(removal.rules.len(), "jump");
            let chains = count(removal.chains.len() + removal.emptied.len(), "chain");
            format!("iptables-nft {family} {table}: {chains}, {jumps}")
        });
        own.chain(chains).collect()
    }

    /// Commands of `nft` that do what [`Found::remove`] does.
    pub fn commands(&self) -> Vec<String> {
        let own = self.own.iter().map(|family| format!("nft delete table {family} {TABLE}"));
        let mut lines: Vec<String> = own.collect();
        for (family, table, removal) in &self.iptables {
            let rules = removal.rules.iter();
            lines.extend(
                rules.map(|(chain, id)| format!("nft delete rule {family} {table} {chain} handle {id}")),
            );
            for chain in flushed(removal) {
                lines.push(format!("nft flush chain {family} {table} {chain}"));
            }
            lines.extend(
                removal.chains.iter().map(|chain| format!("nft delete chain {family} {table} {chain}")),
            );
        }
        lines
    }

    /// Removes everything that was found in one transaction, if no rule has changed since the rules were read.
    ///
    /// # Errors
    /// The error of the kernel; then nothing was changed. `Interrupted` if rules changed meanwhile: read them again.
    pub fn remove(&self) -> io::Result<()> {
        let mut messages: Vec<Message> = self
            .own
            .iter()
            .map(|family| message(NFT_MSG_DELTABLE, *family, Attributes::new().text(nfta::TABLE_NAME, TABLE)))
            .collect();
        for (family, table, removal) in &self.iptables {
            let of_chain =
                |chain: &str| Attributes::new().text(nfta::RULE_TABLE, table).text(nfta::RULE_CHAIN, chain);
            for (chain, id) in &removal.rules {
                let handle = id.parse().map_err(io::Error::other)?;
                let rule = of_chain(chain).u64(nfta::RULE_HANDLE, handle);
                messages.push(message(NFT_MSG_DELRULE, *family, rule));
            }
            messages.extend(flushed(removal).map(|chain| message(NFT_MSG_DELRULE, *family, of_chain(chain))));
            messages.extend(removal.chains.iter().map(|chain| {
                let chain = Attributes::new().text(nfta::CHAIN_TABLE, table).text(nfta::CHAIN_NAME, chain);
                message(NFT_MSG_DELCHAIN, *family, chain)
            }));
        }
        let done = Nfnetlink::reopen()?.batch(NFNL_SUBSYS_NFTABLES, self.generation, &messages);
        done.map_err(|error| match error.raw_os_error() {
            Some(libc::ERESTART) => io::ErrorKind::Interrupted.into(),
            _ => error,
        })
    }
}

/// Chains that lose their rules, whether they are deleted or stay.
fn flushed(removal: &Removal) -> impl Iterator<Item = &str> {
    let emptied = removal.emptied.iter().map(|(chain, _)| chain.as_str());
    emptied.chain(removal.chains.iter().map(String::as_str))
}

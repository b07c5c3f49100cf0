//! What kube-proxy leaves behind when it ends, in all its modes: found by `lb check`, removed by
//! `lb cleanup --kube-proxy`. Otherwise these rules would continue to send packets to previous endpoints.

pub mod chains;
pub mod family;
pub mod host;
pub mod ipvs;
pub mod legacy;
pub mod nft;
mod phrase;
pub mod running;
mod xtables;

use std::io;

use anyhow::{Context, bail};

use crate::node::netdev::Netdev;
use family::NfFamily;

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    pub nft: nft::Found,
    pub legacy: Vec<legacy::Found>,
    pub ipvs: ipvs::Found,
}

/// Searches this network namespace, and changes nothing.
///
/// # Errors
/// The error of the kernel; `PermissionDenied` without CAP_NET_ADMIN.
pub async fn find(netdev: &Netdev) -> anyhow::Result<Leftovers> {
    Ok(Leftovers {
        nft: nft::find().context("read the rules of nftables")?,
        legacy: legacy::find().context("read the rules of iptables-legacy")?,
        ipvs: ipvs::find(netdev).await.context("look for what IPVS mode left")?,
    })
}

impl Leftovers {
    pub fn is_empty(&self) -> bool {
        self.nft.is_empty() && self.legacy.is_empty() && self.ipvs.is_empty()
    }

    /// A phrase for each finding.
    pub fn summary(&self) -> Vec<String> {
        let legacy = self.legacy.iter().map(legacy::Found::summary);
        self.nft.summary().into_iter().chain(legacy).chain(self.ipvs.summary()).collect()
    }
}

/// `lb cleanup --kube-proxy`.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Print what would be done, and change nothing.
    pub dry_run: bool,
    /// Clean up even if a kube-proxy runs.
    pub force: bool,
    /// Where `iptables-legacy-restore` is.
    pub host: host::Host,
}

impl Cleanup {
    /// Removes what kube-proxy left in this network namespace, and nothing else: each table in one transaction.
    /// Returns what was done, in words; for a dry run, the commands instead.
    ///
    /// # Errors
    /// If kube-proxy runs; then nothing was removed. If something could not be removed; then the rest was.
    pub async fn run(&self) -> anyhow::Result<String> {
        let running = running::running();
        if !running.is_empty() && !self.force && !self.dry_run {
            bail!(
                "kube-proxy still runs ({}) and would write its rules again: remove it first, or pass --force",
                running.join(", ")
            );
        }
        let (netdev, _) = Netdev::connect()?;
        let found = find(&netdev).await?;
        if self.dry_run {
            return Ok(self.commands(&found)?.join("\n"));
        }
        self.remove(&netdev, found).await
    }

    async fn remove(&self, netdev: &Netdev, found: Leftovers) -> anyhow::Result<String> {
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        let mut stays = stays(&found);
        match remove_nft(found.nft.clone()) {
            Ok(()) => removed.extend(found.nft.summary()),
            Err(error) => failed.push(format!("nftables: {error}")),
        }
        for found in &found.legacy {
            match self.remove_legacy(found) {
                Ok(held) => {
                    removed.push(found.summary());
                    stays.extend(held);
                }
                Err(error) => failed.push(format!("{}: {error:#}", found.summary())),
            }
        }
        let nothing = found.is_empty();
        let ipvs = found.ipvs.remove(netdev).await;
        removed.extend(ipvs.gone.summary());
        failed.extend(ipvs.failed);
        let removed = match removed.as_slice() {
            [] => "nothing was removed".to_owned(),
            phrases => format!("removed: {}", phrases.join("; ")),
        };
        if !failed.is_empty() {
            bail!("not everything that kube-proxy left could be removed: {}; {removed}", failed.join("; "));
        }
        if nothing {
            stays.insert(0, "kube-proxy left nothing to remove".to_owned());
        } else {
            stays.insert(0, removed);
        }
        Ok(stays.join("\n"))
    }

    fn commands(&self, found: &Leftovers) -> anyhow::Result<Vec<String>> {
        let mut lines = found.nft.commands();
        let mut stays = stays(found);
        for table in &found.legacy {
            let plan = legacy::Programs::find(table.family, &self.host)?.plan(&table.table)?;
            lines.push(plan.command());
            stays.extend(held(&plan.removal, "iptables-legacy", table.family, &table.table));
        }
        lines.extend(found.ipvs.commands());
        if lines.is_empty() {
            lines.push("# kube-proxy left nothing to remove".to_owned());
        }
        lines.extend(stays.into_iter().map(|line| format!("# {line}")));
        Ok(lines)
    }

    fn remove_legacy(&self, found: &legacy::Found) -> anyhow::Result<Vec<String>> {
        let programs = legacy::Programs::find(found.family, &self.host)?;
        let plan = programs.plan(&found.table)?;
        programs.apply(&plan)?;
        Ok(held(&plan.removal, "iptables-legacy", found.family, &found.table))
    }
}

/// Reads the rules again if another program changed one meanwhile.
fn remove_nft(mut found: nft::Found) -> io::Result<()> {
    const TRIES: usize = 10;
    for _ in 1..TRIES {
        match found.remove() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => found = nft::find()?,
            done => return done,
        }
    }
    found.remove().map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other("another program keeps changing rules; try again"),
        _ => error,
    })
}

/// A sentence for each thing that stays because others need it.
fn stays(found: &Leftovers) -> Vec<String> {
    let tables = found.nft.iptables.iter();
    let mut lines: Vec<String> =
        tables.flat_map(|(family, table, removal)| held(removal, "iptables-nft", *family, table)).collect();
    let servers = found.ipvs.foreign_servers.iter().map(ToString::to_string);
    let marks = found.ipvs.foreign_marks.iter().map(|mark| format!("--fwmark-service {mark}"));
    let servers: Vec<String> = servers.chain(marks).collect();
    if !servers.is_empty() {
        lines.push(format!(
            "IPVS virtual servers that do not look like kube-proxy's stay: {}",
            servers.join(", ")
        ));
    }
    lines
}

fn held(removal: &chains::Removal, variant: &str, family: NfFamily, table: &str) -> Vec<String> {
    let place = format!("{variant} {family} {table}");
    let kept = removal
        .kept
        .iter()
        .map(|(chain, user)| format!("{place}: {chain} stays, because {user} has packets masqueraded by it"));
    let emptied = removal.emptied.iter().map(|(chain, user)| {
        format!("{place}: {chain} stays without rules, because a rule in {user} jumps to it")
    });
    kept.chain(emptied).collect()
}

//! What kube-proxy leaves behind when it ends, in all its modes: found by `lb check`, removed by
//! `lb cleanup --kube-proxy`. It would go on to send packets to endpoints of the past.

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

/// Looks into this network namespace and changes nothing.
///
/// # Errors
/// The kernel's; `PermissionDenied` without CAP_NET_ADMIN.
pub async fn find(netdev: &Netdev) -> anyhow::Result<Leftovers> {
    Ok(Leftovers {
        nft: nft::find().context("read the rules of nftables")?,
        legacy: legacy::find().context("read the rules of iptables-legacy")?,
        ipvs: ipvs::find(netdev).await.context("look for what IPVS mode leaves")?,
    })
}

impl Leftovers {
    pub fn is_empty(&self) -> bool {
        self.nft.is_empty() && self.legacy.is_empty() && self.ipvs.is_empty()
    }

    /// What is there, a phrase each.
    pub fn summary(&self) -> Vec<String> {
        let legacy = self.legacy.iter().map(legacy::Found::summary);
        self.nft.summary().into_iter().chain(legacy).chain(self.ipvs.summary()).collect()
    }
}

/// `lb cleanup --kube-proxy`.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Also while a kube-proxy runs.
    pub force: bool,
    /// Where `iptables-legacy-restore` and `ipvsadm` are.
    pub host: host::Host,
}

impl Cleanup {
    /// Removes what kube-proxy left in this network namespace, and nothing else: each table in one transaction.
    /// Says what was done, or would be.
    ///
    /// # Errors
    /// While kube-proxy runs, before anything was removed. Or what could not be removed; the rest was.
    pub async fn run(&self) -> anyhow::Result<String> {
        let running = running::running();
        if !running.is_empty() && !self.force && !self.dry_run {
            bail!(
                "kube-proxy still runs ({}) and would write its rules anew: take it away first, or give --force",
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
        match found.ipvs.remove(netdev, &self.host).await {
            Ok(()) => removed.extend(found.ipvs.summary()),
            Err(error) => failed.push(format!("IPVS: {error:#}")),
        }
        let removed = match removed.as_slice() {
            [] => "nothing was removed".to_owned(),
            phrases => format!("removed: {}", phrases.join("; ")),
        };
        if !failed.is_empty() {
            bail!("not everything of kube-proxy's could be removed: {}; {removed}", failed.join("; "));
        }
        if found.is_empty() {
            stays.insert(0, "there was nothing of kube-proxy's".to_owned());
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
            lines.push("# there is nothing of kube-proxy's".to_owned());
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

/// Reads anew where somebody else changed a rule meanwhile.
fn remove_nft(mut found: nft::Found) -> io::Result<()> {
    const TRIES: usize = 10;
    for _ in 1..TRIES {
        match found.remove() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => found = nft::find()?,
            done => return done,
        }
    }
    found.remove().map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other("somebody changes rules all the time; try again"),
        _ => error,
    })
}

/// What is left for the sake of others, a sentence each.
fn stays(found: &Leftovers) -> Vec<String> {
    let tables = found.nft.iptables.iter();
    let mut lines: Vec<String> =
        tables.flat_map(|(family, table, removal)| held(removal, "iptables-nft", *family, table)).collect();
    if !found.ipvs.foreign_servers.is_empty() {
        let servers: Vec<String> = found.ipvs.foreign_servers.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "IPVS virtual servers stay that look like somebody else's: {}",
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
        .map(|(chain, user)| format!("{place}: {chain} stays, for {user} has packets masqueraded by it"));
    let emptied = removal.emptied.iter().map(|(chain, user)| {
        format!("{place}: {chain} stays without rules, for a rule in {user} jumps to it")
    });
    kept.chain(emptied).collect()
}

//! Programs on the node's links, as the links come and go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::Ebpf;
use tracing::{error, info, warn};

use crate::dataplane::attach::{self, Hook, Mode};
use crate::dataplane::lock;
use crate::dataplane::pins::Pins;
use crate::netdev::{Direction, Facts, Filter, Netdev, Overrides, Role, role};

/// The programs, and the links that they hang on.
pub struct Links {
    pub object: Ebpf,
    pins: Pins,
    netdev: Netdev,
    mode: Mode,
    roles: Overrides,
    /// By interface index: what hangs there, so that only changes are acted upon.
    attached: BTreeMap<u32, Attached>,
    /// How many links should have programs.
    wanted: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    facts: Facts,
    hook: Hook,
    /// Somebody else's clsact programs were there.
    foreign: usize,
}

impl Links {
    pub fn new(object: Ebpf, pins: Pins, netdev: Netdev, mode: Mode, roles: Overrides) -> Self {
        Self { object, pins, netdev, mode, roles, attached: BTreeMap::new(), wanted: 0 }
    }

    /// Number of links that have our programs.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Number of links that should have them, as of the last look.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Attaches to what is new, detaches from what is no pod's link any more. `false` where not all could be
    /// done: it is to be tried again.
    pub async fn reconcile(&mut self) -> bool {
        self.try_reconcile().await.unwrap_or_else(|failed| {
            error!("links: {failed:#}");
            false
        })
    }

    async fn try_reconcile(&mut self) -> anyhow::Result<bool> {
        let mut all = true;
        let links = self.netdev.links().await?;
        self.collect_stale(&links)?;
        self.wanted = links.iter().filter(|facts| role(facts, &self.roles).0 == Role::Pod).count();
        for facts in &links {
            let (role, reason) = role(facts, &self.roles);
            if role == Role::Pod {
                all &= self.reconcile_pod(facts, reason).await;
            } else if self.attached.remove(&facts.index).is_some() {
                info!(link = facts.name, "no longer a pod's link ({reason}): detached");
                self.detach(facts).await;
            }
        }
        Ok(all)
    }

    async fn reconcile_pod(&mut self, facts: &Facts, reason: &str) -> bool {
        let filters = match self.filters(facts.index).await {
            Ok(filters) => filters,
            Err(failed) => {
                warn!("{}: {failed:#}", facts.name);
                return false;
            }
        };
        let foreign = filters.iter().flatten().filter(|filter| !attach::is_ours(filter)).count();
        let ours = filters.iter().all(|filters| filters.iter().any(attach::is_ours));
        if self.attached.get(&facts.index).is_some_and(|known| {
            known.facts == *facts && known.foreign == foreign && (known.hook == Hook::Tcx || ours)
        }) {
            return true;
        }
        match attach::attach(&mut self.object, &self.pins, self.mode, facts, &filters) {
            Ok(hook) => {
                info!(link = facts.name, ?hook, "attached: {reason}");
                self.attached.insert(facts.index, Attached { facts: facts.clone(), hook, foreign });
                true
            }
            // It may have gone again meanwhile.
            Err(failed) => {
                warn!("{failed:#}");
                false
            }
        }
    }

    async fn filters(&self, index: u32) -> anyhow::Result<[Vec<Filter>; 2]> {
        Ok([
            self.netdev.filters(index, Direction::Ingress).await?,
            self.netdev.filters(index, Direction::Egress).await?,
        ])
    }

    async fn detach(&self, facts: &Facts) {
        if let Err(failed) = detach(&self.pins, &self.netdev, facts).await {
            warn!("{failed:#}");
        }
    }

    /// Pins of links whose interface is gone.
    fn collect_stale(&mut self, links: &[Facts]) -> anyhow::Result<()> {
        let there = |index: &u32| links.iter().any(|link| link.index == *index);
        self.attached.retain(|index, _| there(index));
        for (index, _) in self.pins.linked()?.iter().filter(|(index, _)| !there(index)) {
            for direction in Direction::BOTH {
                attach::unpin(&self.pins, *index, direction)?;
            }
        }
        Ok(())
    }
}

async fn detach(pins: &Pins, netdev: &Netdev, link: &Facts) -> anyhow::Result<()> {
    let mut ours = false;
    let mut others = false;
    for direction in Direction::BOTH {
        attach::unpin(pins, link.index, direction)?;
        let filters = netdev.filters(link.index, direction).await?;
        ours |= filters.iter().any(attach::is_ours);
        others |= filters.iter().any(|filter| !attach::is_ours(filter));
        attach::detach_clsact(&link.name, direction, &filters)?;
    }
    if ours && !others {
        netdev.remove_clsact(link.index).await;
    }
    Ok(())
}

/// `lb cleanup`: detaches from every link of this network namespace and removes the tables. Says what it did.
///
/// # Errors
/// While an agent runs, or where the kernel refuses.
pub async fn cleanup(pin_dir: PathBuf) -> anyhow::Result<String> {
    let pins = Pins::new(&pin_dir);
    let _lock = lock::take_existing(&pins)?;
    let tables = pins.in_force()?;
    let (netdev, _) = Netdev::connect()?;
    for link in netdev.links().await? {
        detach(&pins, &netdev, &link).await?;
    }
    pins.remove()?;
    Ok(match tables {
        Some(_) => format!("detached, and removed the tables in {}", pin_dir.display()),
        None => {
            format!("there were no tables in {}; no program of ours is left on a link", pin_dir.display())
        }
    })
}

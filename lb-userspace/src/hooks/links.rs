//! Keeps programs on the node's links while links come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aya::Ebpf;
use tracing::{error, info, warn};

use crate::dataplane::bridges::Bridges;
use crate::dataplane::hook::place::{Place, is_ours};
use crate::dataplane::hook::{self, Hook, Mode, clsact, tcx};
use crate::dataplane::migrate::{self, Migration};
use crate::dataplane::pins::Pins;
use crate::node::netdev::{Direction, Facts, Filter, Netdev};
use crate::node::role::{Overrides, Role, role};
use crate::observe::health::LinkHealth;

/// Number of attempts to swap the programs, because links may come and go meanwhile.
const SWAP_TRIES: u32 = 5;
const SWAP_AGAIN: Duration = Duration::from_millis(20);

/// The programs, and the links to which they are attached.
pub struct Links {
    bridges: Bridges,
    pub object: Ebpf,
    pins: Pins,
    netdev: Netdev,
    mode: Mode,
    roles: Overrides,
    /// What is attached to each link, by interface index, so that only changes cause work.
    attached: BTreeMap<u32, Attached>,
    /// Names of the links that should have programs, by interface index.
    wanted: BTreeMap<u32, String>,
    /// Those that had none after the last pass.
    missing: BTreeSet<u32>,
    /// Those that had none after the pass before it: a link that is about to go may lack programs once.
    missing_before: BTreeSet<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    facts: Facts,
    hook: Hook,
    /// Number of clsact programs of other owners that were there.
    foreign: usize,
}

impl Links {
    /// # Errors
    /// If the tables about bridges cannot be read.
    pub fn new(
        object: Ebpf,
        pins: Pins,
        netdev: Netdev,
        mode: Mode,
        roles: Overrides,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            bridges: Bridges::open(&pins)?,
            object,
            pins,
            netdev,
            mode,
            roles,
            attached: BTreeMap::new(),
            wanted: BTreeMap::new(),
            missing: BTreeSet::new(),
            missing_before: BTreeSet::new(),
        })
    }

    /// Number of links that have our programs.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Links that should have programs, and those that had none twice in a row.
    pub fn health(&self) -> LinkHealth {
        let missing = self.missing.intersection(&self.missing_before);
        let names = missing.filter_map(|index| self.wanted.get(index)).cloned();
        LinkHealth { wanted: self.wanted.len(), missing: names.collect() }
    }

    /// Returns a function for any thread that finds the links which have lost their programs since. It leaves out links
    /// by clsact, because netlink reports their changes.
    pub fn probe(&self) -> impl Fn() -> Vec<String> + Send + 'static {
        let pins = self.pins.clone();
        let on_tcx = self.attached.iter().filter(|(_, attached)| attached.hook == Hook::Tcx);
        let links: Vec<(u32, String)> =
            on_tcx.map(|(index, attached)| (*index, attached.facts.name.clone())).collect();
        move || {
            let lost = links.iter().filter(|(index, _)| !tcx::is_attached(&pins, *index) && exists(*index));
            lost.map(|(_, name)| name.clone()).collect()
        }
    }

    /// Attaches to new links of pods, and detaches from links that are no longer a pod's. Returns false if something
    /// failed and has to be tried again.
    pub async fn reconcile(&mut self) -> bool {
        self.try_reconcile().await.unwrap_or_else(|failed| {
            error!("cannot update the programs on links: {failed:#}");
            false
        })
    }

    /// Gives addresses on bridges back to the ports where the bridges have learned their hosts.
    pub async fn correct_hosts(&mut self) {
        if !self.bridges.have_hosts() {
            return;
        }
        let corrected = match self.netdev.stations().await {
            Ok(stations) => self.bridges.correct(&stations),
            Err(failed) => Err(failed),
        };
        match corrected {
            Ok(addresses) => {
                for address in addresses {
                    warn!(
                        "{address} was used by another port of its bridge, with the MAC address of its host"
                    );
                }
            }
            Err(failed) => warn!("cannot compare the hosts on bridges: {failed:#}"),
        }
    }

    /// Attaches the programs of a change of the tables to all links, and takes over the flows that no packet asked for
    /// meanwhile. Afterwards, [`Links::reconcile`] attaches the usual programs.
    ///
    /// # Errors
    /// If flows cannot be copied, or the previous tables cannot be removed.
    pub async fn migrate(&mut self, migration: Migration) -> anyhow::Result<()> {
        let Migration { plan, before, reading_through } = migration;
        let usual = std::mem::replace(&mut self.object, reading_through);
        let mut all = self.reconcile().await;
        for _ in 0..SWAP_TRIES {
            if all {
                break;
            }
            tokio::time::sleep(SWAP_AGAIN).await;
            all = self.reconcile().await;
        }
        self.object = usual;
        let links = std::mem::take(&mut self.attached).len();
        let copied = migrate::copy_flows(&plan, &before, &self.pins.tables())?;
        info!(links, entries = copied, "the tables were replaced, and their flows taken over");
        if all {
            before.remove()
        } else {
            warn!("a link still uses the previous tables; the next start of an agent takes over its flows");
            Ok(())
        }
    }

    async fn try_reconcile(&mut self) -> anyhow::Result<bool> {
        let mut all = true;
        let links = self.netdev.links().await?;
        self.collect_stale(&links)?;
        // Programs look for the bridge of the link to which they are attached.
        if let Err(failed) = self.bridges.update(&links) {
            error!("{failed:#}");
            all = false;
        }
        let wanted = links.iter().filter(|facts| role(facts, &self.roles).0 == Role::Pod);
        self.wanted = wanted.map(|facts| (facts.index, facts.name.clone())).collect();
        for facts in &links {
            let (role, reason) = role(facts, &self.roles);
            if role == Role::Pod {
                all &= self.reconcile_pod(facts, reason).await;
            } else if self.attached.remove(&facts.index).is_some() {
                info!(link = facts.name, "no longer a pod's link ({reason}): detached");
                self.detach(facts).await;
            }
        }
        let has_none = self.wanted.keys().filter(|index| !self.attached.contains_key(*index));
        self.missing_before = std::mem::replace(&mut self.missing, has_none.copied().collect());
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
        let foreign = filters.iter().flatten().filter(|filter| !is_ours(filter)).count();
        let ours = filters.iter().all(|filters| filters.iter().any(is_ours));
        if self.attached.get(&facts.index).is_some_and(|known| {
            let is_there = match known.hook {
                Hook::Tcx => tcx::is_attached(&self.pins, facts.index),
                Hook::Clsact => ours,
            };
            known.facts == *facts && known.foreign == foreign && is_there
        }) {
            return true;
        }
        match hook::attach(&mut self.object, &self.pins, self.mode, facts, &filters) {
            Ok(hook) => {
                info!(link = facts.name, ?hook, "attached: {reason}");
                if let Some(switch) = facts.switch() {
                    warn!(
                        link = facts.name,
                        "a port of {switch}: if no route of the node leads to this link, packets of the pod count as \
                         spoofed_source and reach no Service; `--source-check off` lets them"
                    );
                }
                self.attached.insert(facts.index, Attached { facts: facts.clone(), hook, foreign });
                true
            }
            // The link may have gone meanwhile.
            Err(failed) => {
                self.attached.remove(&facts.index);
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

    /// Removes the pins of links whose interface is gone.
    fn collect_stale(&mut self, links: &[Facts]) -> anyhow::Result<()> {
        let there = |index: &u32| links.iter().any(|link| link.index == *index);
        self.attached.retain(|index, _| there(index));
        for (index, _) in self.pins.linked()?.iter().filter(|(index, _)| !there(index)) {
            for direction in Direction::BOTH {
                tcx::detach(&self.pins, *index, direction)?;
            }
        }
        Ok(())
    }
}

/// Whether the interface is still in this network namespace.
fn exists(index: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call requires.
    !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null()
}

/// Detaches our programs from a link, and removes its clsact unless another program uses it.
///
/// # Errors
/// If a pin or a classifier cannot be removed.
pub async fn detach(pins: &Pins, netdev: &Netdev, link: &Facts) -> anyhow::Result<()> {
    let mut ours = false;
    let mut others = false;
    for direction in Direction::BOTH {
        tcx::detach(pins, link.index, direction)?;
        let filters = netdev.filters(link.index, direction).await?;
        ours |= filters.iter().any(is_ours);
        others |= filters.iter().any(|filter| !is_ours(filter));
        clsact::detach(Place { link, direction, filters: &filters })?;
    }
    if ours && !others {
        netdev.remove_clsact(link.index).await;
    }
    Ok(())
}

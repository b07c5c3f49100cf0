//! Whether the proxy is healthy, and whether load balancers may send traffic to this node.
//!
//! The rules are those of k/k pkg/proxy/healthcheck/proxy_health.go: a proxy is healthy if no update has waited for
//! longer than twice its sync period, and therefore also if it is idle. Ours is stricter in two points: programs must
//! be on every link that should have them, and on a node without tables of an earlier agent, `/healthz` waits for the
//! first state.

use std::time::Duration;

use super::moment::Moment;
use crate::objects::node::Node;

/// The facts that determine health. All times are given by the caller.
#[derive(Clone, Debug)]
pub struct Health {
    /// Twice kube-proxy's `syncPeriod`.
    timeout: Duration,
    /// When the tables last matched the objects.
    updated: Option<Moment>,
    /// When the oldest change began to wait for the tables.
    queued: Option<Moment>,
    /// Whether tables of an earlier agent serve until the first state.
    inherited: bool,
    eligibility: Eligibility,
    links: LinkHealth,
    /// Why the host's own sockets have no programs.
    host_sockets: Option<String>,
    /// That the flow table is nearly full.
    flows: Option<String>,
}

/// Whether load balancers may send traffic to this node (KEP-3836).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eligibility {
    /// There is no Node object.
    #[default]
    NodeUnknown,
    /// The Node has a `deletionTimestamp`, or the taint `ToBeDeletedByClusterAutoscaler`.
    NodeLeaving,
    Eligible,
}

/// Programs on links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkHealth {
    /// Links that should have programs.
    pub wanted: usize,
    /// Names of the links that should have programs but have none.
    pub missing: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            updated: None,
            queued: None,
            inherited: false,
            eligibility: Eligibility::default(),
            links: LinkHealth::default(),
            host_sockets: None,
            flows: None,
        }
    }
}

impl Health {
    /// Sets the timeout: twice the sync period of the configuration.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Notes that the tables had services when the agent started.
    pub fn inherit(&mut self) {
        self.inherited = true;
    }

    /// Notes that a change waits for the tables.
    pub fn queue(&mut self, now: Moment) {
        self.queued.get_or_insert(now);
    }

    /// Notes that no change waits any longer.
    pub fn update(&mut self, now: Moment) {
        self.queued = None;
        self.updated = Some(now);
    }

    /// Sets the agent's own Node, as the model knows it.
    pub fn set_node(&mut self, node: Option<&Node>) {
        self.eligibility = match node {
            None => Eligibility::NodeUnknown,
            Some(node) if node.is_being_deleted || node.is_leaving => Eligibility::NodeLeaving,
            Some(_) => Eligibility::Eligible,
        };
    }

    /// Sets the state of the links, as found.
    pub fn set_links(&mut self, links: LinkHealth) {
        self.links = links;
    }

    /// Sets the reason why the host's own sockets lack the programs that they should have. A restart would not help, so
    /// the reason is a complaint, but the agent stays healthy.
    pub fn set_host_sockets(&mut self, complaint: Option<String>) {
        self.host_sockets = complaint;
    }

    /// Sets what is to be said about the flow table. The agent stays healthy.
    pub fn set_flows(&mut self, complaint: Option<String>) {
        self.flows = complaint;
    }

    /// Notes links that lost their programs.
    pub fn lose_links(&mut self, lost: Vec<String>) {
        for link in lost {
            if !self.links.missing.contains(&link) {
                self.links.missing.push(link);
            }
        }
    }

    pub fn links(&self) -> &LinkHealth {
        &self.links
    }

    pub fn eligibility(&self) -> Eligibility {
        self.eligibility
    }

    /// When the tables last matched the objects.
    pub fn updated(&self) -> Option<Moment> {
        self.updated
    }

    /// How long the oldest change has waited for the tables.
    pub fn waiting(&self, now: Moment) -> Option<Duration> {
        self.queued.map(|queued| now.mono.saturating_duration_since(queued.mono))
    }

    /// Whether the agent is healthy, for `/livez` and the health checks of Services. If it is not, a restart or another
    /// node might help.
    pub fn is_healthy(&self, now: Moment) -> bool {
        self.links.missing.is_empty() && self.waiting(now).is_none_or(|waiting| waiting < self.timeout)
    }

    /// Whether nothing was ever programmed on this node.
    pub fn is_blank(&self) -> bool {
        self.updated.is_none() && !self.inherited
    }

    /// What is wrong, in words; empty if nothing is.
    pub fn complaints(&self, now: Moment) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.is_blank() {
            complaints.push("no first state yet: waiting for the objects of every kind".to_owned());
        }
        if let Some(waiting) = self.waiting(now).filter(|waiting| *waiting >= self.timeout) {
            complaints
                .push(format!("a change has waited for {} s to get into the tables", waiting.as_secs()));
        }
        for link in &self.links.missing {
            complaints.push(format!("no program on {link}"));
        }
        complaints.extend(self.host_sockets.clone());
        complaints.extend(self.flows.clone());
        match self.eligibility {
            Eligibility::Eligible => {}
            Eligibility::NodeUnknown => complaints.push("there is no Node object for this node".to_owned()),
            Eligibility::NodeLeaving => {
                complaints.push(
                    "the Node is being deleted: load balancers should send traffic elsewhere".to_owned(),
                );
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(moment: Moment, seconds: u64) -> Moment {
        Moment { mono: moment.mono + Duration::from_secs(seconds), ..moment }
    }

    #[test]
    fn an_update_may_wait_for_twice_the_sync_period() {
        let start = Moment::now();
        let mut health = Health::default();
        assert!(health.is_healthy(after(start, 1000)), "idle");
        health.queue(start);
        health.queue(after(start, 59));
        assert!(health.is_healthy(after(start, 59)));
        assert!(!health.is_healthy(after(start, 60)), "the oldest counts");
        health.update(after(start, 61));
        assert!(health.is_healthy(after(start, 1000)));
    }

    #[test]
    fn a_link_without_programs_is_not_healthy() {
        let mut health = Health::default();
        health.set_links(LinkHealth { wanted: 2, missing: vec!["veth1".into()] });
        assert!(!health.is_healthy(Moment::now()));
        health.set_links(LinkHealth { wanted: 2, missing: vec![] });
        assert!(health.is_healthy(Moment::now()));
    }

    #[test]
    fn tables_of_a_former_agent_serve_before_the_first_state() {
        let mut health = Health::default();
        assert!(health.is_blank());
        health.inherit();
        assert!(!health.is_blank());
    }
}

//! Which service owns what in the tables: the indexes that keep a plan's work proportional to its change.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Addr, Endpoint, FrontendKey, Port};

use super::regions::Region;
use crate::objects::name::ServicePortName;

/// One tree of each kind for all services, ordered by service id: a collection for each service would cost more than
/// its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    ids: BTreeMap<ServicePortName, u32>,
    frontends: BTreeSet<(u32, FrontendKey)>,
    backends: BTreeMap<(u32, Endpoint), u32>,
    /// The region of the slots of the record in force; absent if both sets are empty.
    regions: BTreeMap<u32, Region>,
    /// Services whose record in force cannot be trusted and has to be written again.
    damaged: BTreeSet<u32>,
    /// Services in a damaged table that have no usable name.
    pub(super) nameless: BTreeSet<u32>,
    /// Backends in use in a damaged table that their service does not know.
    pub(super) strays: Vec<u32>,
}

/// What belonged to a service id.
pub(super) struct Owned {
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) backends: Vec<u32>,
    pub(super) region: Option<Region>,
}

impl Owners {
    pub(super) fn service(&self, name: &ServicePortName) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ServicePortName> {
        self.ids.keys()
    }

    pub(super) fn insert(&mut self, name: ServicePortName, service: u32) {
        self.ids.insert(name, service);
    }

    pub(super) fn rename(&mut self, before: &ServicePortName, after: ServicePortName) {
        if let Some(service) = self.ids.remove(before) {
            self.ids.insert(after, service);
        }
    }

    pub(super) fn remove(&mut self, service: u32, name: Option<&ServicePortName>) -> Owned {
        if let Some(name) = name.filter(|name| self.service(name) == Some(service)) {
            self.ids.remove(name);
        }
        self.nameless.remove(&service);
        self.damaged.remove(&service);
        let frontends: Vec<FrontendKey> = self.frontends(service).collect();
        for key in &frontends {
            self.frontends.remove(&(service, *key));
        }
        let backends: Vec<(Endpoint, u32)> = self.backends(service).collect();
        for (endpoint, _) in &backends {
            self.backends.remove(&(service, *endpoint));
        }
        Owned {
            frontends,
            backends: backends.into_iter().map(|(_, id)| id).collect(),
            region: self.regions.remove(&service),
        }
    }

    pub(super) fn frontends(&self, service: u32) -> impl Iterator<Item = FrontendKey> {
        let first = (service, FrontendKey::new(Addr::UNSPECIFIED, Port::new(0), 0));
        self.frontends.range(first..).take_while(move |(owner, _)| *owner == service).map(|(_, key)| *key)
    }

    pub(super) fn add_frontend(&mut self, service: u32, key: FrontendKey) {
        self.frontends.insert((service, key));
    }

    pub(super) fn remove_frontend(&mut self, service: u32, key: FrontendKey) {
        self.frontends.remove(&(service, key));
    }

    pub(super) fn backends(&self, service: u32) -> impl Iterator<Item = (Endpoint, u32)> {
        let first = (service, Endpoint::new(Addr::UNSPECIFIED, Port::new(0)));
        let own = self.backends.range(first..).take_while(move |((owner, _), _)| *owner == service);
        own.map(|((_, endpoint), id)| (*endpoint, *id))
    }

    pub(super) fn backend(&self, service: u32, endpoint: &Endpoint) -> Option<u32> {
        self.backends.get(&(service, *endpoint)).copied()
    }

    pub(super) fn add_backend(&mut self, service: u32, endpoint: Endpoint, id: u32) {
        self.backends.insert((service, endpoint), id);
    }

    pub(super) fn remove_backend(&mut self, service: u32, endpoint: Endpoint) {
        self.backends.remove(&(service, endpoint));
    }

    pub(super) fn region(&self, service: u32) -> Option<Region> {
        self.regions.get(&service).copied()
    }

    /// Notes that the record now in force refers to this region, and can be trusted.
    pub(super) fn set_region(&mut self, service: u32, region: Option<Region>) {
        self.damaged.remove(&service);
        match region {
            Some(region) => self.regions.insert(service, region),
            None => self.regions.remove(&service),
        };
    }

    pub(super) fn is_damaged(&self, service: u32) -> bool {
        self.damaged.contains(&service)
    }

    pub(super) fn set_damaged(&mut self, service: u32) {
        self.damaged.insert(service);
    }
}

//! Who owns what in the tables: the indexes that keep a plan's work proportional to its change.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Endpoint, FrontendKey};

use super::regions::Region;
use crate::desired::ServicePortName;

#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    ids: BTreeMap<ServicePortName, u32>,
    services: BTreeMap<u32, Owned>,
    /// Services in the tables that nothing names, from a damaged table.
    pub(super) nameless: BTreeSet<u32>,
    /// Backends in use that their service does not know, from a damaged table.
    pub(super) strays: Vec<u32>,
}

/// What belongs to one service id.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    pub(super) frontends: BTreeSet<FrontendKey>,
    pub(super) backends: BTreeMap<Endpoint, u32>,
    /// Where the slots of the record in force lie; `None` for empty sets.
    pub(super) region: Option<Region>,
    /// The record in force cannot be trusted and is to be written anew.
    pub(super) damaged: bool,
}

impl Owners {
    pub(super) fn service(&self, name: &ServicePortName) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ServicePortName> {
        self.ids.keys()
    }

    pub(super) fn of(&mut self, service: u32) -> &mut Owned {
        self.services.entry(service).or_default()
    }

    pub(super) fn insert(&mut self, name: ServicePortName, service: u32) {
        self.ids.insert(name, service);
        self.services.insert(service, Owned::default());
    }

    pub(super) fn remove(&mut self, service: u32, name: Option<&ServicePortName>) -> Owned {
        if let Some(name) = name.filter(|name| self.service(name) == Some(service)) {
            self.ids.remove(name);
        }
        self.nameless.remove(&service);
        self.services.remove(&service).unwrap_or_default()
    }
}

//! Where a program is attached: one direction of one link.

use aya::programs::TcAttachType;
use lb_common::names;

use crate::node::netdev::{Direction, Facts, Filter};

/// One direction of one link, and the classifiers that are attached there by clsact.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub link: &'a Facts,
    pub direction: Direction,
    pub filters: &'a [Filter],
}

impl<'a> Place<'a> {
    /// The name of the program that belongs there.
    pub(super) fn program(self) -> &'static str {
        let link = self.link;
        match (link.bridge().is_some(), self.direction) {
            (false, Direction::Ingress) if link.peer_elsewhere => names::POD_INGRESS,
            (false, Direction::Ingress) => names::TAP_INGRESS,
            (false, Direction::Egress) => names::POD_EGRESS,
            (true, Direction::Ingress) if link.peer_elsewhere => names::PORT_INGRESS,
            (true, Direction::Ingress) => names::TAP_PORT_INGRESS,
            (true, Direction::Egress) => names::PORT_EGRESS,
        }
    }

    /// Our classifiers there.
    pub(super) fn ours(self) -> impl Iterator<Item = &'a Filter> {
        self.filters.iter().filter(|filter| is_ours(filter))
    }
}

pub(in crate::dataplane) fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Whether a classifier is a program of ours.
pub fn is_ours(filter: &Filter) -> bool {
    filter.name.as_deref().is_some_and(|name| names::ON_LINKS.contains(&name))
}

//! The world of `lb-userspace/tests/rules` with packets.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use lb_userspace::desired::outcome::Client;
use lb_userspace::desired::{Desired, DesiredPort};
use lb_userspace::model::Rules;
use lb_userspace::objects::event::Event;

#[path = "../../../lb-userspace/tests/rules/world.rs"]
#[allow(dead_code, reason = "the other crate uses what this one does not")]
mod pure;

use crate::packets::Packets;
pub use pure::{DOWN, LAST, READY, VIP, World as Pure, address, endpoint, ends, node, service, slice};

/// A model that tests look at, and a second one that gets the same events and whose tables packets meet: so a test
/// sees the same as without packets.
pub struct World {
    pure: Pure,
    packets: RefCell<Packets>,
}

impl World {
    pub fn new(yaml: &str) -> Self {
        Self::with(Rules::default(), yaml)
    }

    pub fn with(rules: Rules, yaml: &str) -> Self {
        let packets = Packets::new(Pure::with(rules.clone(), yaml)).unwrap();
        Self { pure: Pure::with(rules, yaml), packets: packets.into() }
    }

    pub fn addresses(&mut self, addresses: &[&str]) {
        self.pure.addresses(addresses);
        self.packets.get_mut().model.addresses(addresses);
    }

    pub fn event(&mut self, event: Event) {
        self.pure.event(event.clone());
        self.packets.get_mut().model.event(event);
    }

    pub fn apply(&mut self, yaml: &str) {
        self.pure.apply(yaml);
        self.packets.get_mut().model.apply(yaml);
    }

    pub fn desired(&mut self) -> Desired {
        self.packets.get_mut().ask_all().unwrap();
        self.pure.desired()
    }

    pub fn port(&mut self) -> DesiredPort {
        self.packets.get_mut().ask_all().unwrap();
        self.pure.port()
    }

    pub fn notices(&mut self) -> Vec<String> {
        self.packets.get_mut().ask_all().unwrap();
        self.pure.notices()
    }

    pub fn tcp(&self, client: Client, source: &str, destination: &str) -> String {
        self.packets.borrow_mut().ask_from(client, source, destination).unwrap();
        self.pure.tcp(client, source, destination)
    }

    pub fn tcp_from_all(&self, destination: &str) -> [String; 3] {
        self.packets.borrow_mut().ask_to(destination).unwrap();
        self.pure.tcp_from_all(destination)
    }
}

impl Deref for World {
    type Target = Pure;

    fn deref(&self) -> &Pure {
        &self.pure
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Pure {
        &mut self.pure
    }
}

pub fn keys(world: &mut World) -> Vec<String> {
    world.packets.get_mut().ask_all().unwrap();
    pure::keys(world)
}

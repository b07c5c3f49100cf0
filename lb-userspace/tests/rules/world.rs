//! A model that is fed with manifests, and short ways to write manifests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::{Addr, Port, Proto};
use lb_userspace::desired::outcome::Client;
use lb_userspace::desired::{Desired, DesiredPort};
use lb_userspace::model::lookup::{Lookup, Packet};
use lb_userspace::model::{Model, Rules};
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::source::manifests::parse;

pub fn address(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// A model of node `n1` that is fed with manifests.
pub struct World {
    pub model: Model,
}

impl World {
    pub fn new(yaml: &str) -> Self {
        Self::with(Rules::default(), yaml)
    }

    pub fn with(rules: Rules, yaml: &str) -> Self {
        let mut world = Self { model: Model::with_rules("n1", rules) };
        world.list(yaml);
        world
    }

    /// Sets the addresses of the node's interfaces.
    pub fn addresses(&mut self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.event(Event::Addresses(addresses));
    }

    pub fn event(&mut self, event: Event) {
        self.model.apply(event);
    }

    /// The outcome for the first packet of a TCP connection: the last bytes of the endpoints that may receive it, or
    /// the verdict.
    pub fn tcp(&self, client: Client, source: &str, destination: &str) -> String {
        let destination: SocketAddr = destination.parse().unwrap();
        let found = self.model.lookup(&Packet {
            client,
            source: address(source),
            destination: destination.ip().into(),
            port: Port::new(destination.port()),
            proto: Proto::Tcp,
        });
        match found {
            Lookup::Endpoints { set, .. } => format!("{:?}", ends(&set)),
            Lookup::Nothing => "nothing".to_owned(),
            Lookup::Reject => "reject".to_owned(),
            Lookup::Drop => "drop".to_owned(),
        }
    }

    /// The outcomes for a pod, a process of the node, and a client elsewhere.
    pub fn tcp_from_all(&self, destination: &str) -> [String; 3] {
        let is_v6 = destination.starts_with('[');
        let sources = if is_v6 {
            ["fd00::9", "fd00::10", "2001:db8::9"]
        } else {
            ["10.244.1.9", "10.0.0.1", "203.0.113.9"]
        };
        let clients = Client::ALL.into_iter().zip(sources);
        let found: Vec<String> =
            clients.map(|(client, source)| self.tcp(client, source, destination)).collect();
        found.try_into().unwrap()
    }

    pub fn list(&mut self, yaml: &str) {
        for event in [Event::Service(Change::Init), Event::Slice(Change::Init), Event::Node(Change::Init)] {
            self.model.apply(event);
        }
        self.model.apply(Event::ServiceCidr(Change::Init));
        self.apply(yaml);
        self.model.apply(Event::ServiceCidr(Change::InitDone));
        self.model.apply(Event::Service(Change::InitDone));
        self.model.apply(Event::Slice(Change::InitDone));
        self.model.apply(Event::Node(Change::InitDone));
    }

    pub fn apply(&mut self, yaml: &str) {
        for object in parse(&Arc::from("test.yaml"), yaml).unwrap().objects {
            self.model.apply(object.applied());
        }
    }

    pub fn desired(&mut self) -> Desired {
        self.model.desired()
    }

    /// The only desired service port.
    pub fn port(&mut self) -> DesiredPort {
        let mut ports: Vec<_> = self.desired().services.into_values().flatten().collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
        ports.remove(0)
    }

    /// The lasting notices, without the names of their files.
    pub fn notices(&mut self) -> Vec<String> {
        self.desired();
        let notices = self.model.notices().map(|n| format!("{} {n}", n.severity).replace("test.yaml: ", ""));
        notices.collect()
    }
}

/// A Service `s` in namespace `default` with a TCP port 80; `fields` go into its spec.
pub fn service(fields: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n  ports: [{{port: 80}}]\n{}\n",
        indent(fields, "  ")
    )
}

pub const VIP: &str = "clusterIP: 10.96.0.1";

/// An IPv4 slice of `s` with port 8080; `endpoints` are flow mappings, one on each line.
pub fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: {name}\n  \
         labels: {{kubernetes.io/service-name: s}}\nports: [{{port: 8080}}]\nendpoints:\n{}\n",
        indent(endpoints, "- ")
    )
}

pub fn node(zone: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
    )
}

pub fn endpoint(last: u8, rest: &str) -> String {
    format!("{{addresses: [10.0.0.{last}], {rest}}}\n")
}

pub fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}")).collect::<Vec<_>>().join("\n")
}

/// The last bytes of the addresses, in ascending order.
pub fn ends<'a>(set: impl IntoIterator<Item = &'a lb_common::Endpoint>) -> Vec<u8> {
    set.into_iter().map(|endpoint| endpoint.addr.octets[15]).collect()
}

pub fn keys(world: &mut World) -> Vec<String> {
    let ports = world.desired().services.into_values().flatten();
    let keys = ports.flat_map(|port| port.frontends.into_keys());
    keys.map(|key| std::net::SocketAddr::new(key.addr.into(), key.port.host()).to_string()).collect()
}

pub const READY: &str = "conditions: {ready: true}";
pub const LAST: &str = "conditions: {ready: false, serving: true, terminating: true}";
pub const DOWN: &str = "conditions: {ready: false, serving: false}";

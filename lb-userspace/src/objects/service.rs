//! A Service, reduced to the fields that are used.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use lb_common::{Addr, Port, Proto};

use super::addresses::{cluster_ips, external_ips, load_balancer_ips, source_ranges};
use super::name::{Family, Named, ObjectName};
use super::notice::Severity;
use super::wire::protocol;
use crate::objects::notice::Problem;

/// The label that names the proxy of a Service if that is not kube-proxy (KEP-2447).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// The compact form of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ObjectName,
    /// The file of the object; `None` if the object came from the Kubernetes API.
    pub file: Option<Arc<str>>,
    /// Seconds since 1970, from `creationTimestamp`.
    pub created: Option<i64>,
    pub kind: ServiceKind,
    /// The label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<String>,
    /// Whether `clusterIP` is None or empty.
    pub is_headless: bool,
    /// The usable ClusterIPs, at most one of each family. Empty if the Service's name does not fit the tables.
    pub cluster_ips: Vec<Addr>,
    /// Addresses in `status.loadBalancer` that nodes serve.
    pub load_balancer_ips: Vec<Addr>,
    /// All valid externalIPs, whether allowed or not.
    pub external_ips: Vec<Addr>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    pub ports: Vec<ServicePort>,
    pub internal_policy: Policy,
    /// Local only if the Service is meant for clients outside the cluster (k/k pkg/api/v1/service/util.go,
    /// ExternalPolicyLocal).
    pub external_policy: Policy,
    /// The port on which load balancers ask whether this node has local endpoints; zero means none.
    pub health_check_node_port: Port,
    /// Seconds; 0 means no affinity.
    pub affinity_timeout: u32,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the Service has one unnamed port.
    pub name: Arc<str>,
    pub proto: Proto,
    pub port: Port,
    /// Zero means none.
    pub node_port: Port,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Cluster,
    Local,
}

impl Service {
    /// Which Services count follows k/k cmd/kube-proxy/app/server.go and pkg/proxy/util/utils.go (ShouldSkipService,
    /// GetClusterIPByFamily); affinity follows the defaults of the API (10,800 s).
    pub fn new(service: v1::Service, file: Option<Arc<str>>) -> Self {
        let metadata = service.metadata;
        let spec = service.spec.unwrap_or_default();
        let mut problems = Vec::new();
        let mut compact = Self {
            name: ObjectName::new(
                metadata.namespace.unwrap_or_else(|| "default".to_owned()),
                metadata.name.unwrap_or_default(),
            ),
            file,
            created: metadata.creation_timestamp.map(|time| time.0.as_second()),
            kind: kind(spec.type_.as_deref(), &mut problems),
            proxy_name: metadata.labels.unwrap_or_default().remove(PROXY_NAME),
            is_headless: is_headless(&spec),
            cluster_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            external_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            internal_policy: policy(
                "internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref(),
                &mut problems,
            ),
            external_policy: policy(
                "externalTrafficPolicy",
                spec.external_traffic_policy.as_deref(),
                &mut problems,
            ),
            health_check_node_port: port_number(spec.health_check_node_port),
            affinity_timeout: affinity(&spec, &mut problems),
            problems: Vec::new(),
        };
        if compact.is_headless || compact.kind == ServiceKind::ExternalName {
            return compact;
        }
        if is_label(&compact.name.name) && is_label(&compact.name.namespace) {
            compact.cluster_ips = cluster_ips(&spec, &mut problems);
            compact.load_balancer_ips = load_balancer_ips(service.status.as_ref(), &mut problems);
            compact.external_ips = external_ips(&spec, &mut problems);
            compact.source_ranges = source_ranges(&spec, &mut problems);
            compact.ports = ports(spec.ports.unwrap_or_default(), &mut problems);
            compact.settle_external_policy(spec.external_ips.is_some_and(|ips| !ips.is_empty()));
            if !compact.cluster_ips.is_empty() {
                compact.say_what_is_open(&mut problems);
                compact.say_what_is_not_done(&mut problems);
            }
        } else {
            problems.push(Problem::new(Severity::Error, "name or namespace is not a DNS label (RFC 1123)"));
        }
        compact.problems = problems;
        compact.cluster_ips.shrink_to_fit();
        compact.ports.shrink_to_fit();
        compact
    }

    pub(crate) fn vips(&self, family: Family) -> impl Iterator<Item = Addr> {
        self.load_balancer_ips.iter().copied().filter(move |ip| Family::of(*ip) == family)
    }

    pub(crate) fn ranges(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.source_ranges.iter().filter(move |net| net.addr().is_ipv4() == (family == Family::Ipv4))
    }

    fn settle_external_policy(&mut self, has_external_ips: bool) {
        let is_external = match self.kind {
            ServiceKind::NodePort | ServiceKind::LoadBalancer => true,
            ServiceKind::ClusterIp => has_external_ips,
            ServiceKind::ExternalName => false,
        };
        if !is_external {
            self.external_policy = Policy::Cluster;
        }
    }

    /// Reports what an operator who sets `loadBalancerSourceRanges`, or needs health checks, may not expect.
    fn say_what_is_open(&self, problems: &mut Vec<Problem>) {
        for family in Family::BOTH {
            let has_vip = self.vips(family).next().is_some();
            if has_vip && !self.source_ranges.is_empty() && self.ranges(family).next().is_none() {
                problems.push(Problem::new(
                    Severity::Warning,
                    format!(
                        "loadBalancerSourceRanges has no {family} range: its {family} load balancer addresses are \
                         open to all"
                    ),
                ));
            }
        }
        let is_checked = self.kind == ServiceKind::LoadBalancer && self.external_policy == Policy::Local;
        if is_checked && self.health_check_node_port == Port::default() {
            problems.push(Problem::new(
                Severity::Warning,
                "no healthCheckNodePort: load balancers cannot see which nodes have endpoints",
            ));
        }
    }

    /// Reports parts of a Service that the packet path does not support yet, before failed traffic shows it.
    fn say_what_is_not_done(&self, problems: &mut Vec<Problem>) {
        let mut say = |text: &str| problems.push(Problem::new(Severity::Warning, text));
        if !self.load_balancer_ips.is_empty()
            || !self.external_ips.is_empty()
            || self.ports.iter().any(|port| port.node_port != Port::default())
        {
            say(
                "its node ports, load balancer addresses and externalIPs are served to pods and processes of the node, but not yet to clients outside the cluster",
            );
        }
    }
}

impl Named for Service {
    fn object_name(&self) -> &ObjectName {
        &self.name
    }
}

fn is_headless(spec: &v1::ServiceSpec) -> bool {
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
    spec.cluster_ip.as_ref().or(first).is_none_or(|ip| ip.is_empty() || ip == "None")
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

fn ports(ports: Vec<v1::ServicePort>, problems: &mut Vec<Problem>) -> Vec<ServicePort> {
    let mut usable: Vec<ServicePort> = Vec::new();
    for port in ports {
        let name: Arc<str> = port.name.unwrap_or_default().into();
        let refused = |text: String| Problem::new(Severity::Error, format!("port \"{name}\": {text}"));
        let proto = match protocol(port.protocol.as_deref()) {
            Ok(proto) => proto,
            Err(error) => {
                problems.push(refused(error));
                continue;
            }
        };
        let number = match u16::try_from(port.port) {
            Ok(number) if number > 0 => number,
            _ => {
                problems.push(refused(format!("number {} is not within 1-65535", port.port)));
                continue;
            }
        };
        if name.len() > 63 || usable.iter().any(|other| other.name == name && other.proto == proto) {
            problems.push(refused("the name is too long, or another port has the same name".into()));
            continue;
        }
        let node_port = port_number(port.node_port);
        usable.push(ServicePort { name, proto, port: Port::new(number), node_port });
    }
    usable
}

/// Zero if there is no number, or no port can have it.
fn port_number(number: Option<i32>) -> Port {
    Port::new(number.and_then(|number| u16::try_from(number).ok()).unwrap_or(0))
}

fn kind(text: Option<&str>, problems: &mut Vec<Problem>) -> ServiceKind {
    match text {
        None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        Some(other) => {
            problems.push(Problem::new(
                Severity::Warning,
                format!("type: \"{other}\" is not known; ClusterIP is used"),
            ));
            ServiceKind::ClusterIp
        }
    }
}

fn policy(field: &str, text: Option<&str>, problems: &mut Vec<Problem>) -> Policy {
    match text {
        None | Some("" | "Cluster") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            problems.push(Problem::new(
                Severity::Warning,
                format!("{field}: \"{other}\" is not known; Cluster is used"),
            ));
            Policy::Cluster
        }
    }
}

/// The API's default for `timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

fn affinity(spec: &v1::ServiceSpec, problems: &mut Vec<Problem>) -> u32 {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => 0,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
            let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
            if (1..=86_400).contains(&seconds) {
                return seconds.unsigned_abs();
            }
            problems.push(Problem::new(
                Severity::Warning,
                format!("timeoutSeconds {seconds} is not within 1-86400; {AFFINITY_SECONDS} is used"),
            ));
            AFFINITY_SECONDS.unsigned_abs()
        }
        Some(other) => {
            problems.push(Problem::new(
                Severity::Warning,
                format!("sessionAffinity: \"{other}\" is not known; None is used"),
            ));
            0
        }
    }
}

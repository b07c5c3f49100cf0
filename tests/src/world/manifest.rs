//! Services and their EndpointSlices as the YAML that `kubectl get -o yaml` prints.

use super::NODE_NAME;
use super::pod::Pod;
use anyhow::{Context, Result};
use lb_common::Proto;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A folder of manifests. Each object has its own file, which is replaced as a whole.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a Service with its slices, or replaces it.
    pub fn write(&self, service: &Service) -> Result<()> {
        self.write_text(&service.file_name(), &service.yaml())
    }

    pub fn remove(&self, service: &Service) -> Result<()> {
        let path = self.folder.join(service.file_name());
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Writes any text as a file, atomically: a reader sees either the old text or the new text.
    pub fn write_text(&self, file_name: &str, text: &str) -> Result<()> {
        // The agent does not read files with such a name.
        let new = self.folder.join(format!(".{file_name}.new"));
        fs::write(&new, text).with_context(|| new.display().to_string())?;
        let path = self.folder.join(file_name);
        fs::rename(&new, &path).with_context(|| path.display().to_string())
    }

    pub fn write_node(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut yaml =
            format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec: {{}}\nstatus:\n");
        yaml += "  addresses:\n";
        for address in addresses {
            yaml += &format!("  - address: {}\n    type: InternalIP\n", quoted(address));
        }
        self.write_text(&format!("{name}.yaml"), &yaml)
    }
}

/// A ClusterIP Service and the endpoints behind it.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    /// One or two addresses, of different families.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub endpoints: Vec<Endpoint>,
    /// Seconds of session affinity.
    pub affinity: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Port {
    /// Empty if the Service has only one port.
    pub name: String,
    pub proto: Proto,
    pub port: u16,
    pub target: u16,
}

/// A pod behind a Service, in both families, with its conditions.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub pod: String,
    pub addresses: Vec<IpAddr>,
    pub node: String,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl From<&Pod> for Endpoint {
    fn from(pod: &Pod) -> Self {
        Self {
            pod: pod.name.clone(),
            addresses: vec![pod.v4.into(), pod.v6.into()],
            node: NODE_NAME.into(),
            ready: true,
            serving: true,
            terminating: false,
        }
    }
}

impl Endpoint {
    pub fn not_ready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }

    /// The pod is shutting down but still answers.
    pub fn terminating(self) -> Self {
        Self { ready: false, serving: true, terminating: true, ..self }
    }

    pub fn on_node(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }
}

impl Service {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: "default".into(),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            affinity: None,
        }
    }

    pub fn vip(mut self, address: impl Into<IpAddr>) -> Self {
        self.cluster_ips.push(address.into());
        self
    }

    /// Adds 10.96.0.`host` and fd00:10:96::`host` (with its decimal digits).
    pub fn vips(self, host: u8) -> Self {
        let v6 = format!("fd00:10:96::{host}").parse::<IpAddr>().expect("digits are also hexadecimal digits");
        self.vip([10, 96, 0, host]).vip(v6)
    }

    pub fn tcp(self, port: u16, target: u16) -> Self {
        self.port(Proto::Tcp, port, target)
    }

    pub fn udp(self, port: u16, target: u16) -> Self {
        self.port(Proto::Udp, port, target)
    }

    fn port(mut self, proto: Proto, port: u16, target: u16) -> Self {
        let name = format!("{}-{port}", proto.to_string().to_lowercase());
        self.ports.push(Port { name, proto, port, target });
        self
    }

    /// `sessionAffinity: ClientIP`.
    pub fn affinity(self, seconds: u32) -> Self {
        Self { affinity: Some(seconds), ..self }
    }

    /// Replaces the endpoints.
    pub fn endpoints<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    fn file_name(&self) -> String {
        format!("{}.{}.yaml", self.namespace, self.name)
    }

    /// The Service and an EndpointSlice for each of its families, as one multi-document file.
    pub fn yaml(&self) -> String {
        let mut yaml = self.service_yaml();
        for v4 in [true, false] {
            if self.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4) {
                yaml += "---\n";
                yaml += &self.slice_yaml(v4);
            }
        }
        yaml
    }

    fn service_yaml(&self) -> String {
        let Self { name, namespace, cluster_ips, .. } = self;
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
        );
        if let Some(first) = cluster_ips.first() {
            yaml += &format!("  clusterIP: {}\n  clusterIPs:\n", quoted(first));
        }
        for ip in cluster_ips {
            yaml += &format!("  - {}\n", quoted(ip));
        }
        yaml += "  internalTrafficPolicy: Cluster\n  ipFamilies:\n";
        for ip in cluster_ips {
            yaml += &format!("  - {}\n", family(ip.is_ipv4()));
        }
        let policy = if cluster_ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        yaml += &format!("  ipFamilyPolicy: {policy}\n  ports:\n");
        for Port { name, proto, port, target } in &self.ports {
            yaml += &format!(
                "  - name: {name}\n    port: {port}\n    protocol: {proto}\n    targetPort: {target}\n"
            );
        }
        yaml += &format!("  selector:\n    app: {name}\n  type: ClusterIP\n");
        yaml += &match self.affinity {
            None => "  sessionAffinity: None\n".to_owned(),
            Some(seconds) => format!(
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}\n"
            ),
        };
        yaml += "status:\n  loadBalancer: {}\n";
        yaml
    }

    fn slice_yaml(&self, v4: bool) -> String {
        let Self { name, namespace, .. } = self;
        let family = family(v4);
        let mut yaml = format!(
            "addressType: {family}\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  labels:\n    \
             kubernetes.io/service-name: {name}\n  name: {name}-{}\n  namespace: {namespace}\n",
            family.to_lowercase()
        );
        let lines: String = self.endpoints.iter().map(|endpoint| endpoint.yaml(v4)).collect();
        yaml += &if lines.is_empty() { "endpoints: []\n".into() } else { format!("endpoints:\n{lines}") };
        yaml += "ports:\n";
        for Port { name, proto, target, .. } in &self.ports {
            write!(yaml, "- name: {name}\n  port: {target}\n  protocol: {proto}\n")
                .expect("writing to a String cannot fail");
        }
        yaml
    }
}

impl Endpoint {
    fn yaml(&self, v4: bool) -> String {
        let Self { pod, node, ready, serving, terminating, .. } = self;
        let Some(address) = self.addresses.iter().find(|ip| ip.is_ipv4() == v4) else { return String::new() };
        format!(
            "- addresses:\n  - {}\n  conditions:\n    ready: {ready}\n    serving: {serving}\n    terminating: \
             {terminating}\n  nodeName: {node}\n  targetRef:\n    kind: Pod\n    name: {pod}\n    namespace: \
             default\n",
            quoted(address)
        )
    }
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// An address as a YAML string. An address with colons must be quoted.
fn quoted(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"{v6}\""),
    }
}

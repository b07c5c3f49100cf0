//! `KubeProxyConfiguration`, `kubeproxy.config.k8s.io/v1alpha1`: fields of k8s.io/kube-proxy config/v1alpha1/types.go
//! (1.36), defaults of k/k pkg/proxy/apis/config/v1alpha1/defaults.go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::duration::GoDuration;
use super::remark::Remark;
use crate::model::NodePortAddresses;

/// kube-proxy's default ports.
pub(super) const HEALTHZ_PORT: u16 = 10256;
pub(super) const METRICS_PORT: u16 = 10249;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// A configuration file. [`KubeProxyConfiguration::set_defaults`] fills in what the file does not set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    /// Not used here, kept as it is.
    pub logging: Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: IpTables,
    pub ipvs: Ipvs,
    pub nftables: NfTables,
    pub winkernel: WinKernel,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub windows_run_as_service: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpTables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NfTables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WinKernel {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

impl KubeProxyConfiguration {
    /// Parses the text of a file. Returns a remark for each unknown field. As in Go, null is the same as absent, and
    /// only the first document counts.
    ///
    /// # Errors
    /// If the text has another version or kind, or a field has another type.
    pub fn parse(text: &str) -> anyhow::Result<(Self, Vec<Remark>)> {
        let document = serde_yaml_ng::Deserializer::from_str(text).next().context("the file is empty")?;
        let mut value = Value::deserialize(document)?;
        drop_nulls(&mut value);
        for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let found = value.get(field).and_then(Value::as_str).unwrap_or_default();
            ensure!(found == expected, "{field} is \"{found}\", expected \"{expected}\"");
        }
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
        let config =
            serde_ignored::deserialize(tracked, |path| unknown.push(Remark::unknown(path.to_string())));
        Ok((config.with_context(|| track.path().to_string())?, unknown))
    }

    /// Fills in what is not set, as kube-proxy does.
    pub fn set_defaults(&mut self) {
        self.api_version = API_VERSION.to_owned();
        self.kind = KIND.to_owned();
        default(&mut self.bind_address, "0.0.0.0");
        let (healthz, metrics) = match self.bind_address.parse() {
            Ok(IpAddr::V6(_)) => ("[::]", "[::1]"),
            _ => ("0.0.0.0", "127.0.0.1"),
        };
        default(&mut self.healthz_bind_address, &format!("{healthz}:{HEALTHZ_PORT}"));
        default(&mut self.metrics_bind_address, &format!("{metrics}:{METRICS_PORT}"));
        self.oom_score_adj.get_or_insert(-999);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        default_time(&mut self.iptables.sync_period, 30);
        default_time(&mut self.iptables.min_sync_period, 1);
        default_time(&mut self.ipvs.sync_period, 30);
        self.nftables.masquerade_bit.get_or_insert(14);
        default_time(&mut self.nftables.sync_period, 30);
        default_time(&mut self.nftables.min_sync_period, 1);
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_secs(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_secs(3600));
        default_time(&mut self.config_sync_period, 15 * 60);
        default(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        self.set_logging_defaults();
    }

    /// As `SetRecommendedLoggingConfiguration` of k8s.io/component-base logs/api/v1 does.
    fn set_logging_defaults(&mut self) {
        if !self.logging.is_object() {
            self.logging = json!({});
        }
        for (field, value) in [
            ("format", json!("text")),
            ("flushFrequency", json!("5s")),
            ("verbosity", json!(0)),
            ("options", json!({"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}})),
        ] {
            let found = &mut self.logging[field];
            let is_unset = found.is_null() || *found == json!("") || *found == json!(0);
            if is_unset {
                *found = value;
            }
        }
    }

    /// The sync period of the mode.
    pub fn sync_period(&self) -> Duration {
        match self.mode.as_str() {
            "ipvs" => self.ipvs.sync_period.0,
            "nftables" => self.nftables.sync_period.0,
            _ => self.iptables.sync_period.0,
        }
    }
}

/// Parses `nodePortAddresses`, which `--nodeport-addresses` sets too.
pub(super) fn parse_node_ports(list: &[String]) -> anyhow::Result<NodePortAddresses> {
    if list.is_empty() {
        return Ok(NodePortAddresses::default());
    }
    list.join(",").parse().map_err(anyhow::Error::msg).context("nodePortAddresses")
}

fn default(field: &mut String, value: &str) {
    if field.is_empty() {
        field.push_str(value);
    }
}

fn default_time(field: &mut GoDuration, seconds: u64) {
    if field.is_zero() {
        *field = GoDuration::from_secs(seconds);
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

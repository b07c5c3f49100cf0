//! `lb services --manifests`: everything that the rules decide, whether or not the tables have a place for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::command::view::shape::{HealthCheckView, RulesView, ServiceView, affinity, algorithm, frontend};
use crate::desired::DesiredPort;
use crate::model::{HealthCheck, Model, Unserved};
use crate::objects::name::{Family, ServicePortName};
use crate::objects::service::Service;
use crate::objects::wire::authority;
use lb_common::{Endpoint, FrontendKind, Prefix, ServiceRecord};

/// Every port of every Service and, with empty `protocol` and `family`, the Services that are not served. Sorted by
/// name. Call this function after [`Model::desired`].
pub fn of_model(model: &Model) -> Vec<ServiceView> {
    let mut views = Vec::new();
    for service in model.services() {
        let unserved = service.unserved(model.rules());
        let notices: Vec<String> = model
            .notices_of(&service.name)
            .map(|notice| format!("{}: {}", notice.severity, notice.text))
            .collect();
        if unserved.is_some() {
            views.push(unserved_view(service, unserved, notices));
            continue;
        }
        for (name, port) in model.decided(&service.name) {
            let check = model.health_checks().get(&(service.name.clone(), name.family));
            let ranges = service.source_ranges(name.family);
            let rules = rules(model, &name, &port, &ranges, check, notices.clone());
            views.push(view(&name, &port, rules));
        }
    }
    views
}

fn rules(
    model: &Model,
    name: &ServicePortName,
    port: &DesiredPort,
    ranges: &BTreeSet<Prefix>,
    check: Option<&HealthCheck>,
    notices: Vec<String>,
) -> RulesView {
    let has_node_port = port.frontends.values().any(|kind| *kind == FrontendKind::NodePort);
    let addresses = model.node_port_addresses().filter(|_| has_node_port).unwrap_or_default();
    let (loopback, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .filter(|addr| Family::of(*addr) == name.family)
        .partition(|addr| IpAddr::from(*addr).is_loopback());
    RulesView {
        source_ranges: ranges.iter().map(ToString::to_string).collect(),
        source_ranges_admit_vips: !port.source_ranges.is_subset(ranges),
        node_port_addresses: others.iter().map(ToString::to_string).collect(),
        node_port_on_loopback: !loopback.is_empty(),
        health_check: check
            .map(|check| HealthCheckView { port: check.port.host(), local_endpoints: check.local_endpoints }),
        unserved: None,
        notices,
    }
}

fn view(name: &ServicePortName, port: &DesiredPort, rules: RulesView) -> ServiceView {
    let texts = |set: &BTreeSet<Endpoint>| -> Vec<String> {
        set.iter().map(|endpoint| authority(endpoint.addr, endpoint.port)).collect()
    };
    let has_sets = (!port.cluster.is_empty(), !port.local.is_empty());
    let frontends = port.frontends.iter().map(|(key, kind)| frontend(key, *kind, port.flags, has_sets));
    let record = ServiceRecord {
        flags: port.flags,
        affinity_timeout: port.affinity_timeout,
        algorithm: port.algorithm as u8,
        ..ServiceRecord::default()
    };
    let view = ServiceView::new(name, &record, frontends.collect(), texts(&port.cluster), texts(&port.local));
    ServiceView { rules: Some(rules), ..view }
}

fn unserved_view(service: &Service, unserved: Option<Unserved>, notices: Vec<String>) -> ServiceView {
    let text = unserved.map(|unserved| match unserved {
        Unserved::Headless => "headless",
        Unserved::ExternalName => "ExternalName",
        Unserved::OtherProxy => "other proxy",
        Unserved::Unusable => "unusable",
    });
    let policy = |policy| match policy {
        crate::objects::service::Policy::Cluster => "Cluster".to_owned(),
        crate::objects::service::Policy::Local => "Local".to_owned(),
    };
    ServiceView {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        port_name: String::new(),
        protocol: String::new(),
        family: String::new(),
        frontends: Vec::new(),
        cluster_endpoints: Vec::new(),
        local_endpoints: Vec::new(),
        internal_traffic_policy: policy(service.internal_policy),
        external_traffic_policy: policy(service.external_policy),
        session_affinity: affinity(service.affinity_timeout),
        algorithm: algorithm(lb_common::Algorithm::Random.number()),
        rules: Some(RulesView {
            source_ranges: Vec::new(),
            source_ranges_admit_vips: false,
            node_port_addresses: Vec::new(),
            node_port_on_loopback: false,
            health_check: None,
            unserved: text.map(str::to_owned),
            notices,
        }),
    }
}

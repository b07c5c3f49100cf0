//! The configuration file and flags of kube-proxy.

use std::time::Duration;

use lb_userspace::config::{Flags, Settings};
use serde_json::{Value, json};

/// The ConfigMap `kube-proxy` of a cluster that kubeadm created.
const KUBEADM: &str = include_str!("fixtures/kube-proxy-kubeadm.conf");

fn settings(text: &str, flags: Flags) -> anyhow::Result<Settings> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Settings::new(&Flags { config: Some(file.path().to_owned()), ..flags })
}

fn head(rest: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{rest}")
}

fn remarks(settings: &Settings) -> Vec<String> {
    settings.remarks.iter().map(ToString::to_string).collect()
}

#[test]
fn what_kubeadm_writes_is_understood() {
    let settings = settings(KUBEADM, Flags::default()).unwrap();
    assert_eq!(settings.kubeconfig.as_deref().unwrap(), "/var/lib/kube-proxy/kubeconfig.conf");
    assert_eq!(settings.hostname_override, None);
    assert_eq!(settings.healthz.unwrap().to_string(), "0.0.0.0:10256");
    assert_eq!(settings.metrics.unwrap().to_string(), "127.0.0.1:10249");
    assert!(!settings.hard_fail);
    assert_eq!(settings.node_port_addresses, Vec::<String>::new());
    assert_eq!(settings.health_timeout, Duration::from_secs(60));
    assert_eq!(settings.oom_score_adj, Some(-999));
    // kubeadm fills in the pod range. Nothing is missing without it.
    assert_eq!(
        remarks(&settings),
        [
            "configuration: clusterCIDR: not needed: the link on which a packet arrives shows whether a pod of this node sent it"
        ]
    );
    assert!(settings.remarks.iter().all(|remark| !remark.is_warning));
}

#[test]
fn without_a_file_kube_proxys_defaults_hold() {
    let settings = Settings::new(&Flags::default()).unwrap();
    assert_eq!(settings.healthz.unwrap().to_string(), "0.0.0.0:10256");
    assert_eq!(settings.oom_score_adj, None, "no score is set by default");
    assert_eq!(remarks(&settings), Vec::<String>::new());
}

#[test]
fn fields_that_apply_are_used() {
    let text = head(
        "hostnameOverride: node-7\nbindAddress: fd00::7\nbindAddressHardFail: true\nmode: nftables\n\
         healthzBindAddress: 192.0.2.7\nnodePortAddresses: [10.0.0.0/8, 'fd00::/64']\noomScoreAdj: -500\n\
         nftables: {syncPeriod: 1m30s}\n",
    );
    let settings = settings(&text, Flags::default()).unwrap();
    assert_eq!(settings.hostname_override.as_deref(), Some("node-7"));
    assert_eq!(settings.healthz.unwrap().to_string(), "192.0.2.7:10256", "the default port is kube-proxy's");
    assert_eq!(settings.metrics.unwrap().to_string(), "[::1]:10249", "the family is that of bindAddress");
    assert!(settings.hard_fail);
    assert_eq!(settings.node_port_addresses, ["10.0.0.0/8", "fd00::/64"]);
    assert_eq!(settings.oom_score_adj, Some(-500));
    assert_eq!(settings.health_timeout, Duration::from_secs(180));
}

#[test]
fn flags_win_over_the_file() {
    let text = head("hostnameOverride: node-7\nmetricsBindAddress: 0.0.0.0:10249\noomScoreAdj: -500\n");
    let flags = Flags {
        hostname_override: Some(" Node-8 ".into()),
        healthz_bind_address: Some(String::new()),
        metrics_bind_address: Some("127.0.0.1:9".into()),
        kubeconfig: Some("/k".into()),
        oom_score_adj: Some(0),
        nodeport_addresses: Some("primary".into()),
        ..Flags::default()
    };
    let settings = settings(&text, flags).unwrap();
    assert_eq!(
        settings.hostname_override.as_deref(),
        Some("node-8"),
        "the name is trimmed and in lower case, as in kube-proxy"
    );
    assert_eq!(settings.healthz, None, "an empty flag turns the server off");
    assert_eq!(settings.metrics.unwrap().to_string(), "127.0.0.1:9");
    assert_eq!(settings.kubeconfig.as_deref().unwrap(), "/k");
    assert_eq!(settings.oom_score_adj, Some(0));
    assert_eq!(settings.node_port_addresses, ["primary"]);
}

#[test]
fn what_cannot_apply_and_what_is_not_known_is_named_once() {
    let text = head(
        "mode: ipvs\nipvs: {scheduler: wrr, strictARP: true, tcpTimeout: 5s}\nconntrack: {maxPerCore: 0, turbo: true}\n\
         featureGates: {A: true, B: false}\ndetectLocalMode: NodeCIDR\nsurprise: 1\n",
    );
    let settings = settings(&text, Flags::default()).unwrap();
    let found: Vec<(&str, bool)> =
        settings.remarks.iter().map(|r| (r.field.as_str(), r.is_warning)).collect();
    assert_eq!(
        found,
        [
            ("conntrack.turbo", true),
            ("surprise", true),
            ("conntrack.maxPerCore", true),
            ("detectLocalMode", false),
            ("featureGates.A", true),
            ("featureGates.B", true),
            ("ipvs.scheduler", true),
            ("ipvs.strictARP", false),
            ("ipvs.tcpTimeout", true),
            ("mode", false),
        ]
    );
    assert!(remarks(&settings)[1].contains("surprise: not a field of KubeProxyConfiguration v1alpha1"));
}

#[test]
fn what_is_refused_says_where() {
    for (text, expected) in [
        ("apiVersion: v1\nkind: ConfigMap\n".to_owned(), "apiVersion is \"v1\""),
        (head("bindAddress: here\n"), "bindAddress: \"here\" is not an IP address"),
        (head("metricsBindAddress: ':'\n"), "metricsBindAddress: \":\" is not ADDRESS or ADDRESS:PORT"),
        (head("nodePortAddresses: [10.0.0.0/8, somewhere]\n"), "nodePortAddresses: "),
        (head("oomScoreAdj: 1001\n"), "oomScoreAdj: 1001 is not within"),
        (head("configSyncPeriod: soon\n"), "configSyncPeriod"),
        (String::new(), "apiVersion is \"\""),
    ] {
        let error = settings(&text, Flags::default()).map(drop).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}\ninstead of\n{expected}");
    }
}

#[test]
fn the_effective_configuration_is_written_whole_and_reads_the_same() {
    let flags = Flags { hostname_override: Some("n1".into()), ..Flags::default() };
    let first = settings(KUBEADM, flags).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    first.write(file.path()).unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let value: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(value["hostnameOverride"], "n1");
    assert_eq!(value["iptables"]["syncPeriod"], "30s");
    assert_eq!(value["configSyncPeriod"], "15m0s");
    assert_eq!(value["conntrack"]["tcpEstablishedTimeout"], "24h0m0s");
    assert_eq!(value["conntrack"]["maxPerCore"], 32768);
    assert_eq!(value["clientConnection"]["contentType"], "application/vnd.kubernetes.protobuf");
    assert_eq!(value["clientConnection"]["qps"], json!(5.0));
    assert_eq!(value["nodePortAddresses"], Value::Null);
    // The names are sorted, as Kubernetes writes YAML.
    let names: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    let second = settings(&text, Flags::default()).unwrap();
    assert_eq!(second.effective, first.effective);
}

//! For random Services, kube-proxy's own compiled code decides what `lb services --manifests` shows.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use lb_userspace::command::{services, view};
use serde_json::{Value, json};
use xtask::control_plane;

const WORLDS: usize = 600;
const SEED: u64 = 20_261_121;
const NODE: &str = "n1";
const NODE_ADDRESSES: [&str; 5] = ["192.168.77.1/24", "10.55.0.1/16", "fd77::1/64", "127.0.0.1/8", "::1/128"];
/// Values of `--nodeport-addresses`; an empty list selects all addresses.
const NODE_PORT_ADDRESSES: [&[&str]; 5] = [
    &[],
    &["10.55.0.0/16"],
    &["192.168.77.1/32", "fd77::/64"],
    &["10.55.0.0/16", "::/0"],
    &["172.16.0.0/12"],
];
/// One range contains the node, some contain every address, some are written as users write them.
const RANGES: [&str; 9] = [
    "192.0.2.0/24",
    " 10.0.0.0/8",
    "2001:db8::/32 ",
    "0.0.0.0/0",
    "::/0",
    "192.168.77.0/24",
    "203.0.113.7/32",
    "fd77::/64",
    "10.1.2.3/8",
];

#[test]
fn kube_proxys_own_code_decides_the_same() -> Result<()> {
    let program = control_plane::rules()?;
    if !program.is_file() {
        let has_go = Command::new("go").arg("version").output().is_ok();
        ensure!(!has_go, "{} is missing: `cargo xtask test` builds it", program.display());
        eprintln!("NOT RUN: the comparison with kube-proxy's own code needs Go, which is not installed");
        return Ok(());
    }
    let mut rng = Rng::with_seed(SEED);
    let worlds: Vec<World> = (0..WORLDS).map(|_| World::random(&mut rng)).collect();
    let lines: Vec<String> = worlds.iter().map(|world| world.line().to_string()).collect();
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its standard input")?;
    let writer = thread::spawn(move || input.write_all(lines.join("\n").as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer ended early"))??;
    ensure!(output.status.success(), "kube-proxy's rules: {}", output.status);

    let theirs: Vec<Vec<Value>> =
        String::from_utf8(output.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(theirs.len() == WORLDS, "{} of {WORLDS} worlds were answered", theirs.len());
    let (mut ports, mut endpoints) = (0, 0);
    for (number, (world, theirs)) in worlds.iter().zip(theirs).enumerate() {
        let ours = rows(world.view()?);
        let theirs = rows(theirs);
        for (key, theirs) in &theirs {
            let ours = ours.get(key).unwrap_or(&Value::Null);
            assert_eq!(ours, theirs, "world {number}, {key}: lb on the left, kube-proxy on the right");
            endpoints += usize::from(theirs["clusterEndpoints"] != json!([]));
        }
        assert_eq!(ours.len(), theirs.len(), "world {number}: {:?}", ours.keys());
        ports += ours.len();
    }
    println!("{ports} service ports of {WORLDS} worlds, {endpoints} with endpoints: no difference");
    ensure!(ports > WORLDS && endpoints > WORLDS, "too little was compared");
    Ok(())
}

/// Rows by name, with lists as sets, and without the fields that kube-proxy does not report.
fn rows(rows: Vec<Value>) -> BTreeMap<String, Value> {
    const FIELDS: [&str; 9] = [
        "frontends",
        "clusterEndpoints",
        "localEndpoints",
        "internalTrafficPolicy",
        "externalTrafficPolicy",
        "sessionAffinity",
        "sourceRanges",
        "nodePortAddresses",
        "healthCheck",
    ];
    let served = rows.into_iter().filter(|row| row["unserved"].is_null());
    let named = served.map(|row| {
        let part = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let key = ["namespace", "name", "portName", "protocol", "family"].map(part).join("/");
        let fields = FIELDS.map(|field| (field.to_owned(), sorted(&row[field])));
        (key, Value::Object(fields.into_iter().collect()))
    });
    named.collect()
}

fn sorted(value: &Value) -> Value {
    let Some(list) = value.as_array() else { return value.clone() };
    let mut list = list.clone();
    list.sort_by_key(Value::to_string);
    list.dedup();
    list.into()
}

struct World {
    zone: Option<&'static str>,
    node_port_addresses: &'static [&'static str],
    services: Vec<Value>,
    slices: Vec<Value>,
}

impl World {
    fn random(rng: &mut Rng) -> Self {
        let services: Vec<Value> = (1..=rng.usize(1..7)).map(|number| service(rng, number)).collect();
        let slices = services.iter().flat_map(|service| slices(rng, service)).collect();
        Self {
            zone: one(rng, &[None, Some("z1"), Some("z1"), Some("z2")]),
            node_port_addresses: one(rng, &NODE_PORT_ADDRESSES),
            services,
            slices,
        }
    }

    /// The input line for kube-proxy.
    fn line(&self) -> Value {
        json!({
            "node": NODE, "zone": self.zone.unwrap_or_default(), "nodeAddresses": NODE_ADDRESSES,
            "nodePortAddresses": self.node_port_addresses, "services": self.services, "slices": self.slices,
        })
    }

    fn view(&self) -> Result<Vec<Value>> {
        let folder = tempfile::tempdir()?;
        let labels = self.zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.168.77.1"}, {"type": "InternalIP", "address": "fd77::1"},
            ]},
        });
        let objects = [node].into_iter().chain(self.services.iter().chain(&self.slices).cloned());
        let yaml: Vec<String> = objects.map(|object| object.to_string()).collect();
        fs::write(folder.path().join("world.yaml"), yaml.join("\n---\n"))?;
        let mut rules = lb_userspace::model::Rules::default();
        if !self.node_port_addresses.is_empty() {
            rules.node_port_addresses =
                self.node_port_addresses.join(",").parse().map_err(anyhow::Error::msg)?;
        }
        let addresses = NODE_ADDRESSES.iter().filter_map(|address| address.split('/').next());
        let addresses = addresses.map(|address| Ok(address.parse::<std::net::IpAddr>()?.into()));
        let addresses = Some(addresses.collect::<Result<Vec<_>>>()?);
        let node = view::files::Viewpoint { name: NODE.into(), addresses, rules };
        let views = services::of_model(&view::files::model_from_manifests(folder.path(), node)?);
        Ok(serde_json::from_value(serde_json::to_value(views)?)?)
    }
}

fn one<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

/// True in `percent` of a hundred cases.
fn often(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// A Service as the API server admits it: with defaults filled in and its own addresses.
fn service(rng: &mut Rng, number: usize) -> Value {
    let metadata =
        |labels: Value| json!({"namespace": "shop", "name": format!("s{number}"), "labels": labels});
    let kind = one(rng, &["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"]);
    let (is_balanced, is_external) = (kind == "LoadBalancer", kind != "ClusterIP");
    let [v4, v6] = [format!("10.96.0.{}", 10 + number), format!("fd00:10:96::{:x}", 10 + number)];
    let families = one(rng, &[vec!["IPv4"], vec!["IPv6"], vec!["IPv4", "IPv6"], vec!["IPv6", "IPv4"]]);
    let ips: Vec<&String> = families.iter().map(|family| if *family == "IPv4" { &v4 } else { &v6 }).collect();
    let has_node_ports = is_external && !(is_balanced && often(rng, 30));
    let protocols = ["TCP", "TCP", "UDP", "SCTP"];
    let mut ports: Vec<Value> = (0..rng.usize(1..4))
        .map(|port| {
            json!({
                "name": format!("p{port}"), "port": 80 + port, "targetPort": 8080 + port,
                "protocol": one(rng, &protocols),
                "nodePort": if has_node_ports { 30_000 + 10 * number + port } else { 0 },
            })
        })
        .collect();
    if ports.len() == 1 && rng.bool() {
        ports[0]["name"] = json!("");
    }
    let number_of_external_ips = if often(rng, 50) { rng.usize(1..3) } else { 0 };
    let external_ips: Vec<String> = (0..number_of_external_ips)
        .map(|k| 10 * number + k)
        .map(|host| one(rng, &[format!("198.51.100.{host}"), format!("2001:db8:2::{host:x}")]))
        .collect();
    let is_local = rng.bool();
    let mut spec = json!({
        "type": kind, "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "ports": ports,
        "internalTrafficPolicy": one(rng, &[Value::Null, json!("Cluster"), json!("Local")]),
        "sessionAffinity": "None", "externalIPs": external_ips,
    });
    if is_external || !external_ips.is_empty() {
        spec["externalTrafficPolicy"] = json!(if is_local { "Local" } else { "Cluster" });
    }
    if often(rng, 30) {
        spec["sessionAffinity"] = json!("ClientIP");
        let seconds = one(rng, &[1, 60, 10_800, 86_400]);
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    let mut ingress = Vec::new();
    if is_balanced {
        if rng.bool() {
            let ranges: Vec<&str> = (0..rng.usize(1..4)).map(|_| one(rng, &RANGES)).collect();
            spec["loadBalancerSourceRanges"] = json!(ranges);
        }
        if is_local {
            spec["healthCheckNodePort"] = json!(31_000 + number);
        }
        for k in 0..rng.usize(..3) {
            let ips =
                [format!("203.0.113.{}", 10 * number + k), format!("2001:db8:1::{:x}", 10 * number + k)];
            let mode = one(rng, &[Value::Null, json!("VIP"), json!("Proxy")]);
            let balancer = json!({"ip": one(rng, &ips), "ipMode": mode});
            ingress.push(if often(rng, 10) { json!({"hostname": "lb.example"}) } else { balancer });
        }
    }
    let mut labels = json!({});
    if often(rng, 5) {
        labels = json!({"service.kubernetes.io/service-proxy-name": "other"});
    } else if often(rng, 5) {
        // This label has a meaning for slices only.
        labels = json!({"service.kubernetes.io/headless": ""});
    }
    match rng.u8(..25) {
        0 => spec = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}),
        1 => spec = json!({"type": "ExternalName", "externalName": "else.example", "ports": ports}),
        _ => {}
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(labels), "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn slices(rng: &mut Rng, service: &Value) -> Vec<Value> {
    let hints = one(rng, &["", "", "zones", "nodes", "zones and nodes"]);
    let mut slices = Vec::new();
    for family in ["IPv4", "IPv6"] {
        let mut known = BTreeMap::new();
        for number in 0..rng.usize(..4) {
            let endpoints: Vec<Value> =
                (0..rng.usize(..6)).map(|_| endpoint(rng, family, hints, &mut known)).collect();
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let ports: Vec<Value> = ports.filter_map(|port| slice_port(rng, port)).collect();
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            let mut labels = json!({"kubernetes.io/service-name": name});
            if often(rng, 3) {
                labels["service.kubernetes.io/headless"] = json!("");
            } else if often(rng, 3) {
                labels = json!({});
            }
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"namespace": "shop", "name": format!("{name}-{family}-{number}"), "labels": labels},
                "ports": ports, "endpoints": endpoints,
            }));
        }
    }
    slices
}

/// The number of a named `targetPort` may differ from slice to slice.
fn slice_port(rng: &mut Rng, port: &Value) -> Option<Value> {
    if often(rng, 5) {
        return None;
    }
    let number = one(rng, &[&port["targetPort"], &port["targetPort"], &port["port"]]);
    let number = if often(rng, 3) { &Value::Null } else { number };
    Some(json!({"name": port["name"], "protocol": port["protocol"], "port": number}))
}

/// An endpoint with one of a few addresses. A second copy of an endpoint equals the first one or terminates; of two
/// copies that differ in another way, kube-proxy takes either.
fn endpoint(rng: &mut Rng, family: &str, hints: &str, known: &mut BTreeMap<u8, Value>) -> Value {
    let host = rng.u8(1..13);
    if let Some(known) = known.get(&host) {
        let mut copy = known.clone();
        if copy["conditions"]["terminating"] != true && rng.bool() {
            copy["conditions"]["terminating"] = json!(true);
            copy["conditions"]["ready"] = json!(false);
        }
        return copy;
    }
    let address =
        if family == "IPv4" { format!("10.244.1.{host}") } else { format!("fd00:10:244:1::{host:x}") };
    let condition = [Value::Null, json!(false), json!(true), json!(true)];
    let mut made = json!({
        "addresses": [address],
        "conditions": {
            "ready": one(rng, &condition), "serving": one(rng, &condition),
            "terminating": one(rng, &[Value::Null, json!(false), json!(false), json!(true)]),
        },
        "nodeName": one(rng, &[Value::Null, json!("n1"), json!("n1"), json!("n2"), json!("n3")]),
    });
    if !often(rng, 5) {
        if hints.contains("zones") && !often(rng, 5) {
            let zones = one(rng, &[vec!["z1"], vec!["z1"], vec!["z2"], vec!["z2", "z3"]]);
            made["hints"]["forZones"] = zones.into_iter().map(|zone| json!({"name": zone})).collect();
        }
        if hints.contains("nodes") && !often(rng, 5) {
            made["hints"]["forNodes"] = json!([{"name": one(rng, &["n1", "n2", "n3"])}]);
        }
    }
    known.insert(host, made.clone());
    made
}

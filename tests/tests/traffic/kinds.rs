//! Frontends of every kind, used by pods.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::load::{Kind, Requests};
use lb_tests::world::{Family, Layout, NODE_V4, NODE_V6};
use socket2::{Domain, Socket, Type};

use crate::stage::{PORT, PROTOS, Stage, TARGET, service, vip};

const NODE_PORT: u16 = 30_080;
const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8:1::10"];
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:2::10"];

/// A Service of type LoadBalancer with Local policies for clients outside the cluster, and its endpoint.
fn manifest(endpoint: [IpAddr; 2]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kinds, namespace: default}}\nspec:\n  type: LoadBalancer\n  \
         clusterIPs: ['10.96.0.40', 'fd00:10:96::40']\n  clusterIP: '10.96.0.40'\n  ipFamilies: [IPv4, IPv6]\n  externalTrafficPolicy: Local\n  \
         externalIPs: ['{}', '{}']\n  ports:\n",
        EXTERNAL[0], EXTERNAL[1]
    );
    for (name, proto) in [("t", "TCP"), ("u", "UDP")] {
        text += &format!(
            "  - {{name: {name}, protocol: {proto}, port: {PORT}, nodePort: {NODE_PORT}, targetPort: {TARGET}}}\n"
        );
    }
    text += &format!(
        "status:\n  loadBalancer:\n    ingress: [{{ip: '{}'}}, {{ip: '{}'}}]\n",
        BALANCER[0], BALANCER[1]
    );
    for (family, address) in ["IPv4", "IPv6"].into_iter().zip(endpoint) {
        // The endpoint is on another node, so the Local set would be empty.
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\nmetadata:\n  name: \
             kinds-{}\n  namespace: default\n  labels: {{kubernetes.io/service-name: kinds}}\nports:\n\
             - {{name: t, port: {TARGET}, protocol: TCP}}\n- {{name: u, port: {TARGET}, protocol: UDP}}\nendpoints:\n\
             - {{addresses: ['{address}'], nodeName: elsewhere}}\n",
            family.to_lowercase()
        );
    }
    text
}

/// The addresses of the Service, one for each kind of frontend.
pub fn frontends(family: Family) -> Result<[SocketAddr; 4]> {
    let (node, index): (IpAddr, usize) =
        if family == Family::V4 { (NODE_V4.into(), 0) } else { (NODE_V6.into(), 1) };
    Ok([
        vip(family, 40),
        SocketAddr::new(node, NODE_PORT),
        SocketAddr::new(BALANCER[index].parse()?, PORT),
        SocketAddr::new(EXTERNAL[index].parse()?, PORT),
    ])
}

fn stage_with_kinds() -> Result<Stage> {
    let stage = Stage::new(Layout::routed())?;
    serve(&stage, Family::ALL.map(|family| stage.world.backend(1).ip(family)))?;
    Ok(stage)
}

/// Gives a stage this Service with this endpoint, in both families, and waits until it is applied.
pub fn serve(stage: &Stage, endpoint: [IpAddr; 2]) -> Result<()> {
    stage.world.manifests().write_text("kinds.yaml", &manifest(endpoint))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let services = stage.json(&["services"])?;
        // There are two ports in two families.
        if services
            .as_array()
            .is_some_and(|rows| rows.iter().filter(|row| row["name"] == "kinds").count() == 4)
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not applied: {services}");
        sleep(Duration::from_millis(10));
    }
}

/// Also with `externalTrafficPolicy: Local` and no endpoint on this node, because a pod is inside the cluster.
#[test]
fn a_pod_reaches_a_node_port_a_load_balancer_address_and_an_external_ip() -> Result<()> {
    let stage = stage_with_kinds()?;
    for family in Family::ALL {
        for target in frontends(family)? {
            for proto in PROTOS {
                let report = Requests::new(proto, target).count(50).run(stage.client());
                report.assert_clean();
                assert_eq!(report.answers.get("b1"), Some(&50), "{proto} {target}: {report}");
                // The backend itself is the client: a hairpin.
                let report = Requests::new(proto, target).count(50).run(&stage.world.backend(1).netns);
                assert_eq!(report.answers.get("b1"), Some(&50), "hairpin {proto} {target}: {report}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_node_port_follows_the_addresses_of_the_node() -> Result<()> {
    let stage = stage_with_kinds()?;
    let later: SocketAddr = format!("192.168.99.1:{NODE_PORT}").parse()?;
    // On a point-to-point link, the address of the other end is not the node's.
    let point_to_point = "192.168.99.1 peer 192.168.99.2/32 dev lo";
    stage.world.node().ip(&format!("addr add {point_to_point}\n"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !Requests::tcp(later).count(1).run(stage.client()).kinds().is_empty() {
        ensure!(Instant::now() < deadline, "no answer on the new address");
    }
    stage.world.node().ip(&format!("addr del {point_to_point}\n"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Requests::tcp(later).count(1).run(stage.client()).kinds().is_empty() {
        ensure!(Instant::now() < deadline, "the removed address still answers");
    }
    Ok(())
}

/// The packet is dropped as if it were lost: no error stops the client.
#[test]
fn an_address_of_the_service_range_that_no_service_has_swallows_what_it_gets() -> Result<()> {
    let ranges = ["--service-cidrs", "10.96.0.0/16,fd00:10:96::/112"];
    let stage = Stage::with_args(Layout::routed(), &ranges)?;
    stage.apply(&service("web", 10).endpoints(stage.backends(1)))?;
    for family in Family::ALL {
        for proto in PROTOS {
            let soon = Duration::from_millis(500);
            let report = Requests::new(proto, vip(family, 99)).count(3).timeout(soon).run(stage.client());
            assert_eq!(report.kinds().into_iter().collect::<Vec<_>>(), [(Kind::TimedOut, 3)], "{report}");
            Requests::new(proto, vip(family, 10)).count(20).run(stage.client()).assert_clean();
        }
    }
    assert!(stage.counter("drop_unallocated")? >= 12);
    Ok(())
}

#[test]
fn what_nobody_serves_is_refused_at_once() -> Result<()> {
    let stage = stage_with_kinds()?;
    stage.apply(&service("nobody", 41))?;
    for family in Family::ALL {
        let unknown = SocketAddr::new(vip(family, 40).ip(), 81);
        let report = Requests::tcp(unknown).count(5).workers(1).run(stage.client());
        assert_eq!(report.kinds().into_iter().collect::<Vec<_>>(), [(Kind::Refused, 5)], "{report}");
        for target in [unknown, vip(family, 41)] {
            let any: IpAddr = if family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
            let socket = stage.client().enter(|| UdpSocket::bind((any, 0)))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(target)?;
            socket.send(b"anyone?")?;
            let failed = socket.recv(&mut [0; 10]).expect_err("no endpoint answers");
            assert_eq!(failed.kind(), ErrorKind::ConnectionRefused, "{target}");
        }
        // The same socket, and so the same port, reaches the first endpoint that appears.
        let any: IpAddr = if family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
        let socket = stage.client().enter(|| UdpSocket::bind((any, 0)))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"anyone?", vip(family, 41))?;
        stage.apply(&service("nobody", 41).endpoints(stage.backends(1)))?;
        socket.send_to(b"anyone?", vip(family, 41))?;
        let mut answer = [0; 100];
        let (len, from) = socket.recv_from(&mut answer)?;
        assert_eq!((&answer[..len], from), (&b"b1 anyone?"[..], vip(family, 41)));
        stage.apply(&service("nobody", 41))?;
    }
    assert!(stage.counter("unreachable_no_endpoint")? > 0 && stage.counter("unreachable_unknown_port")? > 0);
    Ok(())
}

/// The ranges of NodePorts and of ephemeral ports may overlap: a pod's answer to a socket of the node is not a
/// request to the NodePort with that number.
#[test]
fn a_process_of_the_node_reaches_pods_from_a_port_that_is_a_node_port_too() -> Result<()> {
    let stage = stage_with_kinds()?;
    for family in Family::ALL {
        let [_, node_port, ..] = frontends(family)?;
        let pod = SocketAddr::new(stage.world.backend(2).ip(family), TARGET);
        stage.world.node().enter(|| -> Result<()> {
            let domain = Domain::for_address(pod);
            let tcp = Socket::new(domain, Type::STREAM, None)?;
            tcp.set_reuse_address(true)?;
            tcp.bind(&node_port.into())?;
            tcp.connect_timeout(&pod.into(), Duration::from_secs(2)).context("TCP")?;
            let udp = UdpSocket::bind(node_port)?;
            udp.set_read_timeout(Some(Duration::from_secs(2)))?;
            udp.connect(pod)?;
            udp.send(b"hello")?;
            udp.recv(&mut [0; 64]).context("UDP")?;
            Ok(())
        })?;
    }
    Ok(())
}

//! Pods come and go: rolling updates, client ports that are used again, endpoints that move to another Service.

use crate::removal::wait_until;
use crate::stage::{PROTOS, Stage, TARGET, service, vip};
use anyhow::Result;
use lb_tests::echo::Echo;
use lb_tests::load::{Held, HeldTcp, HeldUdp, Kind, Report, Requests, Running, TcpHandle};
use lb_tests::world::{Cgroup, Endpoint, Family, Layout, Netns, Pod, Tap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PODS: usize = 10;
/// Connections per second of each kind of client, for both families together.
const RATE: u32 = 1_000;
/// The minimum number of connections.
const REQUESTS: u64 = 10_000;
/// So few client ports that each is used again within seconds, often when its backend is already gone.
const PORTS: (u16, u16) = (40_000, 42_000);
/// A pod ends when it has had no request for this long.
const QUIET: Duration = Duration::from_millis(300);
/// A lost SYN is sent again after 1 s.
const AT_ONCE: Duration = Duration::from_millis(900);

/// The pods are replaced in turn: a new pod comes, with the address of the pod that went before; the old one
/// terminates and is removed.
///
/// The clients use TCP only: a datagram from a port that was used within two minutes belongs to the previous flow and
/// goes to a terminating pod until that pod is gone, as with kube-proxy.
#[test]
fn a_rolling_update_of_ten_pods_is_not_felt() -> Result<()> {
    let cgroup = Cgroup::create()?;
    cgroup.enter()?;
    let place = format!("--cgroup={}", cgroup.path().display());
    let mut stage =
        Stage::with_args(Layout::routed().with_backends(PODS + 1), &["--socket-lb=host", &place])?;
    let web = service("web", 10);
    let pods = stage.world.backends().to_vec();
    let (first_new, old) = pods.split_last().expect("there are eleven");
    stage.echoes.remove(&first_new.name);
    stage.apply(&web.clone().endpoints(old))?;
    stage.client().set_sysctls(&[("net/ipv4/ip_local_port_range", &format!("{} {}", PORTS.0, PORTS.1))])?;

    let clients = [("pod", stage.client().clone()), ("host", stage.world.node().clone())];
    let targets = Family::ALL.map(|family| vip(family, 10));
    let began = Instant::now();
    let running: Vec<_> = clients
        .iter()
        .flat_map(|(kind, netns)| targets.iter().map(move |target| (kind, start(netns, *target))))
        .collect();

    let mut new: Vec<Pod> = Vec::new();
    let mut place = first_new;
    for (i, leaving) in old.iter().enumerate() {
        stage.echoes.insert(
            place.name.clone(),
            Echo::start(&place.netns, &format!("new-{}", place.name), &[TARGET])?,
        );
        new.push(place.clone());
        let all = |leaving: Option<Endpoint>| {
            leaving.into_iter().chain(new.iter().chain(&old[i + 1..]).map(Endpoint::from)).collect::<Vec<_>>()
        };
        stage.apply(&web.clone().endpoints(all(Some(leaving.into()))))?;
        stage.apply(&web.clone().endpoints(all(Some(Endpoint::from(leaving).terminating()))))?;
        wait_until_quiet(stage.echo(&leaving.name));
        stage.echoes.remove(&leaving.name);
        stage.apply(&web.clone().endpoints(all(None)))?;
        place = leaving;
    }
    let updated = began.elapsed();
    let begun = |running: &[(_, Running)]| running.iter().map(|(_, one)| one.begun()).sum::<u64>();
    wait_until(|| begun(&running) >= REQUESTS, "enough requests");
    let seconds = began.elapsed().as_secs_f64();
    let mut reports: BTreeMap<&str, Report> = BTreeMap::new();
    for (kind, running) in running {
        reports.entry(kind).or_default().merge(running.stop());
    }
    println!("updated in {updated:.1?}");
    let mut whole = Report::default();
    for (kind, report) in reports {
        println!("{kind}, {:.0} requests a second: {report}", report.requests() as f64 / seconds);
        assert!(report.failures.is_empty(), "{kind}: {report}");
        whole.merge(report);
    }
    assert!(whole.requests() >= REQUESTS);
    // All old pods have served, and now only the new ones do.
    for pod in old {
        assert!(whole.answers.contains_key(&pod.name), "{}: {whole}", pod.name);
    }
    let report = Requests::tcp(vip(Family::V4, 10)).count(400).run(stage.client());
    report.assert_clean();
    let names: BTreeSet<String> = new.iter().map(|pod| format!("new-{}", pod.name)).collect();
    assert_eq!(report.answers.keys().cloned().collect::<BTreeSet<_>>(), names);
    Ok(())
}

/// Each client sends half of the rate. A machine that is busy with other work answers slowly; a slow answer is not a
/// failure.
fn start(netns: &Netns, target: SocketAddr) -> Running {
    let requests = Requests::tcp(target).rate(RATE / 2).workers(8);
    requests.during(Duration::from_secs(300)).timeout(Duration::from_secs(20)).start(netns)
}

/// Waits until a terminating pod has nothing left to do.
fn wait_until_quiet(echo: &Echo) {
    let (mut seen, mut since) = (echo.visits().len(), Instant::now());
    wait_until(
        || {
            let visits = echo.visits().len();
            if visits != seen || echo.open() != 0 {
                (seen, since) = (visits, Instant::now());
            }
            since.elapsed() >= QUIET
        },
        "the pod that terminates has nothing to do",
    );
}

/// Covers the port-reuse bug of IPVS: a SYN from a port whose previous connection led to a removed pod was delayed by
/// a second or sent to that pod (k/k#81775).
#[test]
fn a_client_port_whose_backend_is_gone_works_at_once() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    for family in Family::ALL {
        let target = vip(family, 10);
        for (port, ends_before) in [(50_001, true), (50_002, false)] {
            stage.apply(&web.clone().endpoints([stage.world.backend(1)]))?;
            let mut connection = TcpHandle::open(stage.client(), port, target)?;
            connection.ping()?;
            if ends_before {
                // Both sides have closed; the client's TIME_WAIT may be used again after a second.
                drop(connection);
                wait_until(|| stage.echo("b1").open() == 0, "b1 has closed too");
                sleep(Duration::from_millis(1_100));
                stage.apply(&web.clone().endpoints([stage.world.backend(2)]))?;
            } else {
                stage.apply(&web.clone().endpoints([stage.world.backend(2)]))?;
                assert_eq!(connection.ping().map_err(|failure| failure.kind), Err(Kind::Reset));
                drop(connection);
            }
            let began = Instant::now();
            let again = TcpHandle::open(stage.client(), port, target)?;
            assert!(began.elapsed() < AT_ONCE, "its SYN was sent twice: {:?}", began.elapsed());
            assert_eq!(again.backend, "b2");
        }
    }
    Ok(())
}

/// The endpoint is still alive: the flows that it no longer serves end at both ends.
#[test]
fn an_endpoint_that_moves_to_another_service_leaves_its_flows_behind() -> Result<()> {
    for layout in [Layout::routed(), Layout::bridge(false, true), Layout::routed().with_policy()] {
        let stage = Stage::new(layout)?;
        let (web, shop) = (service("web", 10), service("shop", 20));
        for family in Family::ALL {
            stage.apply(&web.clone().endpoints(stage.backends(2)))?;
            stage.apply(&shop.clone().endpoints([stage.world.backend(3)]))?;
            let mut tcp = HeldTcp::open(stage.client(), vip(family, 10), 40)?;
            let mut udp = HeldUdp::open(stage.client(), vip(family, 10), 40)?;
            let moved = tcp.backends()["b1"];
            assert!(udp.backends().contains_key("b1"));
            stage.apply(&web.clone().endpoints([stage.world.backend(2)]))?;
            stage.apply(&shop.clone().endpoints([stage.world.backend(1), stage.world.backend(3)]))?;

            let kinds: Vec<Kind> = tcp.ping().into_iter().map(|failure| failure.kind).collect();
            assert_eq!(kinds, vec![Kind::Reset; moved]);
            wait_until(|| stage.echo("b1").open() == 0, "b1 has closed its connections");
            udp.ping();
            assert_eq!(udp.backends().get("b1"), None);
            for proto in PROTOS {
                let report = Requests::new(proto, vip(family, 20)).count(100).run(stage.client());
                report.assert_clean();
                assert!(report.answers.contains_key("b1"), "{report}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_flows_of_a_deleted_service_end() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let web = service("web", 10);
    for family in Family::ALL {
        stage.apply(&web.clone().endpoints(stage.backends(2)))?;
        let mut tcp = HeldTcp::open(stage.client(), vip(family, 10), 10)?;
        let udp = HeldUdp::open(stage.client(), vip(family, 10), 10)?;
        stage.world.manifests().remove(&web)?;
        wait_until(|| is_gone(&stage, "web"), "the Service is gone");
        let kinds: Vec<Kind> = tcp.ping().into_iter().map(|failure| failure.kind).collect();
        assert_eq!(kinds, [const { Kind::Reset }; 10]);
        wait_until(
            || stage.echo("b1").open() + stage.echo("b2").open() == 0,
            "both have closed their connections",
        );
        let taps = [Tap::on(stage.world.backend(1))?, Tap::on(stage.world.backend(2))?];
        for socket in &udp.sockets {
            socket.socket.send_to(b"anyone?", vip(family, 10))?;
        }
        // Whatever the node does with these datagrams is done when another Service has answered.
        stage.apply(&service("shop", 20).endpoints([stage.world.backend(3)]))?;
        Requests::udp(vip(family, 20)).count(20).run(stage.client()).assert_clean();
        for tap in taps {
            assert_eq!(tap.count(|packet| packet.to().port() == TARGET), 0);
        }
    }
    Ok(())
}

/// The client has one socket, and so one port, and exists before the Service does.
#[test]
fn a_udp_client_that_was_there_first_reaches_the_first_endpoint() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let late = service("late", 50);
    for family in Family::ALL {
        let target = vip(family, 50);
        let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let socket = stage.client().enter(|| std::net::UdpSocket::bind(any))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let ask = || {
            // The socket may report an ICMP error about an earlier datagram here.
            socket.send_to(b"anyone?", target).ok();
            let mut answer = [0; 100];
            socket.recv_from(&mut answer).ok().map(|(len, from)| (answer[..len].to_vec(), from))
        };
        assert_eq!(ask(), None, "there is no Service");
        stage.apply(&late)?;
        assert_eq!(ask(), None, "the Service has no endpoint");
        stage.apply(&late.clone().endpoints([Endpoint::from(stage.world.backend(1)).not_ready()]))?;
        assert_eq!(ask(), None, "no endpoint is ready");
        stage.apply(&late.clone().endpoints([stage.world.backend(1)]))?;
        wait_until(|| ask() == Some((b"b1 anyone?".to_vec(), target)), "the first endpoint answers");
        stage.world.manifests().remove(&late)?;
        wait_until(|| is_gone(&stage, "late"), "the Service is gone");
    }
    Ok(())
}

fn is_gone(stage: &Stage, service: &str) -> bool {
    let services = stage.json(&["services"]).unwrap_or_default();
    services.as_array().is_some_and(|rows| rows.iter().all(|row| row["name"] != service))
}

//! Idle flows are removed, live ones stay, and the bitmap forgets what no flow needs.
//!
//! The test does not wait for minutes: it moves the time of the last packet back in the tables. (It does not move it
//! by a day, after which established connections are removed, because machines are not up for so long.)

use crate::stage::{CLOSED, Stage, TARGET, WEB, vip};
use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{Flow, FlowKey, Proto, interest_bit, names, timeout};
use lb_tests::load::{TcpHandle, UdpHandle};
use lb_tests::packet::tcp;
use lb_tests::world::{Family, Layout, Service};
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::objects::name::ServicePortName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The agent sweeps every 10 s; one pass is over after this time.
const PASS: Duration = Duration::from_secs(12);

/// Client ports, named after the state of their flows: live, resting (idle, but not for long enough), or over.
const DIALOGUE_OVER: u16 = 41_001;
const DIALOGUE_RESTING: u16 = 41_002;
const DIALOGUE_LIVE: u16 = 41_003;
const UNANSWERED_OVER: u16 = 41_004;
const UNANSWERED_LIVE: u16 = 41_005;
const CONNECTION_RESTING: u16 = 41_006;
const CLOSED_OVER: u16 = 41_007;
const CLOSED_RESTING: u16 = 41_008;
const HALF_OPEN_OVER: u16 = 41_009;
const HALF_OPEN_RESTING: u16 = 41_010;
/// The port of a flow to a Service that is then removed.
const LEFT_BEHIND: u16 = 41_011;

/// Client port, seconds that its flow is moved back, and whether the flow must then be removed. A flow that stays has
/// time left for three passes.
const PUT_BACK: [(u16, u32, bool); 9] = [
    (DIALOGUE_OVER, timeout::UDP_ASSURED + 1, true),
    (DIALOGUE_RESTING, timeout::UDP_ASSURED - 40, false),
    (DIALOGUE_LIVE, timeout::UDP_ASSURED + 1, false),
    (UNANSWERED_OVER, timeout::UDP_NEW + 1, true),
    (UNANSWERED_LIVE, timeout::UDP_NEW + 1, false),
    (CONNECTION_RESTING, timeout::TCP_CLOSED + 1, false),
    (CLOSED_OVER, timeout::TCP_CLOSED + 1, true),
    (CLOSED_RESTING, timeout::TCP_CLOSED - 40, false),
    (HALF_OPEN_OVER, timeout::TCP_HANDSHAKE + 1, true),
];

/// The flow table, opened for writing.
struct Flows {
    table: HashMap<MapData, FlowKey, Flow>,
}

/// The name of a flow in this test: its family, and the client's port without the offset of [`port`].
type Name = (Family, u16);

/// The offset of IPv6 client ports, because an IPv6 socket takes its port in both families.
const APART: u16 = 1_000;

fn port(family: Family, port: u16) -> u16 {
    if family == Family::V4 { port } else { port + APART }
}

fn name(key: &FlowKey, flow: &Flow) -> Name {
    let port = if flow.flags & Flow::REVERSE == 0 { key.sport } else { key.dport };
    if std::net::IpAddr::from(key.src).is_ipv4() {
        (Family::V4, port.host())
    } else {
        (Family::V6, port.host() - APART)
    }
}

impl Flows {
    fn open(stage: &Stage) -> Result<Self> {
        let pins = Pins::new(&stage.world.folder().pins());
        let data = MapData::from_pin(pins.map(names::FLOWS)).context(names::FLOWS)?;
        Ok(Self { table: Map::HashMap(data).try_into()? })
    }

    /// The number of entries of each flow.
    fn entries(&self) -> Result<BTreeMap<Name, usize>> {
        let mut counts = BTreeMap::new();
        for entry in self.table.iter() {
            let (key, flow) = entry?;
            *counts.entry(name(&key, &flow)).or_default() += 1;
        }
        Ok(counts)
    }

    /// Moves the last packet of flows back by the number of seconds that `put_back` returns for their name.
    fn put_back(&mut self, put_back: impl Fn(Name) -> Option<u32>) -> Result<()> {
        let entries: Vec<_> = self.table.iter().collect::<Result<_, _>>()?;
        for (key, mut flow) in entries {
            if let Some(seconds) = put_back(name(&key, &flow)) {
                let earlier = flow.last_seen.checked_sub(seconds);
                flow.last_seen = earlier.context("the machine is not up for long enough")?;
                self.table.insert(key, flow, 0)?;
            }
        }
        Ok(())
    }
}

/// Sockets whose flows are live, resting, or over.
struct Conversations {
    dialogues: Vec<UdpHandle>,
    unanswered: Vec<(u16, UdpSocket, SocketAddr)>,
    connections: Vec<TcpHandle>,
}

impl Conversations {
    fn open(stage: &Stage, mute: u8) -> Result<Self> {
        let client = stage.world.client();
        let mut held = Self { dialogues: Vec::new(), unanswered: Vec::new(), connections: Vec::new() };
        for family in Family::ALL {
            let (web_tcp, web_udp) = (vip(WEB, family, Proto::Tcp), vip(WEB, family, Proto::Udp));
            let mine = |name| port(family, name);
            for name in [DIALOGUE_OVER, DIALOGUE_RESTING, DIALOGUE_LIVE] {
                held.dialogues.push(UdpHandle::open(&client.netns, mine(name), web_udp)?);
            }
            for name in [UNANSWERED_OVER, UNANSWERED_LIVE, LEFT_BEHIND] {
                let local = SocketAddr::new(client.ip(family), mine(name));
                let socket = client.netns.enter(|| UdpSocket::bind(local))?;
                let target = vip(mute + u8::from(name == LEFT_BEHIND), family, Proto::Udp);
                socket.send_to(b"anybody?", target)?;
                held.unanswered.push((name, socket, target));
            }
            held.connections.push(TcpHandle::open(&client.netns, mine(CONNECTION_RESTING), web_tcp)?);
            for name in [CLOSED_OVER, CLOSED_RESTING] {
                drop(TcpHandle::open(&client.netns, mine(name), web_tcp)?);
            }
            let stranger = if family == Family::V4 { "198.18.0.1" } else { "fd00:bad::1" };
            for name in [HALF_OPEN_OVER, HALF_OPEN_RESTING] {
                client.send(&[tcp(SocketAddr::new(stranger.parse()?, mine(name)), web_tcp).syn()])?;
            }
        }
        Ok(held)
    }

    /// Sends one packet of each live flow.
    fn talk(&mut self) -> Result<()> {
        let is_live = |port| [DIALOGUE_LIVE, DIALOGUE_LIVE + APART].contains(&port);
        for handle in self.dialogues.iter_mut().filter(|handle| is_live(handle.local.port())) {
            handle.ping()?;
        }
        for (_, socket, target) in self.unanswered.iter().filter(|(name, ..)| *name == UNANSWERED_LIVE) {
            socket.send_to(b"anybody?", target)?;
        }
        Ok(())
    }
}

fn bits(stage: &Stage) -> Result<BTreeSet<u32>> {
    Ok(stage.tables()?.interest.bits().collect())
}

fn bit(at: SocketAddr, proto: Proto) -> u32 {
    interest_bit(at.ip().into(), lb_common::Port::new(at.port()), proto as u8)
}

fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done()? {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(250));
    }
    Ok(())
}

#[test]
fn idle_flows_go_and_live_ones_stay() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    // No backend answers on this port.
    let mute = 50;
    for (service, host) in [("mute", mute), ("leaving", mute + 1)] {
        let service = Service::new(service).vips(host).udp(53, CLOSED);
        stage.write(&service, stage.world.backends())?;
    }
    // The half-open flows come from addresses that lead nowhere.
    let _agent = stage.world.start_agent(&["--source-check", "off"])?;
    let mut held = Conversations::open(&stage, mute)?;
    sleep(Duration::from_millis(200));
    let mut flows = Flows::open(&stage)?;
    let all: Vec<Name> =
        Family::ALL.into_iter().flat_map(|f| (DIALOGUE_OVER..=LEFT_BEHIND).map(move |p| (f, p))).collect();
    assert_eq!(flows.entries()?, all.iter().map(|name| (*name, 2)).collect());

    stage.world.manifests().remove(&Service::new("leaving"))?;
    let frontend = |family| bit(vip(mute + 1, family, Proto::Udp), Proto::Udp);
    let is_leaving = |service: &lb_common::ServiceName| {
        ServicePortName::from_table(service).is_some_and(|port| &*port.name == "leaving")
    };
    wait_until(Duration::from_secs(2), "the Service is removed", || {
        Ok(!stage.tables()?.names.values().any(|name| is_leaving(name)))
    })?;
    assert!(
        Family::ALL.iter().all(|family| bits(&stage).is_ok_and(|bits| bits.contains(&frontend(*family))))
    );
    // The flow to the removed Service is over for IPv6 and not yet for IPv4.
    flows.put_back(|(family, port)| match port {
        LEFT_BEHIND => (family == Family::V6).then_some(timeout::UDP_NEW + 1),
        _ => PUT_BACK.iter().find(|(of, ..)| *of == port).map(|(_, seconds, _)| *seconds),
    })?;
    held.talk()?;

    let is_over = |(family, port): &Name| {
        PUT_BACK.iter().any(|(of, _, over)| of == port && *over)
            || (*port == LEFT_BEHIND && *family == Family::V6)
    };
    let expected: BTreeMap<Name, usize> =
        all.iter().filter(|name| !is_over(name)).map(|name| (*name, 2)).collect();
    wait_until(PASS, "idle flows are gone", || {
        held.talk()?;
        let entries = flows.entries()?;
        Ok(!all.iter().any(|name| is_over(name) && entries.contains_key(name)))
    })?;
    assert_eq!(flows.entries()?, expected, "flows that are not over stay");
    // Bits are cleared in the second pass that finds them idle.
    wait_until(PASS * 2, "the bit of the removed Service is cleared", || {
        held.talk()?;
        Ok(!bits(&stage)?.contains(&frontend(Family::V6)))
    })?;
    assert_eq!(flows.entries()?, expected, "flows that are not over stay");
    let bits = bits(&stage)?;
    assert!(bits.contains(&frontend(Family::V4)), "a flow still needs this bit");
    for family in Family::ALL {
        for (host, proto) in [(WEB, Proto::Tcp), (WEB, Proto::Udp), (mute, Proto::Udp)] {
            assert!(bits.contains(&bit(vip(host, family, proto), proto)), "{host} {family:?} {proto}");
        }
        for pod in stage.world.backends() {
            assert!(bits.contains(&bit(pod.at(family, TARGET), Proto::Tcp)), "{}", pod.name);
        }
    }
    for connection in &mut held.connections {
        connection.ping()?;
    }
    // Swept flows can begin again.
    for dialogue in &mut held.dialogues {
        dialogue.ask()?;
    }
    assert!(stage.counter("flow_expired")? >= 2 * 9, "two entries of each flow are counted");
    Ok(())
}

//! What the agent reports while it runs: health, metrics, its own status, and the message about a taken port.

use anyhow::{Context, Result, ensure};
use lb_tests::echo::Echo;
use lb_tests::load::{Held, HeldTcp};
use lb_tests::world::{Agent, Layout, NODE_NAME, Netns, Service, World};
use lb_userspace::dataplane::sys::link::detach_pinned;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TARGET: u16 = 8_080;
const HEALTH: u16 = 10_256;
const METRICS: u16 = 10_249;
const LIMIT: Duration = Duration::from_secs(30);

/// A world with one backend, its Service, and the Node.
struct Stage {
    agent: Agent,
    _echo: Echo,
    world: World,
}

fn vip() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 96, 0, 10), 80))
}

impl Stage {
    fn new() -> Result<Self> {
        Self::of(World::new(Layout::routed())?, &[])
    }

    fn of(world: World, args: &[&str]) -> Result<Self> {
        let pod = &world.backends()[0];
        let echo = Echo::start(&pod.netns, &pod.name, &[TARGET])?;
        world.manifests().write_node(NODE_NAME, &[Ipv4Addr::new(192, 0, 2, 1).into()])?;
        let service = Service::new("web").vip(vip().ip()).tcp(80, TARGET).endpoints(&world.backends()[..1]);
        world.manifests().write(&service)?;
        let agent = world.start_agent(args)?;
        Ok(Self { agent, _echo: echo, world })
    }

    fn health(&self, path: &str) -> Result<(u16, String)> {
        get(self.world.node(), HEALTH, path)
    }

    /// The value of a series of `/metrics`; zero if the series is absent.
    fn metric(&self, series: &str) -> Result<f64> {
        let (code, text) = get(self.world.node(), METRICS, "/metrics")?;
        ensure!(code == 200, "{code}: {text}");
        let line = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        Ok(text.lines().find_map(line).unwrap_or_default())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.world.lb(&["status", "-o", "json"])?)?)
    }
}

fn get(node: &Netns, port: u16, path: &str) -> Result<(u16, String)> {
    let answer = node.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let code = head.split(' ').nth(1).context("a status line")?.parse()?;
    Ok((code, body.to_owned()))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn traffic_moves_the_metrics_of_its_service_and_backend() -> Result<()> {
    let stage = Stage::new()?;
    let backend = stage.world.backends()[0].v4;
    let service = "ip_family=\"IPv4\",namespace=\"default\",port=\"tcp-80\",protocol=\"TCP\",service=\"web\"";
    let of_service = |name: &str| stage.metric(&format!("lb_service_{name}_total{{{service}}}"));
    assert_eq!(of_service("connections")?, 0.0);
    stage.world.client().netns.enter(|| -> Result<()> {
        for _ in 0..3 {
            let mut stream = TcpStream::connect_timeout(&vip(), LIMIT)?;
            stream.write_all(b"hello\n")?;
            ensure!(stream.read(&mut [0; 64])? > 0, "no answer");
        }
        Ok(())
    })?;
    assert_eq!(of_service("connections")?, 3.0);
    let of_backend = format!("lb_backend_connections_total{{backend=\"{backend}:{TARGET}\",{service}}}");
    assert_eq!(stage.metric(&of_backend)?, 3.0);
    for direction in ["request", "reply"] {
        let packets = format!("lb_service_packets_total{{direction=\"{direction}\",{service}}}");
        assert!(stage.metric(&packets)? >= 9.0, "{direction}");
        let bytes = format!("lb_service_bytes_total{{direction=\"{direction}\",{service}}}");
        assert!(stage.metric(&bytes)? > 9.0 * 40.0, "{direction}");
    }
    assert!(stage.metric("lb_packet_events_total{reason=\"flow_created\"}")? >= 3.0);
    assert_eq!(stage.metric("lb_links_wanted")?, stage.metric("lb_links_attached")?);
    assert!(stage.metric("lb_links_wanted")? >= 2.0);
    assert!(stage.metric("process_resident_memory_bytes")? > 1e6);
    assert!(stage.metric("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}")? >= 1.0);
    assert_eq!(stage.metric("lb_map_entries{map=\"frontends\"}")?, 1.0);
    Ok(())
}

#[test]
fn a_program_that_was_detached_from_a_link_is_missed_and_put_back() -> Result<()> {
    let stage = Stage::new()?;
    let (code, body) = stage.health("/healthz")?;
    assert_eq!(code, 200, "{body}");
    assert_eq!(stage.health("/livez")?.0, 200);
    let status = stage.status()?;
    let link = status["links"].as_array().into_iter().flatten().find(|link| link["hook"] == "tcx");
    let Some(index) = link.and_then(|link| link["index"].as_u64()) else {
        // This kernel has no TCX: netlink reports removed clsact filters, and the agent puts them back at once.
        return Ok(());
    };
    let pin = glob(&stage.world.folder().pins(), &format!("{index}_ingress"))?;
    // The last look at the links must be more than a second ago.
    sleep(Duration::from_millis(1100));
    detach_pinned(&pin)?;
    let (code, body) = stage.health("/healthz")?;
    assert_eq!(code, 503, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body)?["healthy"], false);
    wait_until("healthy again", || Ok(stage.health("/healthz")?.0 == 200))?;
    assert!(stage.agent.log().matches("attached").count() >= 3, "{}", stage.agent.log());
    Ok(())
}

/// Three clients fill a small flow table: the last one finds room, the agent says that the table is nearly full, and it
/// stops saying so.
#[test]
fn a_nearly_full_flow_table_is_reported() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let mut stage = Stage::of(world, &["--max-flows", "64"])?;
    let nearly_full = |stage: &Stage| -> Result<bool> {
        let status = stage.status()?;
        let complaints = status["agent"]["complaints"].as_array().into_iter().flatten();
        Ok(complaints.filter_map(Value::as_str).any(|text| text.contains("flow table is nearly full")))
    };
    assert_eq!(stage.metric("lb_map_capacity{map=\"flows_live\"}")?, 50.0);
    assert!(!nearly_full(&stage)?);
    let mut held = Vec::new();
    for (client, connections) in [("client", 40), ("b2", 10), ("b3", 10)] {
        held.push(HeldTcp::open(&stage.world.pod(client).netns, vip(), connections)?);
    }
    wait_until("the agent says that the table is nearly full", || nearly_full(&stage))?;
    assert!(stage.metric("lb_map_entries{map=\"flows_live\"}")? >= 45.0);
    assert!(stage.agent.log().contains("flow table is nearly full"), "{}", stage.agent.log());
    assert_eq!(stage.health("/healthz")?.0, 200, "a restart would not help");
    for held in &mut held {
        let failures = held.ping();
        assert!(failures.is_empty(), "{}", failures[0]);
    }
    drop(held);
    wait_until("the table is empty", || Ok(!nearly_full(&stage)?))?;
    stage.agent.terminate().map(drop)
}

/// Finds a file by its name, wherever the layout of the folder puts it.
fn glob(folder: &std::path::Path, name: &str) -> Result<std::path::PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_str() == Some(name) {
                return Ok(entry.path());
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    anyhow::bail!("no {name} below {}", folder.display())
}

#[test]
fn status_tells_what_only_the_living_agent_knows() -> Result<()> {
    let mut stage = Stage::new()?;
    let status = stage.status()?;
    let agent = &status["agent"];
    assert_eq!(agent["nodeName"], NODE_NAME);
    assert_eq!(agent["pid"], stage.agent.pid().context("the agent runs")?);
    assert_eq!(agent["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(agent["healthy"], true);
    assert_eq!(agent["nodeEligible"], true);
    assert_eq!(agent["complaints"], Value::Array(Vec::new()));
    assert!(agent["source"].as_str().is_some_and(|source| source.starts_with("folder /")), "{agent}");
    let text = stage.world.lb(&["status"])?;
    assert!(text.contains("health  healthy, node eligible"), "{text}");
    stage.agent.kill()?;
    let status = stage.status()?;
    assert_eq!((&status["agent"], &status["agentRunning"]), (&Value::Null, &Value::Bool(false)));
    Ok(())
}

#[test]
fn roles_that_were_given_to_the_agent_are_in_force_in_its_status() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let role = |status: &Value, link: &str| -> Option<Value> {
        let links = status["links"].as_array()?;
        Some(links.iter().find(|found| found["name"] == link)?["role"].clone())
    };
    let _agent = world.start_agent(&["--link-role", "lo=uplink"])?;
    let status: Value = serde_json::from_str(&world.lb(&["status", "-o", "json"])?)?;
    assert_eq!(role(&status, "lo"), Some("uplink".into()));
    let status: Value =
        serde_json::from_str(&world.lb(&["status", "-o", "json", "--link-role", "lo=none"])?)?;
    assert_eq!(role(&status, "lo"), Some("none".into()), "the command's own option wins");
    Ok(())
}

#[test]
fn a_taken_port_is_reported_with_its_owner_and_does_not_stop_the_data_path() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let taken = world.node().enter(|| TcpListener::bind(("0.0.0.0", METRICS)))?;
    let mut agent = world.start_agent(&[])?;
    agent.wait_for_text(&format!("the metrics server cannot listen on 127.0.0.1:{METRICS}"), LIMIT)?;
    assert!(agent.log().contains(&format!("(process {})", std::process::id())), "{}", agent.log());
    wait_until("/livez answers", || Ok(get(world.node(), HEALTH, "/livez").is_ok()))?;
    drop(taken);
    wait_until("/metrics answers", || Ok(get(world.node(), METRICS, "/metrics").is_ok()))?;
    Ok(())
}

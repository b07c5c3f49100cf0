//! The ways to a server, each with a world and what serves in it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::cluster::{Cluster, Door, KubeProxy};
use lb_tests::world::{Agent, Cgroup, Family, Layout, Pod, Source, World};
use serde::{Deserialize, Serialize};

use super::client::Figures;
use super::row::Row;
use super::server::Server;
use crate::usage;

/// The Service that is measured, with one endpoint: the only backend of every world.
pub const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: measured, namespace: default}
spec:
  type: ClusterIP
  clusterIP: 10.96.255.30
  ports:
  - {name: one, port: 80, targetPort: 8080}
  - {name: many, port: 81, targetPort: 8081}
  - {name: stream, port: 82, targetPort: 8082}
  - {name: datagrams, protocol: UDP, port: 80, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: measured, namespace: default, labels: {kubernetes.io/service-name: measured}}
addressType: IPv4
ports:
- {name: one, port: 8080, protocol: TCP}
- {name: many, port: 8081, protocol: TCP}
- {name: stream, port: 8082, protocol: TCP}
- {name: datagrams, port: 8080, protocol: UDP}
endpoints:
- {addresses: [10.244.1.11], nodeName: node-1}
";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 255, 30));

/// How long a start may take: kube-proxy in iptables mode needs minutes for 30,000 Services.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a subject must serve before it is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// A way to a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The pod's own address; no `lb`, no rules.
    Direct,
    /// The pod's own address, with `lb` on the links.
    Loaded,
    /// The Service, by `lb` on the links.
    Lb,
    /// The Service, by `lb` at the socket of the client.
    Socket,
    /// The Service, by kube-proxy.
    Iptables,
    Nftables,
}

impl Way {
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Loaded, Self::Lb, Self::Socket, Self::Iptables, Self::Nftables];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Loaded => "direct, lb loaded",
            Self::Lb => "lb",
            Self::Socket => "lb at the socket",
            Self::Iptables => "kube-proxy, iptables",
            Self::Nftables => "kube-proxy, nftables",
        }
    }

    pub const fn is_kube_proxys(self) -> bool {
        matches!(self, Self::Iptables | Self::Nftables)
    }

    const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Loaded)
    }
}

/// What serves in a world. Killed when dropped.
enum Subject {
    Nothing,
    Agent { _agent: Agent },
    KubeProxy(KubeProxy),
}

/// A way that can be measured.
pub struct Running {
    pub way: Way,
    // Dropped in this order.
    subject: Subject,
    _door: Door,
    _server: Server,
    cgroup: Option<Cgroup>,
    world: World,
}

impl Running {
    /// Makes the world of a way, and waits until its server answers.
    ///
    /// # Errors
    /// If the subject ends, or does not serve in time.
    pub fn start(way: Way, cluster: &Cluster, lb: &Path) -> Result<Self> {
        let world = World::new(Layout::routed().with_backends(1))?;
        let server = Server::start(&world.backend(1).netns)?;
        // Enough ports for as many connections as there are in a round.
        world.client().netns.enter(|| {
            fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")
        })?;
        let door = cluster.door(world.node())?;
        let kubeconfig = cluster.kubeconfig_at("admin", door.address())?;
        let cgroup = if way == Way::Socket { Some(Cgroup::create()?) } else { None };
        let agent = |args: &[&str]| -> Result<Subject> {
            let mut agent = world.spawn_agent_of(lb, Source::Api(&kubeconfig), args)?;
            agent.wait_until_ready()?;
            Ok(Subject::Agent { _agent: agent })
        };
        let subject = match way {
            Way::Direct => Subject::Nothing,
            Way::Loaded | Way::Lb => agent(&[])?,
            Way::Socket => {
                let path = cgroup.as_ref().map(|cgroup| cgroup.path().display().to_string());
                agent(&["--socket-lb=all", "--cgroup", &path.unwrap_or_default()])?
            }
            Way::Iptables => kube_proxy(&world, "iptables", &kubeconfig)?,
            Way::Nftables => kube_proxy(&world, "nftables", &kubeconfig)?,
        };
        let mut running = Self { way, subject, _door: door, _server: server, cgroup, world };
        running.wait()?;
        Ok(running)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let failed = match self.measure(Row::Connections, SETTLE).and_then(|_| self.check_idle()) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if let Subject::KubeProxy(proxy) = &mut self.subject
                && let Some(status) = proxy.ended()?
            {
                bail!("{} ended with {status}:\n{}", self.way.name(), proxy.log());
            }
            ensure!(Instant::now() < deadline, "{} does not serve: {failed:#}", self.way.name());
        }
    }

    /// Checks that kube-proxy has nothing left to do. With 10,000 Services, an `nft` that it runs takes a whole CPU from
    /// everybody for half a minute.
    fn check_idle(&self) -> Result<()> {
        let Subject::KubeProxy(proxy) = &self.subject else { return Ok(()) };
        let before = usage::cpu(proxy.pid())?;
        let began = Instant::now();
        while began.elapsed() < SETTLE {
            ensure!(!usage::has_children(proxy.pid())?, "a program that kube-proxy started is running");
            std::thread::sleep(Duration::from_millis(50));
        }
        let used = usage::cpu(proxy.pid())?.saturating_sub(before);
        ensure!(used < began.elapsed() / 20, "kube-proxy is busy");
        Ok(())
    }

    /// Measures one figure.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub fn measure(&self, row: Row, time: Duration) -> Result<Figures> {
        let client = &self.world.client().netns;
        let (of_server, of_service) = row.ports();
        let target = if self.way.is_direct() {
            self.world.backend(1).at(Family::V4, of_server)
        } else {
            SocketAddr::new(ADDRESS, of_service)
        };
        let offload = if row == Row::StreamOfPackets { "off" } else { "on" };
        client.run("ethtool", &["-K", Pod::LINK, "tso", offload, "gso", offload])?;
        let mut command = client.command(std::env::current_exe()?);
        let row = clap::ValueEnum::to_possible_value(&row).context("every row has a name")?;
        command.args(["client", row.get_name(), &target.to_string(), &time.as_millis().to_string()]);
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup.path());
        }
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", self.way.name());
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn kube_proxy(world: &World, mode: &str, kubeconfig: &Path) -> Result<Subject> {
    let command = KubeProxy::command(world, kubeconfig, mode)?;
    Ok(Subject::KubeProxy(KubeProxy::start(world, command)?))
}

//! The stage of the demo: a world, servers in its pods, and the agent on its node.

use crate::source::Source;
use anyhow::Result;
use lb_common::SCHEMA;
use lb_tests::echo::Echo;
use lb_tests::world::{Agent, Cgroup, Layout, Pod, World, lb_binary};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The target ports of the examples' Services.
const PORTS: [u16; 4] = [8080, 6379, 9090, 5353];
/// Three are endpoints of the examples' Services, and the user can add the fourth.
const BACKENDS: usize = 4;

// Fields are dropped in this order, so that what runs in the world ends before the world.
pub struct Stage {
    _agent: Agent,
    _servers: Vec<Echo>,
    source: Source,
    pub world: World,
    lb: PathBuf,
    /// This process is in this cgroup, and so are the processes of the node.
    _cgroup: Cgroup,
}

impl Stage {
    /// Sets the stage, with a Kubernetes API instead of a folder if `api` is true.
    pub fn set(lb: Option<&Path>, examples: &Path, api: bool) -> Result<Self> {
        let lb = lb.map_or_else(lb_binary, |path| Ok(path.to_path_buf()))?;
        let world = World::new(Layout::routed().with_backends(BACKENDS))?.with_lb(&lb)?;
        let server = |pod: &Pod| Echo::start(&pod.netns, &server_name(pod), &PORTS);
        let servers = world.backends().iter().map(server).collect::<Result<_>>()?;
        let source = if api { Source::api(&world, examples) } else { Source::folder(&world, examples) }?;
        let cgroup = Cgroup::create()?;
        cgroup.enter()?;
        let agent = source.start_agent(&world, &cgroup)?;
        Ok(Self { _agent: agent, _servers: servers, source, world, lb, _cgroup: cgroup })
    }

    /// What to type in a second terminal to add a backend and to look inside.
    pub fn what_to_type(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let lb = self.lb.strip_prefix(here).unwrap_or(&self.lb).display();
        let pins = self.world.folder().pins();
        let pins = pins.display();
        let node = format!("/run/netns/{}", self.world.node().name());
        format!(
            "{}These commands look inside:\n\n  \
             {lb} services --pin-dir {pins}      (also backends and flows)\n  \
             nsenter --net={node} {lb} status --pin-dir {pins}\n  \
             bpftool map dump pinned {pins}/v{SCHEMA}/frontends\n",
            self.source.what_to_type(&self.world)
        )
    }

    /// The names of all servers, in order.
    pub fn server_names(&self) -> Vec<String> {
        self.world.backends().iter().map(server_name).collect()
    }

    /// The name of the server at an address.
    pub fn server_at(&self, ip: IpAddr) -> Option<String> {
        let pod = self.world.backends().iter().find(|pod| pod.v4 == ip || pod.v6 == ip);
        pod.map(server_name)
    }
}

/// `backend-1` in pod `b1`.
fn server_name(pod: &Pod) -> String {
    pod.name.replacen('b', "backend-", 1)
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let client = self.world.client();
        writeln!(f, "A node, a client and {BACKENDS} backends, each in its own network namespace:")?;
        writeln!(f, "  {:<10} {:<12} {}", "client", client.v4, client.v6)?;
        for pod in self.world.backends() {
            writeln!(f, "  {:<10} {:<12} {}", server_name(pod), pod.v4, pod.v6)?;
        }
        writeln!(f, "lb agent runs on the node and watches {}", self.source)?;
        write!(f, "Its maps are pinned under {}", self.world.folder().pins().display())
    }
}

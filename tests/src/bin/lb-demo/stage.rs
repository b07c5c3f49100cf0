//! What the demo plays on: a world, servers in its pods, the agent on its node.

use anyhow::{Context, Result, ensure};
use lb_common::SCHEMA;
use lb_tests::echo::Echo;
use lb_tests::world::{Agent, Layout, Pod, World, lb_binary};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What the examples' Services lead to.
const PORTS: [u16; 4] = [8080, 6379, 9090, 5353];
/// Three behind the examples' Services, and one to be added by hand.
const BACKENDS: usize = 4;
/// The example that a person is told to edit.
const EDITED: &str = "nginx.yaml";

// The order of fields is the order of their end: agent, servers, world.
pub struct Stage {
    _agent: Agent,
    _servers: Vec<Echo>,
    pub world: World,
    lb: PathBuf,
}

impl Stage {
    pub fn set(lb: Option<&Path>, examples: &Path) -> Result<Self> {
        let lb = lb.map_or_else(lb_binary, |path| Ok(path.to_path_buf()))?;
        let world = World::new(Layout::routed().with_backends(BACKENDS))?.with_lb(&lb)?;
        let server = |pod: &Pod| Echo::start(&pod.netns, &server_name(pod), &PORTS);
        let servers = world.backends().iter().map(server).collect::<Result<_>>()?;
        copy_yaml(examples, &world)?;
        let agent = world.start_agent(&[])?;
        Ok(Self { _agent: agent, _servers: servers, world, lb })
    }

    /// What to type in a second terminal: a backend more, and the commands that look inside.
    pub fn what_to_type(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let lb = self.lb.strip_prefix(here).unwrap_or(&self.lb).display();
        let folder = self.world.folder();
        let (manifests, pins) = (folder.manifests(), folder.pins());
        let (manifests, pins) = (manifests.display(), pins.display());
        let node = format!("/run/netns/{}", self.world.node().name());
        let mut text = format!("Edit the YAML in {manifests}, in a second terminal and as root.\n");
        if folder.manifests().join(EDITED).exists() {
            text += &format!(
                "This gives the spare backend-4 to the first EndpointSlice of {EDITED}:\n\n  \
                 sed -i '0,/^endpoints:/s//&\\n- addresses: [10.244.1.14]/' {manifests}/{EDITED}\n\n"
            );
        } else {
            text += "Add the spare backend-4 (10.244.1.14, fd00:10:244:1::14) to an EndpointSlice.\n\n";
        }
        text += &format!(
            "And these look inside:\n\n  \
             {lb} services --pin-dir {pins}      (so do backends and flows)\n  \
             nsenter --net={node} {lb} status --pin-dir {pins}\n  \
             bpftool map dump pinned {pins}/v{SCHEMA}/maps/frontends\n"
        );
        text
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

fn copy_yaml(examples: &Path, world: &World) -> Result<()> {
    let entries = fs::read_dir(examples).with_context(|| format!("--examples {}", examples.display()))?;
    let mut copied = 0;
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            world.manifests().write_text(name, &fs::read_to_string(&path)?)?;
            copied += 1;
        }
    }
    ensure!(copied > 0, "no YAML file in {}", examples.display());
    Ok(())
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let client = self.world.client();
        writeln!(f, "A node, a client and {BACKENDS} backends, in network namespaces of their own:")?;
        writeln!(f, "  {:<10} {:<12} {}", "client", client.v4, client.v6)?;
        for pod in self.world.backends() {
            writeln!(f, "  {:<10} {:<12} {}", server_name(pod), pod.v4, pod.v6)?;
        }
        let folder = self.world.folder();
        writeln!(f, "lb agent runs on the node and follows {}", folder.manifests().display())?;
        write!(f, "Its maps are pinned under {}", folder.pins().display())
    }
}

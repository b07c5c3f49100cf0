//! Worlds: a node, pods and an outside in network namespaces of their own, for real sockets.
//!
//! ```text
//! client 10.244.1.10 ── veth-client ┐            ┌ veth-b1 ── b1 10.244.1.11
//!                                    node ── uplink ── outside 192.168.77.100
//! client2 10.244.1.30 ─ veth-client2 ┘           └ veth-b2 ── b2 10.244.1.12 ...
//! ```
//!
//! A world touches nothing outside its namespaces, except for names under `/run/netns` and a folder under `/run`.
//! Both contain the pid. Dropping a world removes them and asserts that they are gone; the next run removes what a
//! killed run left behind.

mod agent;
mod cgroup;
mod folder;
mod home;
mod layout;
mod leftover;
mod manifest;
mod netns;
mod pod;
mod policy;
mod settle;
mod tap;
mod wire;
mod wiring;

pub use agent::{Agent, lb_binary};
pub use cgroup::Cgroup;
pub use folder::Folder;
pub(crate) use home::Home;
pub use layout::{Cni, Layout};
pub use manifest::{Endpoint, Manifests, Service};
pub use netns::Netns;
pub(crate) use netns::run;
pub use pod::{Family, Pod};
pub use tap::Tap;
pub use wire::Wire;
pub use wiring::{GATEWAY_MAC, NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::process::Output;

/// The name of the node in manifests.
pub const NODE_NAME: &str = "node-1";

/// The source of an agent's objects.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The world's folder of manifests.
    Manifests,
    /// The API server of this kubeconfig.
    Api(&'a Path),
}

/// Made by [`World::new`]. Dropping a world removes everything in it.
pub struct World {
    name: String,
    layout: Layout,
    /// Every namespace that was made, to be removed at the end.
    namespaces: Vec<Netns>,
    node: Option<Netns>,
    outside: Option<Netns>,
    pods: Vec<Pod>,
    folder: Option<Folder>,
    policy: Option<Ebpf>,
    /// The `lb` to run, if it is not [`lb_binary`].
    lb: Option<PathBuf>,
}

impl World {
    /// Makes a world and waits until its links carry packets.
    pub fn new(layout: Layout) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a world needs root: namespaces, links, bpffs");
        raise_descriptor_limit()?;
        let mut world = Self {
            name: leftover::next_name(),
            layout,
            namespaces: Vec::new(),
            node: None,
            outside: None,
            pods: Vec::new(),
            folder: None,
            policy: None,
            lb: None,
        };
        // On failure, dropping the unfinished world removes what was made.
        world.build().with_context(|| format!("cannot make the world {:?}", world.layout))?;
        Ok(world)
    }

    fn build(&mut self) -> Result<()> {
        self.folder = Some(Folder::create(&self.name)?);
        let node = self.netns("node")?;
        let outside = self.netns("outside")?;
        (self.node, self.outside) = (Some(node.clone()), Some(outside.clone()));
        wiring::uplink(&node, &outside, &self.layout)?;
        wiring::cni(&node, &self.layout)?;
        let clients =
            ["client", "client2"].map(String::from).into_iter().zip([10, 30]).take(self.layout.clients);
        let backends = (1..=self.layout.backends).map(|i| (format!("b{i}"), 10 + i as u8));
        for (name, host) in clients.chain(backends) {
            let pod = Pod::new(name.clone(), host, self.netns(&name)?);
            wiring::pod(&node, &pod, &self.layout)?;
            self.pods.push(pod);
        }
        settle::settle(self.namespaces.iter())?;
        if self.layout.policy {
            self.policy = Some(policy::attach(&node, &self.pods)?);
        }
        self.manifests().write_node(NODE_NAME, &[NODE_V4.into(), NODE_V6.into()])
    }

    fn netns(&mut self, label: &str) -> Result<Netns> {
        let netns = Netns::create(&format!("{}-{label}", self.name))?;
        self.namespaces.push(netns.clone());
        wiring::prepare(&netns, label == "node", &self.layout)?;
        Ok(netns)
    }

    /// Runs this `lb` instead of the one next to the test.
    pub fn with_lb(mut self, binary: &Path) -> Result<Self> {
        let absolute = binary.canonicalize().with_context(|| binary.display().to_string())?;
        self.lb = Some(absolute);
        Ok(self)
    }

    fn lb_path(&self) -> Result<PathBuf> {
        self.lb.clone().map_or_else(lb_binary, Ok)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The namespace in which the agent runs.
    pub fn node(&self) -> &Netns {
        self.node.as_ref().expect("a finished world has a node")
    }

    /// The namespace beyond the node's uplink.
    pub fn outside(&self) -> &Netns {
        self.outside.as_ref().expect("a finished world has an outside")
    }

    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A pod by name: `client`, `client2`, `b1`, ...
    pub fn pod(&self, name: &str) -> &Pod {
        let named = self.pods.iter().find(|pod| pod.name == name);
        named.unwrap_or_else(|| panic!("no pod {name} in {:?}", self.layout))
    }

    pub fn client(&self) -> &Pod {
        self.pod("client")
    }

    /// All backend pods (`b1`, `b2`, ...), in order.
    pub fn backends(&self) -> &[Pod] {
        &self.pods[self.layout.clients..]
    }

    /// The backend pod `b<number>`; numbers start at 1.
    pub fn backend(&self, number: usize) -> &Pod {
        self.pod(&format!("b{number}"))
    }

    pub fn folder(&self) -> &Folder {
        self.folder.as_ref().expect("a finished world has a folder")
    }

    /// The folder of manifests that the agent watches.
    pub fn manifests(&self) -> Manifests {
        Manifests::new(self.folder().manifests())
    }

    /// Removes both ends of a pod's link.
    pub fn unplug(&self, pod: &Pod) -> Result<()> {
        self.node().ip(&format!("link del {}\n", pod.link))
    }

    /// Gives an unplugged pod a link of the same name, and waits until the link carries packets.
    pub fn plug(&self, pod: &Pod) -> Result<()> {
        wiring::pod(self.node(), pod, &self.layout)?;
        settle::settle([self.node(), &pod.netns].into_iter())
    }

    /// Attaches the toy policy to the links of a world that was made without it.
    pub fn add_policy(&mut self) -> Result<()> {
        self.policy = Some(policy::attach(self.node(), &self.pods)?);
        Ok(())
    }

    /// The programs and maps of the toy policy, if the world has it.
    pub fn policy(&self) -> Option<&Ebpf> {
        self.policy.as_ref()
    }

    /// Starts `lb agent` on the node with the folder of manifests as its source, and waits until the agent is ready.
    pub fn start_agent(&self, args: &[&str]) -> Result<Agent> {
        let mut agent = self.spawn_agent(args)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Like [`start_agent`](Self::start_agent), with the API server of a kubeconfig as the source.
    pub fn start_agent_on_api(&self, kubeconfig: &Path, args: &[&str]) -> Result<Agent> {
        let mut agent = self.spawn_agent_of(&self.lb_path()?, Source::Api(kubeconfig), args)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Like [`start_agent`](Self::start_agent), without waiting.
    pub fn spawn_agent(&self, args: &[&str]) -> Result<Agent> {
        self.spawn_agent_of(&self.lb_path()?, Source::Manifests, args)
    }

    /// Like [`spawn_agent`](Self::spawn_agent), with another `lb` (an upgrade) or another source.
    pub fn spawn_agent_of(&self, binary: &Path, source: Source, args: &[&str]) -> Result<Agent> {
        let manifests = self.folder().manifests();
        let source = match source {
            Source::Manifests => ["--manifests".as_ref(), manifests.as_path()],
            Source::Api(kubeconfig) => ["--kubeconfig".as_ref(), kubeconfig],
        };
        Agent::start(binary, self.node(), self.folder(), source, args)
    }

    /// Starts a program on the node that becomes `lb agent`, and waits until the agent is ready.
    pub fn start_agent_by(&self, program: &Path, args: Vec<String>) -> Result<Agent> {
        let mut agent = Agent::start_by(program, self.node(), self.folder(), args)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Runs an `lb` command on the node with this world's pins; returns its output, or an error with its messages.
    pub fn lb(&self, args: &[&str]) -> Result<String> {
        let output = self.lb_output(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`lb {}` failed with {}: {said}", args.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Like [`lb`](Self::lb), for commands that are expected to fail.
    pub fn lb_output(&self, args: &[&str]) -> Result<Output> {
        let binary = self.lb_path()?;
        let mut command = self.node().command(&binary);
        command.args(args).arg("--pin-dir").arg(self.folder().pins()).env("NO_COLOR", "1");
        command.output().with_context(|| binary.display().to_string())
    }

    /// Removes everything. The error lists what could not be removed.
    fn remove(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for netns in &self.namespaces {
            leftover::end_processes(netns.name());
            if let Err(error) = Netns::delete(netns.name()) {
                left.push(format!("{error:#}"));
            }
            if Path::new(netns::FOLDER).join(netns.name()).exists() {
                left.push(format!("namespace {} still exists", netns.name()));
            }
            match netns.threads_inside()? {
                0 => {}
                threads => left.push(format!("{threads} threads are still inside {}", netns.name())),
            }
        }
        if let Err(error) = Folder::remove(&self.name) {
            left.push(format!("{error:#}"));
        }
        if Path::new(folder::PARENT).join(&self.name).exists() {
            left.push(format!("folder {} still exists", self.name));
        }
        if left.is_empty() {
            Ok(())
        } else {
            bail!("world {} left something behind: {}", self.name, left.join("; "))
        }
    }
}

/// Both ends of a thousand connections are in this process, and the usual limit is 1,024 descriptors.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

impl Drop for World {
    fn drop(&mut self) {
        match self.remove() {
            Ok(()) => {}
            // A second panic would abort the process and hide the first one.
            Err(error) if std::thread::panicking() => eprintln!("{error:#}"),
            Err(error) => panic!("{error:#}"),
        }
    }
}

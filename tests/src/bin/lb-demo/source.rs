//! Where the demo's objects are kept, and how a person edits them: a folder of YAML, or a Kubernetes API.

use anyhow::{Context, Result, ensure};
use lb_tests::cluster::{ADDRESS, Cluster};
use lb_tests::world::{Agent, Cgroup, World};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use xtask::control_plane::Program;

/// The example that a person is told to edit, and an EndpointSlice in it.
const EDITED: &str = "nginx.yaml";
const EDITED_SLICE: &str = "nginx-b4x2p";

pub enum Source {
    Folder(PathBuf),
    Api { cluster: Box<Cluster>, kubeconfig: PathBuf, kubectl: PathBuf },
}

impl Source {
    /// A copy of the example files, for the agent to follow.
    pub fn folder(world: &World, examples: &Path) -> Result<Self> {
        for (name, text) in yaml(examples)? {
            world.manifests().write_text(&name, &text)?;
        }
        Ok(Self::Folder(world.folder().manifests()))
    }

    /// The examples' objects on a kube-apiserver of the node.
    pub fn api(world: &World, examples: &Path) -> Result<Self> {
        let (texts, kubectl) = (yaml(examples)?, Program::Kubectl.find()?);
        println!("Starting etcd and kube-apiserver on the node ...");
        let cluster = Box::new(Cluster::in_world(world)?);
        for (name, text) in texts {
            cluster.apply(&text).with_context(|| format!("{name}, as the API server takes it"))?;
        }
        let kubeconfig = cluster.kubeconfig("admin")?;
        Ok(Self::Api { cluster, kubeconfig, kubectl })
    }

    /// Serves the processes of this cgroup, as those of the node.
    pub fn start_agent(&self, world: &World, cgroup: &Cgroup) -> Result<Agent> {
        let cgroup = format!("--cgroup={}", cgroup.path().display());
        let args = ["--socket-lb=host", &cgroup];
        match self {
            Self::Folder(_) => world.start_agent(&args),
            Self::Api { kubeconfig, .. } => world.start_agent_on_api(kubeconfig, &args),
        }
    }

    /// What gives the spare backend to a Service, for a second terminal.
    pub fn what_to_type(&self, world: &World) -> String {
        match self {
            Self::Folder(folder) => edit_files(folder),
            Self::Api { cluster, kubeconfig, kubectl } => edit_objects(world, cluster, kubeconfig, kubectl),
        }
    }
}

fn edit_files(folder: &Path) -> String {
    let text = format!("Edit the YAML in {}, in a second terminal and as root.\n", folder.display());
    let file = folder.join(EDITED);
    if !file.exists() {
        return text + "Add the spare backend-4 (10.244.1.14, fd00:10:244:1::14) to an EndpointSlice.\n\n";
    }
    text + &format!(
        "This gives the spare backend-4 to the first EndpointSlice of {EDITED}:\n\n  \
         sed -i '0,/^endpoints:/s//&\\n- addresses: [10.244.1.14]/' {}\n\n",
        file.display()
    )
}

fn edit_objects(world: &World, cluster: &Cluster, kubeconfig: &Path, kubectl: &Path) -> String {
    let kubectl = format!(
        "nsenter --net=/run/netns/{} {} --kubeconfig {}",
        world.node().name(),
        kubectl.display(),
        kubeconfig.display()
    );
    let text = format!(
        "The API is asked in a second terminal and as root, in the node's namespace:\n\n  \
         k='{kubectl}'\n  \
         $k get services,endpointslices --all-namespaces\n  \
         $k edit service nginx\n\n"
    );
    if cluster.get("discovery.k8s.io/v1", "EndpointSlice", "default", EDITED_SLICE).is_err() {
        return text + "Add the spare backend-4 (10.244.1.14, fd00:10:244:1::14) to an EndpointSlice.\n\n";
    }
    text + &format!(
        "This gives the spare backend-4 to an EndpointSlice of nginx:\n\n  \
         $k patch endpointslice {EDITED_SLICE} --type json \
         -p '[{{\"op\":\"add\",\"path\":\"/endpoints/-\",\"value\":{{\"addresses\":[\"10.244.1.14\"]}}}}]'\n\n"
    )
}

/// Name and content of each YAML file in a folder.
fn yaml(examples: &Path) -> Result<Vec<(String, String)>> {
    let entries = fs::read_dir(examples).with_context(|| format!("--examples {}", examples.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            files.push((name.to_owned(), fs::read_to_string(&path)?));
        }
    }
    ensure!(!files.is_empty(), "no YAML file in {}", examples.display());
    Ok(files)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Api { kubeconfig, .. } => {
                write!(f, "kube-apiserver at https://{ADDRESS} there: {}", kubeconfig.display())
            }
        }
    }
}

//! Where the demo's objects are kept, and how the user edits them: a folder of manifests, or a Kubernetes API.

use anyhow::{Context, Result, ensure};
use lb_tests::cluster::{ADDRESS, Cluster};
use lb_tests::world::{Agent, Cgroup, World};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use xtask::control_plane::Program;

/// The example that the user is told to edit, and an EndpointSlice in it.
const EDITED: &str = "nginx.yaml";
const EDITED_SLICE: &str = "nginx-b4x2p";

pub enum Source {
    Folder(PathBuf),
    Api { cluster: Box<Cluster>, kubeconfig: PathBuf, kubectl: PathBuf },
}

impl Source {
    /// Copies the example files to the folder that the agent watches.
    pub fn folder(world: &World, examples: &Path) -> Result<Self> {
        for (name, text) in yaml(examples)? {
            world.manifests().write_text(&name, &text)?;
        }
        Ok(Self::Folder(world.folder().manifests()))
    }

    /// Writes the objects of the examples to a kube-apiserver on the node.
    pub fn api(world: &World, examples: &Path) -> Result<Self> {
        let (texts, kubectl) = (yaml(examples)?, Program::Kubectl.find()?);
        println!("Starting etcd and kube-apiserver on the node ...");
        let cluster = Box::new(Cluster::in_world(world)?);
        for (name, text) in texts {
            cluster.apply(&text).with_context(|| format!("cannot write {name} to the API server"))?;
        }
        let kubeconfig = cluster.kubeconfig("admin")?;
        Ok(Self::Api { cluster, kubeconfig, kubectl })
    }

    /// Starts an agent that serves the processes of this cgroup as those of the node.
    pub fn start_agent(&self, world: &World, cgroup: &Cgroup) -> Result<Agent> {
        let cgroup = format!("--cgroup={}", cgroup.path().display());
        let args = ["--socket-lb=host", &cgroup];
        match self {
            Self::Folder(_) => world.start_agent(&args),
            Self::Api { kubeconfig, .. } => world.start_agent_on_api(kubeconfig, &args),
        }
    }

    /// What to type in a second terminal to give the spare backend to a Service.
    pub fn what_to_type(&self, world: &World) -> String {
        match self {
            Self::Folder(folder) => edit_files(folder),
            Self::Api { cluster, kubeconfig, kubectl } => edit_objects(world, cluster, kubeconfig, kubectl),
        }
    }
}

fn edit_files(folder: &Path) -> String {
    let text = format!("Edit the manifests in {} as root, in a second terminal.\n", folder.display());
    let file = folder.join(EDITED);
    if !file.exists() {
        return text + "Add the spare backend-4 (10.244.1.14, fd00:10:244:1::14) to an EndpointSlice.\n\n";
    }
    text + &format!(
        "This command gives the spare backend-4 to the first EndpointSlice of {EDITED}:\n\n  \
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
        "Use the API as root, in a second terminal and in the node's namespace:\n\n  \
         k='{kubectl}'\n  \
         $k get services,endpointslices --all-namespaces\n  \
         $k edit service nginx\n\n"
    );
    if cluster.get("discovery.k8s.io/v1", "EndpointSlice", "default", EDITED_SLICE).is_err() {
        return text + "Add the spare backend-4 (10.244.1.14, fd00:10:244:1::14) to an EndpointSlice.\n\n";
    }
    text + &format!(
        "This command gives the spare backend-4 to an EndpointSlice of nginx:\n\n  \
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
                write!(
                    f,
                    "kube-apiserver at https://{ADDRESS} there, with kubeconfig {}",
                    kubeconfig.display()
                )
            }
        }
    }
}

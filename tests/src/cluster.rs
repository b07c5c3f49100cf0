//! A real Kubernetes API: kube-apiserver on etcd, in a network namespace, with no controller behind it.
//!
//! Only the test writes objects, including EndpointSlices, Nodes and `status.loadBalancer`.
//!
//! ```no_run
//! # use lb_tests::{cluster::Cluster, world::{Layout, World}};
//! # fn main() -> anyhow::Result<()> {
//! let world = World::new(Layout::routed())?;
//! let mut cluster = Cluster::in_world(&world)?;
//! cluster.apply(&std::fs::read_to_string("../examples/nginx.yaml")?)?;
//! let kubeconfig = cluster.kubeconfig("lb")?;
//! cluster.kill_apiserver()?;
//! cluster.start_apiserver()?;
//! # Ok(())
//! # }
//! ```

mod caller;
mod daemon;
mod door;
mod kube_proxy;
mod objects;
mod shared;
mod user;

pub use caller::Caller;
pub use door::Door;
pub use kube_proxy::KubeProxy;
pub use shared::Shared;
pub use user::{USERS, User};

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::control_plane::Program;

use self::daemon::{Daemon, Keeper};
use crate::world::{Home, Netns, World};

/// The address of the API, on loopback of the namespace.
pub const ADDRESS: &str = "127.0.0.1:6443";
/// The Service ranges, which are those of the worlds. The first address of the first range is `default/kubernetes`.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// A start takes three to four seconds on an idle machine.
const READY_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// Dropping a cluster ends its processes. It must be dropped before its world.
pub struct Cluster {
    // Fields are dropped in this order.
    caller: Caller,
    apiserver: Option<Daemon>,
    etcd: Option<Daemon>,
    keeper: Keeper,
    netns: Netns,
    folder: PathBuf,
    extra: Vec<String>,
    /// Set if the cluster is in no world.
    _home: Option<Home>,
}

impl Cluster {
    /// Starts a cluster on the node of a world, where the agent reaches it over loopback.
    pub fn in_world(world: &World) -> Result<Self> {
        Self::start(world.node().clone(), world.folder().path().join("cluster"), None, &[])
    }

    /// Starts a cluster in its own namespace, which has only loopback.
    pub fn alone() -> Result<Self> {
        Self::alone_with(&[])
    }

    /// Like [`alone`](Self::alone), with further flags of kube-apiserver.
    pub fn alone_with(flags: &[&str]) -> Result<Self> {
        let home = Home::create()?;
        Self::start(home.netns().clone(), home.folder().path().join("cluster"), Some(home), flags)
    }

    fn start(netns: Netns, folder: PathBuf, home: Option<Home>, flags: &[&str]) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        user::write_tokens(&tokens(&folder))?;
        let key = key(&folder);
        let mut openssl = Command::new("openssl");
        openssl.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(&key);
        crate::world::run(&mut openssl).context("cannot make a key for the tokens of service accounts")?;

        let keeper = Keeper::start(&netns);
        let extra = flags.iter().map(ToString::to_string).collect();
        let caller = Caller::new(&netns)?;
        let mut cluster =
            Self { caller, apiserver: None, etcd: None, keeper, netns, folder, extra, _home: home };
        cluster.start_etcd()?;
        cluster.start_apiserver()?;
        Ok(cluster)
    }

    /// The namespace of the cluster.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The folder with logs, tokens, certificates and etcd's data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with the server's certificate and the authority that signed it, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    /// Writes a kubeconfig for one of [`USERS`]; returns its path.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let address = ADDRESS.parse().expect("ADDRESS is an address and a port");
        self.kubeconfig_at(user, address)
    }

    /// Like [`kubeconfig`](Self::kubeconfig), with another address of the server.
    pub fn kubeconfig_at(&self, user: &str, address: SocketAddr) -> Result<PathBuf> {
        let by = if address.to_string() == ADDRESS { String::new() } else { format!("-{}", address.port()) };
        let file = self.folder.join(format!("{user}{by}.kubeconfig"));
        fs::write(&file, user::kubeconfig(user, address, &self.certificate())?)?;
        Ok(file)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let data = self.data();
        let data = data.to_string_lossy();
        // The data of a test need not survive a crash of the machine.
        let args = [
            ["--data-dir", &data],
            ["--listen-client-urls", ETCD],
            ["--advertise-client-urls", ETCD],
            ["--listen-peer-urls", ETCD_PEERS],
            ["--initial-advertise-peer-urls", ETCD_PEERS],
            ["--initial-cluster", &format!("default={ETCD_PEERS}")],
            ["--log-level", "warn"],
        ];
        let args = args.as_flattened().iter().map(ToString::to_string).chain(["--unsafe-no-fsync".into()]);
        self.etcd = Some(self.keeper.spawn(Program::Etcd, args.collect(), &self.folder)?);
        Ok(())
    }

    /// Starts kube-apiserver, which must not be running, and waits until it is ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        self.spawn_apiserver()?;
        self.wait_until_ready()
    }

    /// Starts kube-apiserver without waiting.
    pub fn spawn_apiserver(&mut self) -> Result<()> {
        assert!(self.apiserver.is_none(), "kube-apiserver is already running");
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let (ip, port) = ADDRESS.split_once(':').expect("ADDRESS is an address and a port");
        let key = path(key(&self.folder));
        let args = [
            ("etcd-servers", ETCD),
            ("bind-address", ip),
            // Without this flag, it looks for a default route, and ends if there is none.
            ("advertise-address", ip),
            ("secure-port", port),
            ("cert-dir", &path(self.folder.join("certificates"))),
            ("service-cluster-ip-range", SERVICE_RANGES),
            ("authorization-mode", "RBAC"),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            ("service-account-key-file", &key),
            ("service-account-signing-key-file", &key),
            ("token-auth-file", &path(tokens(&self.folder))),
            // Endpoints of `default/kubernetes` may not have a loopback address.
            ("endpoint-reconciler-type", "none"),
            // The tests write at a high rate.
            ("max-requests-inflight", "0"),
            ("max-mutating-requests-inflight", "0"),
            ("enable-priority-and-fairness", "false"),
            // Pods of the tests are not started.
            ("disable-admission-plugins", "ServiceAccount"),
        ];
        let args = args.iter().map(|(flag, value)| format!("--{flag}={value}"));
        let args = args.chain(self.extra.iter().cloned()).collect();
        self.apiserver = Some(self.keeper.spawn(Program::ApiServer, args, &self.folder)?);
        Ok(())
    }

    /// Waits for the answer `ok` of `/readyz`, and for the objects that the server itself creates.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let not_ready = match self.is_ready() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            for daemon in [&mut self.etcd, &mut self.apiserver].into_iter().flatten() {
                daemon.require_running()?;
            }
            if Instant::now() > deadline {
                let log = self.apiserver.as_ref().map(Daemon::log).unwrap_or_default();
                bail!("kube-apiserver is not ready after {READY_LIMIT:?}: {not_ready:#}\n{log}");
            }
            std::thread::sleep(STEP);
        }
    }

    fn is_ready(&mut self) -> Result<()> {
        if !self.certificate().exists() {
            bail!("the server has no certificate yet");
        }
        if !self.caller.is_connected() {
            self.caller.connect(&self.kubeconfig("admin")?)?;
        }
        let paths =
            ["/readyz", "/api/v1/namespaces/default/services/kubernetes", "/api/v1/namespaces/kube-system"];
        self.run(move |client| async move {
            for path in paths {
                client.request_text(http::Request::get(path).body(Vec::new())?).await?;
            }
            Ok(())
        })
    }

    /// Runs work with a client in the namespace of the cluster, as a user who may do everything.
    pub fn run<F, T>(&self, work: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.caller.run(work)
    }

    /// Sends SIGKILL: connections are reset.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        self.apiserver.take().context("kube-apiserver is not running")?.kill()
    }

    /// Sends SIGTERM, and waits until the server has ended: watches end in an orderly way.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        self.apiserver.take().context("kube-apiserver is not running")?.stop(STOP_LIMIT)
    }

    /// Sends SIGSTOP. Until the returned value is dropped, connections are accepted and stay open, but no request is
    /// answered.
    pub fn freeze_apiserver(&self) -> Result<Frozen> {
        let pid = self.apiserver.as_ref().context("kube-apiserver is not running")?.pid();
        kill(pid, Signal::SIGSTOP)?;
        Ok(Frozen(pid))
    }

    /// Restarts the server with a new certificate: kubeconfigs must be written again.
    pub fn renew_certificate(&mut self) -> Result<()> {
        self.kill_apiserver()?;
        fs::remove_dir_all(self.folder.join("certificates"))?;
        self.caller.disconnect();
        self.start_apiserver()
    }

    /// Copies everything that is stored now, for [`restore`](Self::restore). etcd is stopped for a moment.
    pub fn save(&mut self) -> Result<Saved> {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let saved = Saved { folder: self.folder.join(format!("saved-{number}")) };
        self.etcd.take().context("etcd is not running")?.stop(STOP_LIMIT)?;
        copy(&self.data(), &saved.folder)?;
        self.start_etcd()?;
        if self.apiserver.is_some() {
            self.wait_until_ready()?;
        }
        Ok(saved)
    }

    /// Ends the server, restores the saved state, and starts the server.
    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        if self.apiserver.is_some() {
            self.kill_apiserver()?;
        }
        self.etcd.take().context("etcd is not running")?.kill()?;
        fs::remove_dir_all(self.data())?;
        copy(&saved.folder, &self.data())?;
        self.start_etcd()?;
        self.start_apiserver()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("etcd-data")
    }
}

/// A server that hangs until this is dropped.
pub struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        // The server may have ended meanwhile.
        kill(self.0, Signal::SIGCONT).ok();
    }
}

/// A copy of what was stored at a time.
#[derive(Debug)]
pub struct Saved {
    folder: PathBuf,
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    crate::world::run(Command::new("cp").arg("--recursive").arg(from).arg(to)).map(drop)
}

fn key(folder: &Path) -> PathBuf {
    folder.join("service-accounts.key")
}

fn tokens(folder: &Path) -> PathBuf {
    folder.join("tokens.csv")
}

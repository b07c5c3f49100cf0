//! Sockets of the host's own processes: attaches the programs to a cgroup, and ends connections whose backend is gone.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use aya::Ebpf;
use lb_common::{PeerSide, Proto, SocketKey};
use tracing::{debug, error, info, warn};

use crate::dataplane::hook::cgroup::{self, Cgroup, SocketLb};
use crate::dataplane::load::Constants;
use crate::dataplane::maps::{Maps, SocketTable};
use crate::dataplane::pins::Pins;
use crate::node::capabilities;
use crate::node::netns;
use crate::node::sockdiag::{self, Connected};
use crate::tables::op::Op;

/// Time without a report after which a last pass ends the sockets that were still connecting to a backend that is gone.
const AGAIN: Duration = Duration::from_secs(1);
/// The shortest time between two passes, however fast backends go.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default, clap::Args)]
pub struct SocketOptions {
    /// Connections translated at the socket: those of the host's own processes, those of pods too, or none
    #[arg(long = "socket-lb", value_enum, default_value_t)]
    pub mode: SocketLb,
    /// The cgroup v2 folder whose processes are served [default: the root of the host's hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

impl SocketOptions {
    /// Adds what the programs have to know about the host.
    ///
    /// # Errors
    /// If the mode is `Host`, and the kernel cannot tell network namespaces apart (before 5.14).
    pub fn constants(&self, constants: Constants) -> anyhow::Result<Constants> {
        let host_netns = match self.mode {
            SocketLb::Off => 0,
            SocketLb::Host => netns::cookie()
                .context("read SO_NETNS_COOKIE (kernel 5.14); --socket-lb=all works without it")?,
            // Without a cookie, no process counts as the host's: NodePorts on loopback are not served.
            SocketLb::All => netns::cookie().unwrap_or(0),
        };
        Ok(Constants { host_netns, every_netns: self.mode == SocketLb::All, ..constants })
    }
}

/// Keeps the programs attached to the host's sockets, and ends the sockets whose backend is gone.
pub struct HostSockets {
    options: SocketOptions,
    /// The cgroup to which the programs are attached.
    cgroup: Option<Cgroup>,
    /// Why they are not attached, as logged.
    complaint: Option<String>,
    /// Reports that backends are gone. `None` if nothing is translated.
    gone: Option<Sender<()>>,
}

impl HostSockets {
    /// # Errors
    /// If the table of sockets cannot be opened, or no thread can be started.
    pub fn new(options: SocketOptions, pins: &Pins, maps: &Maps) -> anyhow::Result<Self> {
        let mut gone = None;
        if options.mode == SocketLb::All && !capabilities::has_sys_admin() {
            warn!("sockets in pods will not end when their backend is gone: CAP_SYS_ADMIN is missing");
        }
        if options.mode != SocketLb::Off {
            let (tell, told) = channel();
            let table = SocketTable::open(pins, maps)?;
            let orphans = Orphans { table, in_pods: options.mode == SocketLb::All, complaint: None };
            std::thread::Builder::new()
                .name("sockets".to_owned())
                .spawn(move || orphans.end_when(&told))
                .context("cannot start a thread")?;
            gone = Some(tell);
        }
        Ok(Self { options, cgroup: None, complaint: None, gone })
    }

    /// Attaches the programs to the cgroup, or detaches them if the mode is `Off`. A failure is logged once, returned,
    /// and tried again by the next call: the host is never silently without Services.
    pub fn reconcile(&mut self, object: &mut Ebpf, pins: &Pins) -> Option<String> {
        let failed = self.try_reconcile(object, pins).err();
        let complaint = failed.map(|failed| format!("processes of the host reach no Service: {failed:#}"));
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            error!("{complaint} (pods still do; if this is intended, use --socket-lb=off)");
        }
        self.complaint.clone_from(&complaint);
        complaint
    }

    fn try_reconcile(&mut self, object: &mut Ebpf, pins: &Pins) -> anyhow::Result<()> {
        if self.options.mode == SocketLb::Off {
            return cgroup::detach(pins);
        }
        if self.cgroup.as_ref().is_some_and(|cgroup| cgroup::is_attached(pins, cgroup)) {
            return Ok(());
        }
        let cgroup = Cgroup::open(self.options.cgroup.as_deref())?;
        cgroup::attach(object, pins, &cgroup)?;
        info!(cgroup = cgroup.place, mode = ?self.options.mode, "attached to the host's sockets");
        self.cgroup = Some(cgroup);
        Ok(())
    }

    /// Ends the sockets whose backend was just removed from the tables.
    pub fn applied(&self, ops: &[Op]) {
        if ops.iter().any(|op| matches!(op, Op::RetireBackend { .. })) {
            self.end_orphans();
        }
    }

    /// Ends every socket whose backend is gone, including sockets that an earlier agent left.
    pub fn end_orphans(&self) {
        if let Some(gone) = &self.gone {
            // The thread lives as long as the agent.
            let _ = gone.send(());
        }
    }
}

/// Ends the sockets whose backend is gone.
struct Orphans {
    table: SocketTable,
    /// Whether sockets in network namespaces of pods are translated, too.
    in_pods: bool,
    /// What failed, as logged.
    complaint: Option<String>,
}

impl Orphans {
    /// Ends these sockets whenever `told`, and until no socket can still be connecting to a backend that is gone.
    fn end_when(mut self, told: &Receiver<()>) {
        while told.recv().is_ok() {
            loop {
                self.pass(false);
                std::thread::sleep(AT_MOST_EVERY);
                match told.recv_timeout(AGAIN) {
                    Ok(()) => while told.try_recv().is_ok() {},
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.pass(true);
        }
    }

    fn pass(&mut self, forget: bool) {
        let failed = self.end(forget).err();
        let complaint = failed.map(|failed| format!("cannot end sockets whose backend is gone: {failed:#}"));
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!("{complaint}");
        }
        self.complaint = complaint;
    }

    /// Ends these sockets in each namespace that counts. If `forget`, also removes their entries from the table.
    fn end(&mut self, forget: bool) -> anyhow::Result<()> {
        let mut orphans = BTreeSet::new();
        let mut protocols = BTreeSet::new();
        self.table.for_each_orphan(|key, socket| {
            orphans.insert(*key);
            protocols.extend(Proto::from_number(socket.proto));
        })?;
        if orphans.is_empty() {
            return Ok(());
        }
        let is_orphan = |socket: &Connected| {
            let (addr, port) = socket.peer();
            let side = PeerSide::Backend.number();
            orphans.contains(&SocketKey { cookie: socket.cookie(), addr, port, side, pad: [0; 5] })
        };
        let here =
            || protocols.iter().map(|proto| sockdiag::end(*proto, is_orphan)).sum::<io::Result<usize>>();
        let mut ended = here()?;
        let there = if self.in_pods { in_pods(here) } else { Ok(0) };
        ended += there.as_ref().unwrap_or(&0);
        debug!(ended, "sockets whose backend is gone");
        if forget {
            orphans.iter().for_each(|key| self.table.forget(key));
        }
        there.map(drop)
    }
}

/// Ends sockets in each network namespace except this one, and returns how many. A namespace that cannot be entered
/// does not affect the others.
fn in_pods(end: impl Fn() -> io::Result<usize> + Sync) -> anyhow::Result<usize> {
    let others = netns::others()
        .with_context(|| format!("list {}, which names the network namespaces of pods", netns::FOLDER))?;
    let (ended, failed): (Vec<_>, Vec<_>) =
        others.iter().map(|netns| netns::inside(netns, &end)).partition(Result::is_ok);
    if let Some(Err(error)) = failed.into_iter().next() {
        return Err(error).context("in network namespaces of pods (entering one needs CAP_SYS_ADMIN)");
    }
    Ok(ended.into_iter().flatten().sum())
}

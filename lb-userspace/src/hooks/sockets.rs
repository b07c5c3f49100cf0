//! Sockets of the host's own processes: the cgroup that the programs hang on, and the end of connections whose
//! backend is gone.

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

/// Between looks for sockets whose backend is gone; and after the last, for those that were on their way to it.
const AGAIN: Duration = Duration::from_secs(1);
/// However fast backends go.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default, clap::Args)]
pub struct SocketOptions {
    /// Whose connections are translated at the socket: those of the host's own processes, those of pods too, or none
    #[arg(long = "socket-lb", value_enum, default_value_t)]
    pub mode: SocketLb,
    /// The cgroup v2 folder whose processes these are [default: the root of the host's hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

impl SocketOptions {
    /// Completes what programs are to know of the host.
    ///
    /// # Errors
    /// Where the kernel does not tell network namespaces apart (5.14).
    pub fn constants(&self, constants: Constants) -> anyhow::Result<Constants> {
        let host_netns = match self.mode {
            SocketLb::Off => 0,
            SocketLb::Host => netns::cookie()
                .context("SO_NETNS_COOKIE (kernel 5.14), for --socket-lb=host; --socket-lb=all needs none")?,
            // Without, nothing is the host's: NodePorts on loopback are not served.
            SocketLb::All => netns::cookie().unwrap_or(0),
        };
        Ok(Constants { host_netns, every_netns: self.mode == SocketLb::All, ..constants })
    }
}

/// The agent's hold on them.
pub struct HostSockets {
    options: SocketOptions,
    /// What the programs hang on.
    cgroup: Option<Cgroup>,
    /// Why they hang nowhere, as it was logged.
    complaint: Option<String>,
    /// Tells that backends are gone. `None` where nothing is translated.
    gone: Option<Sender<()>>,
}

impl HostSockets {
    /// # Errors
    /// Where the tables cannot be opened once more, or there is no thread to be had.
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

    /// Hangs the programs on the cgroup, or takes them away, where that is not so. What does not work is logged once,
    /// returned, and tried again with the next call: the host is never silently without Services.
    pub fn reconcile(&mut self, object: &mut Ebpf, pins: &Pins) -> Option<String> {
        let failed = self.try_reconcile(object, pins).err();
        let complaint = failed.map(|failed| format!("processes of the host reach no Service: {failed:#}"));
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            error!("{complaint} (pods do; --socket-lb=off says that this is meant)");
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

    /// Ends the sockets whose backend was just taken out of the tables.
    pub fn applied(&self, ops: &[Op]) {
        if ops.iter().any(|op| matches!(op, Op::RetireBackend { .. })) {
            self.end_orphans();
        }
    }

    /// Ends the sockets whose backend is gone, of whatever time.
    pub fn end_orphans(&self) {
        if let Some(gone) = &self.gone {
            // The thread lives as long as the agent.
            let _ = gone.send(());
        }
    }
}

/// Sockets whose backend is gone.
struct Orphans {
    table: SocketTable,
    /// Are sockets in network namespaces of pods translated too?
    in_pods: bool,
    /// What went wrong, as it was logged.
    complaint: Option<String>,
}

impl Orphans {
    /// Ends them whenever it is `told`, and until no one can be on its way to them any more.
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
        let complaint = failed.map(|failed| format!("sockets of backends that are gone: {failed:#}"));
        if let Some(complaint) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!("{complaint}");
        }
        self.complaint = complaint;
    }

    /// Ends them in each namespace that counts, and `forget`s what was known of them.
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
        debug!(ended, "sockets of backends that are gone");
        if forget {
            orphans.iter().for_each(|key| self.table.forget(key));
        }
        there.map(drop)
    }
}

/// Ends sockets in each network namespace but this one; how many. One that cannot be entered does not keep the others.
fn in_pods(end: impl Fn() -> io::Result<usize> + Sync) -> anyhow::Result<usize> {
    let others = netns::others()
        .with_context(|| format!("{}, where namespaces of pods have their names", netns::FOLDER))?;
    let (ended, failed): (Vec<_>, Vec<_>) =
        others.iter().map(|netns| netns::inside(netns, &end)).partition(Result::is_ok);
    if let Some(Err(error)) = failed.into_iter().next() {
        return Err(error).context("in network namespaces of pods, which takes CAP_SYS_ADMIN to enter");
    }
    Ok(ended.into_iter().flatten().sum())
}

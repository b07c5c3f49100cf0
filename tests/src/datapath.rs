//! The programs and maps of lb, loaded for packet tests: without links and agent, and with their own pin folder.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{ProgramInfo, SchedClassifier, Xdp};
use lb_common::{
    Algorithm, BackendState, Counter, Endpoint, Finding, Flow, FlowKey, FrontendKey, FrontendKind, Proto,
    ServiceRecord, names,
};
use lb_userspace::command::flows::{self, FlowView};
use lb_userspace::dataplane::Kernel;
use lb_userspace::dataplane::load::{self, Constants, Verification};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::migrate::{self, Converter, Migration};
use lb_userspace::dataplane::pins::{Pins, Set};
use lb_userspace::dataplane::shape::Sizes;
use lb_userspace::dataplane::sweep::Sweep;
use lb_userspace::desired::{BackendShare, Desired, DesiredPort, ServiceRanges};
use lb_userspace::objects::name::{Family, ServicePortName};
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::tables::interest::Interest;
use lb_userspace::tables::op::Op;
use lb_userspace::tables::plane::Plane;
use tempfile::TempDir;

use crate::packet::{Packet, Place};
use crate::program::{Outcome, Run, run_xdp};

/// Verdicts, with the numbers of tc and TCX.
pub const CONTINUE: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// Loaded programs with their own tables.
pub struct Datapath {
    object: Ebpf,
    pub kernel: Kernel,
    planner: Planner,
    services: BTreeMap<ServicePortName, Option<DesiredPort>>,
    pins: Pins,
    _folder: TempDir,
}

/// A change of the tables that is under way.
pub struct Change {
    plan: migrate::MigrationPlan,
    before: Set,
    usual: Ebpf,
}

/// A service port from the texts of its frontend and backends (`ADDRESS:PORT`).
pub fn service(proto: Proto, frontend: &str, backends: &[&str]) -> (ServicePortName, DesiredPort) {
    let frontend = endpoint(frontend);
    let backends: BTreeSet<Endpoint> = backends.iter().map(|text| endpoint(text)).collect();
    let share = BackendShare { state: BackendState::Active, weight: 1 };
    let name = ServicePortName {
        namespace: "default".into(),
        name: format!("s-{}-{}", frontend.addr, frontend.port).replace(['.', ':'], "-").into(),
        port: "".into(),
        proto,
        family: Family::of(frontend.addr),
    };
    let port = DesiredPort {
        frontends: [(FrontendKey::new(frontend.addr, frontend.port, proto as u8), FrontendKind::Cluster)]
            .into(),
        cluster: backends.clone(),
        local: BTreeSet::new(),
        flags: if backends.is_empty() { 0 } else { ServiceRecord::HAS_ENDPOINTS },
        backends: backends.into_iter().map(|backend| (backend, share)).collect(),
        algorithm: Algorithm::Random,
        affinity_timeout: 0,
        source_ranges: BTreeSet::new(),
    };
    (name, port)
}

/// The same service with one more frontend; for kind NodePort, only the port of `frontend` counts.
pub fn also_on(
    (name, mut port): (ServicePortName, DesiredPort),
    kind: FrontendKind,
    frontend: &str,
) -> (ServicePortName, DesiredPort) {
    let Endpoint { mut addr, port: number, .. } = endpoint(frontend);
    if kind == FrontendKind::NodePort {
        addr = name.family.unspecified();
    }
    port.frontends.insert(FrontendKey::new(addr, number, name.proto as u8), kind);
    (name, port)
}

pub fn endpoint(text: &str) -> Endpoint {
    let Place(addr) = text.into();
    of(addr)
}

fn of(addr: SocketAddr) -> Endpoint {
    Endpoint::new(addr.ip().into(), lb_common::Port::new(addr.port()))
}

impl Datapath {
    /// # Errors
    /// If the caller is not root, or the kernel refuses the programs.
    pub fn new() -> Result<Self> {
        Self::with(Constants::default())
    }

    /// Like `new`, with other settings of the packet path.
    ///
    /// # Errors
    /// The same as those of `new`.
    pub fn with(constants: Constants) -> Result<Self> {
        Self::load(constants, Sizes::default(), Verification::WhenUsed)
    }

    /// Like `new`, with tables of other sizes.
    ///
    /// # Errors
    /// The same as those of `new`.
    pub fn sized(sizes: Sizes) -> Result<Self> {
        Self::load(Constants::default(), sizes, Verification::WhenUsed)
    }

    /// Like `new`, and the kernel verifies every program at once.
    ///
    /// # Errors
    /// The same as those of `new`.
    pub fn verified() -> Result<Self> {
        Self::load(Constants::default(), Sizes::default(), Verification::Now)
    }

    fn load(constants: Constants, sizes: Sizes, when: Verification) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("lbt-datapath").tempdir_in("/run").context("needs root")?;
        let pins = Pins::new(folder.path());
        pins.create()?;
        // Runs of a program have no link, and no route leads to where their packets come from.
        let source_check = constants.source_check && when == Verification::Now;
        let constants = Constants { source_check, ..constants };
        let object = load::open(&pins, constants, sizes, &[], when)?.object;
        let mut kernel = Kernel::new(Maps::open(&pins, true)?)?;
        let planner = Planner::restore(kernel.read()?, Limits::default());
        let services = BTreeMap::new();
        Ok(Self { object, kernel, planner, services, pins, _folder: folder })
    }

    /// Adds or changes service ports. Packets meet the new state as soon as this returns.
    pub fn set(&mut self, services: impl IntoIterator<Item = (ServicePortName, DesiredPort)>) -> Result<()> {
        self.services.extend(services.into_iter().map(|(name, port)| (name, Some(port))));
        self.settle()
    }

    /// Removes a service port.
    pub fn remove(&mut self, name: &ServicePortName) -> Result<()> {
        self.services.insert(name.clone(), None);
        self.settle()
    }

    /// Sets the node's own addresses on which NodePorts are served.
    pub fn set_node_addresses(&mut self, addresses: &[&str]) -> Result<()> {
        let addresses = addresses.iter().map(|text| Ok(text.parse::<IpAddr>()?.into()));
        self.desire(Desired { node_addresses: Some(addresses.collect::<Result<_>>()?), ..Desired::default() })
    }

    /// Sets the ranges of ClusterIPs, which apply in addition to the ClusterIPs of the services.
    pub fn set_service_ranges(&mut self, ranges: ServiceRanges) -> Result<()> {
        self.desire(Desired { service_ranges: Some(ranges), ..Desired::default() })
    }

    fn settle(&mut self) -> Result<()> {
        let services = std::mem::take(&mut self.services);
        self.desire(Desired { services, ..Desired::default() })
    }

    /// Applies the given part of a state; the rest stays as it is.
    pub fn desire(&mut self, mut desired: Desired) -> Result<()> {
        loop {
            let plan = self.planner.plan(std::mem::take(&mut desired));
            self.kernel.apply(&plan.ops)?;
            if let Some(batch) = self.planner.pending() {
                self.kernel.grace()?;
                self.planner.reclaim(batch);
            }
            if !self.planner.deferred() {
                return Ok(());
            }
        }
    }

    /// Runs this many passes of the sweep, and clears the bits that the sweep finds idle, as an agent does.
    pub fn sweep(&mut self, passes: usize) -> Result<()> {
        let mut sweep = Sweep::default();
        for _ in 0..passes {
            let program = load::program(&mut self.object, names::SWEEP)?;
            let (_, clear) = sweep.pass(&self.kernel.maps, program, self.planner.tables())?;
            for bit in clear {
                let op = Op::ClearInterest { bit };
                self.kernel.apply(std::slice::from_ref(&op))?;
                self.planner.observe(&op);
            }
        }
        Ok(())
    }

    /// Moves the last packet of every flow back by this many ticks.
    pub fn age(&mut self, ticks: u32) -> Result<()> {
        self.change_flows(|flow| {
            flow.last_seen = flow.last_seen.checked_sub(ticks).context("the machine is up for too short")?;
            Ok(())
        })
    }

    /// Moves the first packet of every flow back by this many ticks.
    pub fn begin_earlier(&mut self, ticks: u32) -> Result<()> {
        self.change_flows(|flow| {
            flow.first_seen =
                flow.first_seen.checked_sub(ticks).context("the machine is up for too short")?;
            Ok(())
        })
    }

    /// Empties the flow table: what follows begins anew, and no other tables have to be loaded for it.
    pub fn forget_flows(&mut self) -> Result<()> {
        let keys = self.flow_keys()?;
        let mut table: HashMap<_, FlowKey, Flow> =
            Map::HashMap(MapData::from_pin(self.pin(names::FLOWS))?).try_into()?;
        for key in &keys {
            table.remove(key)?;
        }
        Ok(())
    }

    fn change_flows(&mut self, change: impl Fn(&mut Flow) -> Result<()>) -> Result<()> {
        let mut flows = Vec::new();
        self.kernel.maps.for_each_flow(|key, flow| flows.push((*key, *flow)))?;
        let mut table: HashMap<_, FlowKey, Flow> =
            Map::HashMap(MapData::from_pin(self.pin(names::FLOWS))?).try_into()?;
        for (key, mut flow) in flows {
            change(&mut flow)?;
            table.insert(key, flow, 0)?;
        }
        Ok(())
    }

    /// Whether this bit of the bitmaps is set.
    pub fn has_bit(&self, bit: u32) -> bool {
        Interest::from_words(self.kernel.maps.interest.words()).contains(bit)
    }

    /// Replaces the current tables by tables of other sizes, or of this schema if the current ones are older, as a
    /// starting agent does. Until the change ends, the programs also look for flows in the previous tables.
    pub fn change(&mut self, sizes: Sizes, converters: &[Converter]) -> Result<Change> {
        let constants = Constants { source_check: false, ..Constants::default() };
        let opened = load::open(&self.pins, constants, sizes, converters, Verification::WhenUsed)?;
        let Migration { plan, before, reading_through } = opened.migration.context("nothing has changed")?;
        self.object = reading_through;
        self.kernel = Kernel::new(Maps::open(&self.pins, true)?)?;
        self.planner = Planner::restore(self.kernel.read()?, Limits::default());
        self.kernel.apply(&self.planner.missing_bits())?;
        Ok(Change { plan, before, usual: opened.object })
    }

    /// Ends the change: copies the flows that no packet asked for, and puts the usual programs in place. Returns how
    /// many entries were copied.
    pub fn end(&mut self, change: Change) -> Result<usize> {
        let copied = migrate::copy_flows(&change.plan, &change.before, &self.pins.tables())?;
        change.before.remove()?;
        self.object = change.usual;
        Ok(copied)
    }

    /// The path at which a map is pinned.
    pub fn pin(&self, map: &str) -> std::path::PathBuf {
        self.pins.map(map)
    }

    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        load::program(&mut self.object, name)
    }

    /// What XDP finds for a frame. The agent does not load this program, so this function does.
    pub fn look_up(&mut self, packet: &Packet) -> Result<Finding> {
        let program = self.object.program_mut(names::XDP_LOOKUP).context("no program for XDP")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let number = run_xdp(program, packet)?;
        Finding::from_number(number).with_context(|| format!("{number} is not a finding"))
    }

    /// What the kernel reports about a program of any kind.
    pub fn info(&self, name: &str) -> Result<ProgramInfo> {
        let program = self.object.program(name).with_context(|| format!("no program {name}"))?;
        Ok(program.info()?)
    }

    /// Runs the program for packets from a pod.
    pub fn from_pod(&mut self, packet: &Packet) -> Result<Outcome> {
        Run::new().packet(self.program(names::POD_INGRESS)?, packet)
    }

    /// Runs the program for packets to a pod.
    pub fn to_pod(&mut self, packet: &Packet) -> Result<Outcome> {
        Run::new().packet(self.program(names::POD_EGRESS)?, packet)
    }

    pub fn counter(&self, counter: Counter) -> Result<u64> {
        self.kernel.maps.counter(counter)
    }

    /// All flows, including direct ones.
    pub fn flows(&self) -> Result<Vec<FlowView>> {
        flows::read(&self.kernel.maps, true)
    }

    /// The keys of the flow table: two for each flow.
    pub fn flow_keys(&self) -> Result<Vec<FlowKey>> {
        let mut keys = Vec::new();
        self.kernel.maps.for_each_flow(|key, _| keys.push(*key))?;
        Ok(keys)
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if let Err(error) = self.pins.remove() {
            eprintln!("cannot remove the test's pin folder: {error:#}");
        }
    }
}

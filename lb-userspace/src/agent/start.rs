//! From a configuration to an agent that is ready to run: opens the tables, connects the source, starts the servers.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use aya::Ebpf;
use tokio::sync::mpsc;
use tracing::error;

use super::config::Config;
use super::pace::Pace;
use super::tables::Writer;
use super::{Agent, Inputs};
use crate::dataplane::Kernel;
use crate::dataplane::load::{self, Constants, Opened, Verification};
use crate::dataplane::maps::Maps;
use crate::dataplane::migrate::{self, Migration};
use crate::dataplane::pins::Pins;
use crate::dataplane::shape::Sizes;
use crate::dataplane::sweep::Sweep;
use crate::hooks::links::Links;
use crate::hooks::sockets::HostSockets;
use crate::model::Model;
use crate::node::netdev::Netdev;
use crate::observe::events::Recorder;
use crate::observe::http::Surfaces;
use crate::observe::metrics;
use crate::observe::metrics::traffic::Traffic;
use crate::observe::moment::Moment;
use crate::observe::status_socket::{self, Identity};
use crate::observe::telemetry::Telemetry;
use crate::plan::{Limits, Planner};
use crate::tables::plane::Plane;

impl Agent {
    /// Does everything before the first turn of the loop. The caller holds the lock.
    pub(super) async fn start(
        config: Config,
        pins: Pins,
        constants: Constants,
    ) -> anyhow::Result<(Self, Inputs)> {
        let DataPath { object, migration, kernel, planner } = DataPath::open(&pins, constants, config.sizes)?;
        let telemetry = Arc::new(Telemetry::new(Moment::now()));
        let place = config.source.to_string();
        let (watch, events) = config.source.watch(&config.node_name, &telemetry, planner.tables()).await?;
        telemetry.health(|health| {
            health.set_timeout(config.health_timeout);
            if !planner.tables().names.is_empty() {
                health.inherit();
            }
        });
        let recorder =
            watch.client().map(|client| Recorder::start(client, &config.node_name, Arc::clone(&telemetry)));
        let identity = Identity {
            node_name: config.node_name.clone(),
            source: place,
            link_roles: config.roles.clone(),
            sources: watch.progress(),
        };
        let traffic = Traffic::new(kernel.maps.again(&pins)?, config.metrics_limit)?;
        metrics::register_scraped(telemetry.registry(), traffic, &identity.sources)?;
        let status = listen(&config.pin_dir, identity).await;
        let (surfaces, ports_failed) =
            Surfaces::start(config.surfaces, Arc::clone(&telemetry), recorder.clone(), status)?;
        let (netdev, link_changes) = Netdev::connect()?;
        let (reclaim_in, reclaimed) = mpsc::channel(4);
        let mut agent = Self {
            watch,
            telemetry,
            surfaces,
            recorder,
            model: Model::with_rules(&*config.node_name, config.rules),
            netdev: netdev.clone(),
            host_sockets: HostSockets::new(config.host_sockets, &pins, &kernel.maps)?,
            writer: Writer::new(planner, kernel, reclaim_in),
            links: Links::new(object, pins.clone(), netdev, config.attach, config.roles)?,
            pins,
            sweep: Sweep::default(),
            sizes: config.sizes,
            is_crowded: false,
            pace: Pace::default(),
        };
        if let Some(migration) = migration {
            agent.links.migrate(migration).await.context("take over the flows of the previous tables")?;
        }
        let link_changes = Box::new(link_changes);
        Ok((agent, Inputs { events, reclaimed, link_changes, ports_failed }))
    }
}

/// The tables that an earlier agent left, or new ones, and the programs that use them.
struct DataPath {
    object: Ebpf,
    /// Present if the tables replace those that an earlier agent left.
    migration: Option<Migration>,
    kernel: Kernel,
    planner: Planner,
}

impl DataPath {
    fn open(pins: &Pins, constants: Constants, sizes: Sizes) -> anyhow::Result<Self> {
        let Opened { object, migration } =
            load::open(pins, constants, sizes, migrate::CONVERTERS, Verification::Now)?;
        let mut kernel = Kernel::new(Maps::open(pins, true)?)?;
        let tables = kernel.read().context("read the tables back")?;
        let mut planner = Planner::restore(tables, Limits::default());
        // Before programs of this version run on the links.
        kernel.apply(&planner.missing_bits()).context("set the bits that the tables need")?;
        Ok(Self { object, migration, kernel, planner })
    }
}

/// Opens the socket of `lb status`. The data path does not depend on the socket: a failure is only logged.
async fn listen(pin_dir: &Path, identity: Identity) -> Option<(std::os::unix::net::UnixListener, Identity)> {
    match status_socket::listen(pin_dir).await {
        Ok(listener) => Some((listener, identity)),
        Err(failed) => {
            error!("cannot serve `lb status`: {failed:#}");
            None
        }
    }
}

//! The pure half of the agent behind a real client: events, model, planner, and tables in memory.

use std::time::Duration;

use lb_userspace::command::services;
use lb_userspace::model::Model;
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::source::api::{self, Access, Times, Watch};
use lb_userspace::tables::Tables;
use lb_userspace::tables::plane::{MemoryPlane, Plane};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::server::Server;

pub const NODE: &str = "node-1";
/// The time within which anything expected must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Agent {
    pub watch: Watch,
    pub model: Model,
    events: mpsc::Receiver<lb_userspace::objects::event::Event>,
    planner: Planner,
    plane: MemoryPlane,
    /// The number of operations since the agent's start.
    pub operations: usize,
}

pub fn times() -> Times {
    Times {
        connect: Duration::from_millis(300),
        answer: Duration::from_millis(500),
        ping: Duration::from_millis(200),
        pong: Duration::from_millis(300),
        retry: Duration::from_millis(200),
        resume: Duration::from_secs(30),
        confirm: Duration::from_millis(300),
        node: Duration::from_millis(200),
    }
}

pub fn access(server: &Server) -> Access {
    Access { server: Some(server.url()), times: times(), ..Access::default() }
}

impl Agent {
    pub async fn start(server: &Server) -> Self {
        Self::with(access(server), Tables::default()).await
    }

    pub async fn with(access: Access, tables: Tables) -> Self {
        // The log is shown if a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("lb_userspace=debug").try_init();
        let (events_in, events) = mpsc::channel(64);
        let watch = api::watch(access, NODE, &tables, events_in).await.unwrap();
        let model = Model::new(NODE);
        let planner = Planner::restore(tables.clone(), Limits::default());
        let plane = MemoryPlane::new(tables);
        Self { watch, model, events, planner, plane, operations: 0 }
    }

    /// Takes events until the Services in the tables match `expected`: `name endpoint,endpoint` each, with `; `
    /// between them.
    pub async fn until(&mut self, expected: &str) {
        let end = Instant::now() + PATIENCE;
        while self.services() != expected || !self.model.ready() {
            match timeout_at(end, self.events.recv()).await {
                Ok(event) => self.take(event.unwrap()),
                Err(_) => panic!("after {PATIENCE:?}: {:?} instead of {expected:?}", self.services()),
            }
        }
    }

    /// Takes events until the condition holds.
    pub async fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "after {PATIENCE:?}: not {what}");
            if let Ok(event) =
                timeout_at(Instant::now() + Duration::from_millis(10), self.events.recv()).await
            {
                self.take(event.unwrap());
            }
        }
    }

    /// Asserts that the Services do not change during the pause.
    pub async fn stays(&mut self, expected: &str, pause: Duration) {
        let end = Instant::now() + pause;
        loop {
            assert_eq!(self.services(), expected);
            match timeout_at(end, self.events.recv()).await {
                Ok(event) => self.take(event.unwrap()),
                Err(_) => return,
            }
        }
    }

    pub fn take(&mut self, event: lb_userspace::objects::event::Event) {
        self.model.apply(event);
        if !self.model.ready() {
            return;
        }
        let plan = self.planner.plan(self.model.desired());
        self.apply(&plan.ops);
        while let Some(batch) = self.planner.pending() {
            self.planner.reclaim(batch);
            let plan = self.planner.plan(lb_userspace::desired::Desired::default());
            self.apply(&plan.ops);
        }
        self.watch.route.learn(self.planner.tables());
    }

    /// The lasting notices about objects.
    pub fn notices(&self) -> Vec<String> {
        self.model.notices().map(ToString::to_string).collect()
    }

    pub fn tables(&self) -> &Tables {
        self.plane.tables()
    }

    pub fn services(&self) -> String {
        let services = services::of_tables(self.tables());
        let lines: Vec<String> =
            services.iter().map(|s| format!("{} {}", s.name, s.cluster_endpoints.join(","))).collect();
        lines.join("; ")
    }

    fn apply(&mut self, ops: &[lb_userspace::tables::op::Op]) {
        self.operations += ops.len();
        self.plane.apply(ops).unwrap();
    }
}

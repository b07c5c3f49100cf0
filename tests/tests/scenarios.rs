//! The golden scenarios, run without a kernel and on real maps.

use std::path::Path;

use lb_tests::datapath::Datapath;
use lb_tests::scenario;
use lb_userspace::tables::Tables;
use lb_userspace::tables::op::Op;
use lb_userspace::tables::plane::{MemoryPlane, Plane};

#[test]
fn scenarios_go_as_written() -> anyhow::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let count = scenario::run_all(&dir, || Ok(Box::new(MemoryPlane::default()) as Box<dyn Plane>))?;
    anyhow::ensure!(count > 0, "no scenario in {}", dir.display());
    Ok(())
}

/// Maps of the kernel, new for each scenario.
struct KernelPlane(Datapath);

impl Plane for KernelPlane {
    fn read(&mut self) -> anyhow::Result<Tables> {
        self.0.kernel.read()
    }

    fn apply(&mut self, plan: &[Op]) -> anyhow::Result<()> {
        self.0.kernel.apply(plan)
    }

    fn grace(&mut self) -> anyhow::Result<()> {
        self.0.kernel.grace()
    }
}

#[test]
fn scenarios_go_as_written_on_real_maps() -> anyhow::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let count = scenario::run_all(&dir, || Ok(Box::new(KernelPlane(Datapath::new()?)) as Box<dyn Plane>))?;
    anyhow::ensure!(count > 0, "no scenario in {}", dir.display());
    Ok(())
}

#[test]
fn a_scenario_that_differs_shows_its_real_outcome() -> anyhow::Result<()> {
    let wrong = "== node n1\n== ops\nflip 1\n";
    let right = scenario::run(wrong, &mut MemoryPlane::default())?;
    anyhow::ensure!(right == "== node n1\n== ops\n(none)\n", "{right}");
    anyhow::ensure!(scenario::run("== node n1\n== jump\n", &mut MemoryPlane::default()).is_err());
    Ok(())
}

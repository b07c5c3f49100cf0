//! Golden scenarios: text files of steps, YAML and expected output.
//!
//! A step is a line `== command`; the lines up to the next step are its body. Text before the first step says what
//! the scenario shows.
//!
//! | command | meaning |
//! | --- | --- |
//! | `node NAME [FLAGS]` | the agent starts on this node, with the tables as they are. Flags: `--nodeport-addresses=`, `--external-ip-cidrs=`, `--service-cidrs=`, `--service-proxy-name=` |
//! | `addresses A,..` | the interfaces of the node have these addresses; then the agent plans and applies |
//! | `apply` | the objects in the body (YAML) are added or changed; then the agent plans and applies |
//! | `delete KIND NAMESPACE/NAME` | the object is deleted; then the agent plans and applies |
//! | `restart` | the agent ends and starts again; the objects are listed again |
//! | `grace` | a grace period passes; then the agent plans what waited for the period |
//! | `services`, `backends` | expect the output of these commands of `lb` |
//! | `rules` | expect the output of `lb services --manifests`, with source ranges and the addresses of NodePorts |
//! | `ops` | expect the operations of the last plan (without interest bits, whose numbers are hashes) |
//! | `notices` | expect the notices about the objects |

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, bail, ensure};
use lb_userspace::command::view::files::Viewpoint;
use lb_userspace::command::{backends, services};
use lb_userspace::desired::Desired;
use lb_userspace::model::{Model, Rules};
use lb_userspace::objects::event::{Change, Event};
use lb_userspace::objects::name::{ObjectName, Subject};
use lb_userspace::plan::{Limits, Planner};
use lb_userspace::source::manifests::{Object, parse};
use lb_userspace::tables::op::Op;
use lb_userspace::tables::plane::Plane;

/// Runs every `*.txt` of a folder, each on a new, empty plane that `plane` makes. With `UPDATE=1` in the environment,
/// rewrites the expected output. Returns the number of scenarios.
///
/// # Errors
/// If the output of a scenario is not as written. The error names each such file and the first line that differs.
pub fn run_all(
    dir: &Path,
    mut plane: impl FnMut() -> anyhow::Result<Box<dyn Plane>>,
) -> anyhow::Result<usize> {
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let mut differences = Vec::new();
    let mut count = 0;
    let mut paths: Vec<_> =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "txt")) {
        count += 1;
        let expected = fs::read_to_string(&path)?;
        let actual = run(&expected, plane()?.as_mut()).with_context(|| path.display().to_string())?;
        if update {
            fs::write(&path, &actual)?;
        } else if let Some(difference) = difference(&expected, &actual) {
            differences.push(format!("{}: {difference}", path.display()));
        }
    }
    ensure!(differences.is_empty(), "{}\n(UPDATE=1 rewrites them)", differences.join("\n"));
    Ok(count)
}

/// Runs one scenario and returns its text with the actual output.
///
/// # Errors
/// If a step cannot be understood or carried out. The error names the line of the step.
pub fn run(text: &str, plane: &mut dyn Plane) -> anyhow::Result<String> {
    let mut agent = None;
    let mut output = String::new();
    for step in steps(text) {
        let body =
            step.run(&mut agent, plane).with_context(|| format!("line {}: {}", step.line, step.command))?;
        if !step.command.is_empty() {
            output += &format!("== {}\n", step.command);
        }
        output += body.as_deref().unwrap_or(step.body);
    }
    Ok(output)
}

struct Step<'a> {
    /// Counts from 1.
    line: usize,
    command: &'a str,
    body: &'a str,
}

fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps = vec![Step { line: 1, command: "", body: "" }];
    let (mut start, mut offset) = (0, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        offset += line.len();
        if let Some(command) = line.strip_prefix("== ") {
            steps.push(Step { line: index + 1, command: command.trim(), body: "" });
            start = offset;
        }
        if let Some(step) = steps.last_mut() {
            step.body = &text[start..offset];
        }
    }
    steps
}

impl Step<'_> {
    /// Returns the actual output, if the step expects any.
    fn run(&self, agent: &mut Option<Agent>, plane: &mut dyn Plane) -> anyhow::Result<Option<String>> {
        let words: Vec<&str> = self.command.split_whitespace().collect();
        if let ["node", name, flags @ ..] = &words[..] {
            let node =
                Viewpoint { name: (*name).to_owned(), rules: rules_of(flags)?, ..Viewpoint::default() };
            *agent = Some(Agent::start(node, BTreeMap::new(), plane)?);
            return Ok(None);
        }
        if words.is_empty() {
            return Ok(None);
        }
        let agent = agent.as_mut().context("the first step is not `node NAME`")?;
        let output = match words[..] {
            ["apply"] => return agent.apply(self.body, plane).map(|()| None),
            ["delete", kind, name] => return agent.delete(kind, name, plane).map(|()| None),
            ["restart"] => {
                *agent = Agent::start(agent.node.clone(), std::mem::take(&mut agent.objects), plane)?;
                return Ok(None);
            }
            ["addresses", list] => return agent.addresses(list, plane).map(|()| None),
            ["grace"] => return agent.grace(plane).map(|()| None),
            ["services"] => services::table(&services::of_tables(&plane.read()?)),
            ["backends"] => backends::table(&backends::of_tables(&plane.read()?)),
            ["rules"] => rules(&agent.model),
            ["ops"] => agent.ops(),
            ["notices"] => agent.notices(),
            _ => bail!("no such step"),
        };
        let gap = if self.body.ends_with("\n\n") || self.body == "\n" { "\n" } else { "" };
        Ok(Some(output + gap))
    }
}

/// The agent's loop, one step at a time.
struct Agent {
    node: Viewpoint,
    objects: BTreeMap<Subject, Object>,
    model: Model,
    planner: Planner,
    last: Vec<Op>,
}

impl Agent {
    fn start(
        node: Viewpoint,
        objects: BTreeMap<Subject, Object>,
        plane: &mut dyn Plane,
    ) -> anyhow::Result<Self> {
        let planner = Planner::restore(plane.read()?, Limits::default());
        let mut model = Model::with_rules(node.name.as_str(), node.rules.clone());
        if let Some(addresses) = &node.addresses {
            model.apply(Event::Addresses(addresses.iter().copied().collect()));
        }
        let mut agent = Self { node, model, planner, objects, last: Vec::new() };
        for event in [Event::Service(Change::Init), Event::Slice(Change::Init), Event::Node(Change::Init)] {
            agent.model.apply(event);
        }
        agent.model.apply(Event::ServiceCidr(Change::Init));
        for object in agent.objects.values().cloned() {
            agent.model.apply(object.applied());
        }
        for event in
            [Event::Service(Change::InitDone), Event::Slice(Change::InitDone), Event::Node(Change::InitDone)]
        {
            agent.model.apply(event);
        }
        agent.model.apply(Event::ServiceCidr(Change::InitDone));
        agent.settle(plane)?;
        Ok(agent)
    }

    fn apply(&mut self, yaml: &str, plane: &mut dyn Plane) -> anyhow::Result<()> {
        let parsed = parse(&Arc::from("scenario"), yaml).map_err(|notice| anyhow::anyhow!("{notice}"))?;
        for object in parsed.objects {
            self.objects.insert(object.subject(), object.clone());
            self.model.apply(object.applied());
        }
        self.settle(plane)
    }

    fn addresses(&mut self, list: &str, plane: &mut dyn Plane) -> anyhow::Result<()> {
        let addresses: Vec<IpAddr> = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let addresses: Vec<_> = addresses.into_iter().map(Into::into).collect();
        self.model.apply(Event::Addresses(addresses.iter().copied().collect()));
        self.node.addresses = Some(addresses);
        self.settle(plane)
    }

    fn delete(&mut self, kind: &str, name: &str, plane: &mut dyn Plane) -> anyhow::Result<()> {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let name = ObjectName::new(namespace, name);
        let known = self.objects.len();
        self.objects.retain(|subject, _| subject.kind.to_string() != kind || subject.name != name);
        ensure!(self.objects.len() < known, "there is no such object");
        self.model.apply(match kind {
            "Service" => Event::Service(Change::Delete(name)),
            "EndpointSlice" => Event::Slice(Change::Delete(name)),
            _ => Event::Node(Change::Delete(name)),
        });
        self.settle(plane)
    }

    fn settle(&mut self, plane: &mut dyn Plane) -> anyhow::Result<()> {
        let desired = self.model.desired();
        self.carry_out(desired, plane)
    }

    fn grace(&mut self, plane: &mut dyn Plane) -> anyhow::Result<()> {
        if let Some(batch) = self.planner.pending() {
            plane.grace()?;
            self.planner.reclaim(batch);
        }
        self.carry_out(Desired::default(), plane)
    }

    fn carry_out(&mut self, desired: Desired, plane: &mut dyn Plane) -> anyhow::Result<()> {
        self.last = self.planner.plan(desired).ops;
        plane.apply(&self.last)
    }

    fn ops(&self) -> String {
        let shown = self.last.iter().filter(|op| !matches!(op, Op::SetInterest { .. }));
        lines(shown.map(ToString::to_string))
    }

    fn notices(&self) -> String {
        let notices = self.model.notices().chain(self.planner.notices());
        lines(notices.map(|notice| format!("{}: {notice}", notice.severity)))
    }
}

fn rules_of(flags: &[&str]) -> anyhow::Result<Rules> {
    let mut rules = Rules::default();
    for flag in flags {
        let (flag, value) = flag.split_once('=').with_context(|| format!("{flag}: expected --FLAG=VALUE"))?;
        match flag {
            "--nodeport-addresses" => rules.node_port_addresses = value.parse().map_err(Error::msg)?,
            "--external-ip-cidrs" => rules.external_ip_cidrs = value.parse().map_err(Error::msg)?,
            "--service-cidrs" => rules.service_cidrs = value.parse().map_err(Error::msg)?,
            "--service-proxy-name" => rules.service_proxy_name = Some(value.to_owned()),
            _ => bail!("{flag}: no such flag"),
        }
    }
    Ok(rules)
}

/// The table, followed by the facts that have no column.
fn rules(model: &Model) -> String {
    let services = services::of_model(model);
    let mut text = services::table(&services);
    for service in &services {
        let Some(rules) = &service.rules else { continue };
        let mut say = |what: String| {
            text += &format!(
                "{}/{} {} {}: {what}\n",
                service.namespace, service.name, service.port_name, service.family
            );
        };
        if !rules.source_ranges.is_empty() {
            let own = if rules.source_ranges_admit_vips { " and its own addresses" } else { "" };
            say(format!("source ranges {}{own}", rules.source_ranges.join(" ")));
        }
        let loopback = if rules.node_port_on_loopback { &["loopback".to_owned()][..] } else { &[] };
        let addresses = [&rules.node_port_addresses, loopback].concat();
        if !addresses.is_empty() {
            say(format!("NodePort on {}", addresses.join(" ")));
        }
        if let Some(check) = &rules.health_check {
            say(format!("health check on port {}: {} local", check.port, check.local_endpoints));
        }
    }
    text
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<String> = lines.map(|line| line + "\n").collect();
    if lines.is_empty() { "(none)\n".to_owned() } else { lines.concat() }
}

fn difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (mut expected, mut actual) = (expected.lines(), actual.lines());
    for line in 1.. {
        match (expected.next(), actual.next()) {
            (None, None) => break,
            (e, a) if e == a => {}
            (e, a) => {
                let (e, a) = (e.unwrap_or("(end)"), a.unwrap_or("(end)"));
                return Some(format!("line {line}\n  expected: {e}\n  actual:   {a}"));
            }
        }
    }
    Some("line endings differ".to_owned())
}

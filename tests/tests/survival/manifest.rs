//! Invalid manifests: a clear message, the last good state, and no harm to other objects.

use crate::stage::{CLOSED, SHOP, Stage, TARGET, WEB, service, vip};
use anyhow::Result;
use lb_common::Proto;
use lb_tests::load::{Kind, Requests};
use lb_tests::world::{Agent, Family, Layout};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(5);

/// Waits for one line of the agent's log that contains all these words.
fn wait_for_line(agent: &Agent, words: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    while !agent.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
        assert!(Instant::now() < deadline, "no line with {words:?} in\n{}", agent.log());
        sleep(Duration::from_millis(5));
    }
}

/// Waits until a Service has this number of endpoints.
fn wait_for_endpoints(stage: &Stage, name: &str, count: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while stage.endpoints(name)?.len() != count {
        assert!(Instant::now() < deadline, "{name} has {:?}", stage.endpoints(name)?);
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_file_that_is_broken_at_the_start_holds_back_everything() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let manifests = stage.world.manifests();
    for name in ["web", "shop"] {
        manifests.remove(&service(name, 0))?;
    }
    // This start leaves empty tables.
    let mut agent = stage.world.start_agent(&[])?;
    agent.kill()?;
    stage.write(&service("web", WEB), stage.world.backends())?;
    manifests.write_text("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n")?;
    agent.spawn()?;
    wait_for_line(
        &agent,
        &["ERROR", "broken.yaml", "document 1", "nothing is applied until this is corrected"],
    );
    sleep(Duration::from_millis(300));
    assert_eq!(stage.json("services")?, serde_json::json!([]), "half a folder is in force");
    assert!(!agent.log().contains(" ready "), "{}", agent.log());
    stage.write(&service("shop", SHOP), stage.world.backends())?;
    sleep(Duration::from_millis(300));
    assert_eq!(stage.json("services")?, serde_json::json!([]), "half a folder is in force");

    manifests.write_text("broken.yaml", "")?;
    agent.wait_until_ready()?;
    stage.ask(WEB).assert_clean();
    stage.ask(SHOP).assert_clean();
    Ok(())
}

#[test]
fn a_file_that_breaks_at_the_start_keeps_the_previous_tables() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let mut agent = stage.world.start_agent(&[])?;
    let tables = stage.tables()?;
    agent.kill()?;
    stage.world.manifests().write_text("default.web.yaml", "kind: Service\n- no\n")?;
    agent.spawn()?;
    wait_for_line(&agent, &["ERROR", "default.web.yaml", "nothing is applied until this is corrected"]);
    sleep(Duration::from_millis(300));
    assert!(stage.tables()? == tables, "a broken file changed the tables");
    stage.ask(WEB).assert_clean();
    stage.write(&service("web", WEB), &stage.world.backends()[..1])?;
    agent.wait_until_ready()?;
    assert_eq!(stage.endpoints("web")?, ["10.244.1.11:8080"]);
    Ok(())
}

#[test]
fn a_file_that_breaks_later_keeps_its_last_good_objects() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let agent = stage.world.start_agent(&[])?;
    let load = stage.load(SHOP, 30);
    let tables = stage.tables()?;
    stage
        .world
        .manifests()
        .write_text("default.web.yaml", "apiVersion: v1\nkind: Service\nspec: {ports: [80\n")?;
    wait_for_line(&agent, &["ERROR", "default.web.yaml", "its last good objects stay in force"]);
    assert!(stage.tables()? == tables, "a broken file changed the tables");
    stage.ask(WEB).assert_clean();
    // A broken file does not stop another file.
    stage.write(&service("news", 30), &stage.world.backends()[..1])?;
    wait_for_endpoints(&stage, "news", 1)?;
    stage.ask(30).assert_clean();

    stage.write(&service("web", WEB), &stage.world.backends()[1..])?;
    wait_for_endpoints(&stage, "web", 2)?;
    assert!(stage.ask(WEB).answers.keys().all(|name| name != "b1"));
    load.assert_clean();
    Ok(())
}

#[test]
fn an_invalid_address_costs_only_its_endpoint() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let agent = stage.world.start_agent(&[])?;
    let load = stage.load(SHOP, 30);
    let web = service("web", WEB).endpoints(stage.world.backends());
    let yaml = web.yaml().replace("- 10.244.1.12\n", "- 10.244.1.999\n");
    stage.world.manifests().write_text("default.web.yaml", &yaml)?;
    wait_for_line(
        &agent,
        &[
            "ERROR",
            "default.web.yaml",
            "EndpointSlice default/web-ipv4",
            "\"10.244.1.999\" is not an IP address",
        ],
    );
    wait_for_endpoints(&stage, "web", 2)?;
    stage.ask(WEB).assert_clean();

    stage.world.manifests().write(&web)?;
    wait_for_endpoints(&stage, "web", 3)?;

    let yaml = web.yaml().replace("10.96.0.10", "10.96.0.ten");
    stage.world.manifests().write_text("default.web.yaml", &yaml)?;
    wait_for_line(
        &agent,
        &["ERROR", "default.web.yaml", "Service default/web", "\"10.96.0.ten\" is not an IP address"],
    );
    load.assert_clean();
    stage.world.manifests().write(&web)?;
    wait_for_endpoints(&stage, "web", 3)?;
    stage.ask(WEB).assert_clean();
    Ok(())
}

#[test]
fn an_address_and_port_belong_to_one_service() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let agent = stage.world.start_agent(&[])?;
    let load = stage.load(WEB, 30);
    // `zoo` sorts after `web`, and neither has a creation time.
    let zoo = service("zoo", WEB);
    stage.write(&zoo, &stage.world.backends()[2..])?;
    for address in ["10.96.0.10:80/TCP", "[fd00:10:96::10]:80/TCP", "10.96.0.10:53/UDP"] {
        wait_for_line(
            &agent,
            &[
                "ERROR",
                "default.zoo.yaml",
                "Service default/zoo",
                address,
                "belongs to",
                "Service default/web",
            ],
        );
    }
    assert!(stage.endpoints("zoo")?.is_empty());
    let answers = stage.ask(WEB);
    answers.assert_clean();
    load.assert_clean();
    assert_eq!(stage.endpoints("web")?.len(), 3);

    // The first Service gives the address up, and the second gets it at once.
    stage.world.manifests().remove(&service("web", WEB))?;
    wait_for_endpoints(&stage, "zoo", 1)?;
    let deadline = Instant::now() + LIMIT;
    while stage.json("services")?.as_array().into_iter().flatten().any(|entry| entry["name"] == "web") {
        assert!(Instant::now() < deadline, "web is still there");
    }
    let answers = stage.ask(WEB);
    answers.assert_clean();
    assert!(answers.answers.keys().eq(["b3"]), "{answers}");
    Ok(())
}

#[test]
fn a_service_without_a_slice_refuses_until_it_has_one() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let agent = stage.world.start_agent(&[])?;
    let load = stage.load(SHOP, 30);
    let lone = service("lone", 40).endpoints(stage.world.backends());
    let yaml = lone.yaml();
    let (alone, slices) = yaml.split_once("---\n").expect("several documents");
    stage.world.manifests().write_text("lone.yaml", alone)?;
    wait_for_line(&agent, &["lone.yaml", "Service default/lone", "EndpointSlice"]);
    for family in Family::ALL {
        let requests = Requests::tcp(vip(40, family, Proto::Tcp)).count(3).timeout(Duration::from_secs(2));
        let report = requests.run(&stage.world.client().netns);
        assert!(report.failures.len() == 3 && report.kinds().keys().eq([&Kind::Refused]), "{report}");
    }
    stage.world.manifests().write_text("lone-slices.yaml", slices)?;
    wait_for_endpoints(&stage, "lone", 3)?;
    stage.ask(40).assert_clean();
    load.assert_clean();
    assert!(!stage.endpoints("lone")?.iter().any(|endpoint| endpoint.ends_with(&CLOSED.to_string())));
    assert!(stage.endpoints("lone")?.iter().all(|endpoint| endpoint.ends_with(&format!(":{TARGET}"))));
    Ok(())
}

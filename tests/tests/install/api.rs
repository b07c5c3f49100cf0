//! The manifest on a real API server, and an agent that runs with exactly the role that the manifest grants.

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use lb_tests::cluster::{ADDRESS, Cluster};
use lb_tests::container::{args, capabilities, cgroup, manifest, variables};
use lb_tests::world::{Layout, NODE_NAME, World};
use lb_userspace::source::api::{NEEDED, Needed};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::container::{ask, container, echoes, web};

#[test]
fn the_api_server_accepts_the_manifest() -> Result<()> {
    let cluster = Cluster::shared()?;
    let objects = cluster.dry_run(&fs::read_to_string(manifest())?)?;
    let kinds: Vec<_> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"]);
    // No object that the server made from the manifest declares a port; a declared port would keep a second agent
    // from being scheduled.
    let container = &objects[4]["spec"]["template"]["spec"]["containers"][0];
    assert!(container["name"] == "lb" && container["ports"].is_null(), "{container}");
    Ok(())
}

/// A token such as the kubelet obtains for a pod of the DaemonSet.
fn token(cluster: &Cluster) -> Result<String> {
    let spec = TokenRequestSpec { expiration_seconds: Some(3_600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    cluster.run(|client| async move {
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "kube-system");
        let answer = accounts.create_token_request("lb", &PostParams::default(), &request).await?;
        answer.status.and_then(|status| status.token).context("a status with the token")
    })
}

/// Runs `work` with a client that has this token and no other credentials.
fn as_agent<F, T>(
    cluster: &Cluster,
    token: &str,
    work: impl FnOnce(Client) -> F + Send + 'static,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let token = token.to_owned();
    let certificate = cluster.certificate();
    cluster.run(move |_admin| async move {
        let mut config = Config::new(format!("https://{ADDRESS}").parse()?);
        config.root_cert_file = Some(certificate);
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        work(Client::try_from(config)?).await
    })
}

/// The rights as `verb group/resource`, as the server understands the role, without the rights of every authenticated
/// user.
async fn rights(client: Client) -> Result<BTreeSet<String>> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some("default".into()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client);
    let answer = reviews.create(&PostParams::default(), &review).await?.status.context("a status")?;
    let mut rights = BTreeSet::new();
    for rule in answer.resource_rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in
                rule.resources.iter().flatten().filter(|resource| !resource.starts_with("selfsubject"))
            {
                rights.extend(rule.verbs.iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    Ok(rights)
}

#[test]
fn the_role_is_to_read_and_to_report_events() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&fs::read_to_string(manifest())?)?;
    let token = token(&cluster)?;
    let right = |needed: &Needed, verb| format!("{verb} {}/{}", needed.group, needed.resource);
    let needed = NEEDED.iter().flat_map(|needed| needed.verbs.iter().map(move |verb| right(needed, verb)));
    let needed = needed.collect();
    // The server's authorizer learns of a role a moment after it was written.
    let deadline = Instant::now() + Duration::from_secs(10);
    while as_agent(&cluster, &token, rights)? != needed && Instant::now() < deadline {}
    assert_eq!(as_agent(&cluster, &token, rights)?, needed);
    Ok(())
}

/// The files that a kubelet puts below /var/run/secrets.
fn service_account(world: &World, cluster: &Cluster) -> Result<PathBuf> {
    let folder = world.folder().path().join("service-account");
    fs::create_dir(&folder)?;
    fs::write(folder.join("token"), token(cluster)?)?;
    fs::write(folder.join("namespace"), "kube-system")?;
    fs::copy(cluster.certificate(), folder.join("ca.crt"))?;
    Ok(folder)
}

/// The ConfigMap of the manifest as the kubelet mounts it.
fn config(world: &World, cluster: &Cluster) -> Result<PathBuf> {
    let folder = world.folder().path().join("config");
    fs::create_dir(&folder)?;
    let map = cluster.get("v1", "ConfigMap", "kube-system", "lb")?;
    fs::write(folder.join("config.yaml"), map["data"]["config.yaml"].as_str().context("config.yaml")?)?;
    Ok(folder)
}

#[test]
fn the_agent_serves_in_the_container_and_with_the_role_of_the_manifest() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let cluster = Cluster::shared()?;
    let door = cluster.door(world.node())?;
    cluster.apply(&fs::read_to_string(manifest())?)?;
    cluster.apply(&fs::read_to_string(world.manifests().folder().join(format!("{NODE_NAME}.yaml")))?)?;
    cluster.apply(&web(&world).yaml())?;
    let _echoes = echoes(&world)?;

    assert_eq!(variables()?, ["NODE_NAME", "LB_API_SERVER"]);
    let container = container(&world)?
        .bind(&service_account(&world, &cluster)?, "/var/run/secrets/kubernetes.io/serviceaccount")?
        .bind(&config(&world, &cluster)?, "/etc/lb")?
        .env("NODE_NAME", NODE_NAME)
        .env("LB_API_SERVER", &format!("https://{}", door.address()));
    let (args, cgroup) = (args()?, cgroup()?);
    let mut args: Vec<_> = args.iter().map(String::as_str).collect();
    args.extend(["--cgroup", &cgroup]);
    let mut agent = container.agent(&capabilities()?, &args)?;
    ask(&world).assert_clean();
    let log = agent.log();
    assert!(!log.contains("403, not allowed") && !log.contains(" ERROR "), "{log}");

    let checked = container.command(&capabilities()?, &["check"]).output()?;
    let checked = String::from_utf8(checked.stdout)?;
    assert!(checked.contains("the API server answers, and grants all that the agent needs"), "{checked}");
    agent.terminate()?;
    Ok(())
}

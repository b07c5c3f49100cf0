//! The cluster itself, without `lb`.

use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;
use lb_tests::cluster::{Caller, Cluster};
use lb_tests::world::{Layout, World};

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: zone-a}}
status:
  addresses: [{address: 192.168.77.1, type: InternalIP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, uid: 11111111-2222-3333-4444-555555555555}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:10:96::a']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  ports: [{port: 80, targetPort: 8080}]
status:
  loadBalancer: {ingress: [{ip: 203.0.113.10}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080, protocol: TCP}]
  endpoints: [{addresses: [10.244.1.11]}]
";

fn services(cluster: &Cluster) -> Result<Vec<String>> {
    cluster.run(|client| async move {
        let list = Api::<Service>::all(client).list(&ListParams::default()).await?;
        Ok(list.items.into_iter().filter_map(|service| service.metadata.name).collect())
    })
}

#[test]
fn a_cluster_keeps_what_is_written_and_comes_back() -> Result<()> {
    let began = Instant::now();
    let mut cluster = Cluster::alone()?;
    println!("ready after {:.1?}", began.elapsed());
    assert_eq!(services(&cluster)?, ["kubernetes"]);

    cluster.apply(OBJECTS)?;
    let node = cluster.get("v1", "Node", "", "node-1")?;
    assert_eq!(node["status"]["addresses"][0]["address"], "192.168.77.1");
    let web = cluster.get("v1", "Service", "default", "web")?;
    assert_eq!(web["spec"]["clusterIPs"][1], "fd00:10:96::a");
    assert_eq!(web["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.10");
    cluster.get("discovery.k8s.io/v1", "EndpointSlice", "default", "web-1")?;

    let saved = cluster.save()?;
    cluster.delete("v1", "Service", "default", "web")?;
    cluster.kill_apiserver()?;
    services(&cluster).expect_err("no server answers");
    cluster.start_apiserver()?;
    assert_eq!(services(&cluster)?, ["kubernetes"]);

    cluster.restore(&saved)?;
    assert_eq!(services(&cluster)?, ["kubernetes", "web"]);
    cluster.renew_certificate()?;
    assert_eq!(services(&cluster)?, ["kubernetes", "web"]);
    cluster.stop_apiserver()?;
    cluster.start_apiserver()?;
    cluster.clear()?;
    assert_eq!(services(&cluster)?, ["kubernetes"]);
    Ok(())
}

async fn readyz(client: kube::Client, patience: Duration) -> Result<String> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    Ok(tokio::time::timeout(patience, client.request_text(request)).await??)
}

#[test]
fn a_door_opens_shuts_and_stalls() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let cluster = Cluster::shared()?;
    let door = cluster.door(world.node())?;
    let kubeconfig = cluster.kubeconfig_at("admin", door.address())?;
    let caller = Caller::connected(world.node(), &kubeconfig)?;
    let answers = |client| readyz(client, Duration::from_secs(20));
    let is_silent = |client| readyz(client, Duration::from_secs(2));
    assert_eq!(caller.run(answers)?, "ok");
    door.shut();
    caller.run(is_silent).expect_err("a shut door lets nothing through");
    door.open();
    assert_eq!(caller.run(answers)?, "ok");
    door.stall();
    caller.run(is_silent).expect_err("a stalled door moves nothing");
    door.open();
    door.cut();
    door.delay(Duration::from_millis(100));
    let began = Instant::now();
    assert_eq!(caller.run(answers)?, "ok");
    assert!(began.elapsed() > Duration::from_millis(200), "a handshake and an answer are delayed");
    Ok(())
}

#[test]
fn users_may_do_what_is_granted() -> Result<()> {
    let cluster = Cluster::shared()?;
    let denied = Caller::connected(cluster.netns(), &cluster.kubeconfig("nobody")?)?;
    let list = |client| async move {
        Ok(Api::<Service>::all(client).list(&ListParams::default()).await?.items.len())
    };
    let error = denied.run(list).expect_err("nothing is granted");
    assert!(format!("{error:#}").contains("forbidden"), "{error:#}");
    assert_eq!(cluster.run(list)?, 1);
    Ok(())
}

#[test]
fn a_shared_cluster_has_no_objects_of_the_previous_test() -> Result<()> {
    for _ in 0..2 {
        let cluster = Cluster::shared()?;
        assert_eq!(services(&cluster)?, ["kubernetes"]);
        cluster.apply(OBJECTS)?;
    }
    Ok(())
}

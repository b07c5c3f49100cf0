//! The permissions of the agent at the API server.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::fault;

/// Verbs on a resource that the agent needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    pub group: &'static str,
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
}

/// Exactly the rules of the ClusterRole in `deploy/base/rbac.yaml`.
pub const NEEDED: [Needed; 5] = [
    Needed { group: "", resource: "services", verbs: &["list", "watch"] },
    Needed { group: "", resource: "nodes", verbs: &["list", "watch"] },
    Needed { group: "discovery.k8s.io", resource: "endpointslices", verbs: &["list", "watch"] },
    Needed { group: "networking.k8s.io", resource: "servicecidrs", verbs: &["list", "watch"] },
    Needed { group: "events.k8s.io", resource: "events", verbs: &["create", "patch"] },
];

/// Asks the API server, by SelfSubjectAccessReview, which verbs of [`NEEDED`] are not granted to us in all namespaces.
///
/// # Errors
/// If the API server does not answer, or refuses the review.
pub async fn denied(client: kube::Client) -> anyhow::Result<Vec<(Needed, Vec<&'static str>)>> {
    let reviews = Api::<SelfSubjectAccessReview>::all(client);
    let mut denied = Vec::new();
    for needed in NEEDED {
        let mut verbs = Vec::new();
        for verb in needed.verbs {
            let asked = reviews.create(&PostParams::default(), &review(needed, verb)).await;
            let answer = asked.map_err(|error| anyhow::anyhow!(fault::chain(&error)))?;
            if !answer.status.is_some_and(|status| status.allowed) {
                verbs.push(*verb);
            }
        }
        if !verbs.is_empty() {
            denied.push((needed, verbs));
        }
    }
    Ok(denied)
}

fn review(needed: Needed, verb: &str) -> SelfSubjectAccessReview {
    let attributes = ResourceAttributes {
        group: Some(needed.group.to_owned()),
        resource: Some(needed.resource.to_owned()),
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

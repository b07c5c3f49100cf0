//! `deploy/base/rbac.yaml` grants exactly what the agent needs: `lb check` and the manifest agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use k8s_openapi::api::rbac::v1::ClusterRole;
use lb_userspace::source::api::NEEDED;
use serde::Deserialize;

#[test]
fn the_role_grants_what_is_needed_and_no_more() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/rbac.yaml");
    let text = fs::read_to_string(&path).expect("deploy/base/rbac.yaml can be read");
    let first = serde_yaml_ng::Deserializer::from_str(&text).next().expect("the file has a document");
    let role = ClusterRole::deserialize(first).expect("the ClusterRole comes first");
    let mut granted = BTreeSet::new();
    for rule in role.rules.into_iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                granted.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource}.{group}")));
            }
        }
    }
    let needed = NEEDED.iter().flat_map(|needed| {
        needed.verbs.iter().map(|verb| format!("{verb} {}.{}", needed.resource, needed.group))
    });
    assert_eq!(granted, needed.collect());
}

//! Writes objects from YAML, as `kubectl apply --server-side` does.

use anyhow::{Context, Result};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope};
use kube::{Client, ResourceExt};
use serde::de::Deserialize;
use serde_json::{Value, json};

use super::Cluster;

const MANAGER: &str = "lb-tests";

/// The metadata that the server writes itself, and rejects from others.
const SERVERS_OWN: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences"];

impl Cluster {
    /// Creates or updates objects as the YAML says, including their status. The YAML may have several documents, or a
    /// List.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let objects = parse(yaml)?;
        self.run(|client| async move {
            for object in objects {
                apply(&client, object).await?;
            }
            Ok(())
        })
    }

    /// Makes the server check objects as strictly as it can, without keeping them. Returns them as the server would
    /// store them.
    pub fn dry_run(&self, yaml: &str) -> Result<Vec<Value>> {
        let objects = parse(yaml)?;
        let params = PatchParams::apply(MANAGER).dry_run().validation_strict();
        self.run(|client| async move {
            let mut stored = Vec::new();
            for object in objects {
                let Place { what, api, name } = Place::of(&client, &object).await?;
                let object = api.patch(&name, &params, &Patch::Apply(&object)).await.context(what)?;
                stored.push(serde_json::to_value(object)?);
            }
            Ok(stored)
        })
    }

    /// The object as the server has it: `get("v1", "Service", "default", "web")`. The namespace of a Node is empty.
    pub fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let [api_version, kind, namespace, name] = [api_version, kind, namespace, name].map(str::to_owned);
        self.run(|client| async move {
            let api = api(&client, &api_version, &kind, &namespace).await?;
            Ok(serde_json::to_value(api.get(&name).await?)?)
        })
    }

    pub fn delete(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let [api_version, kind, namespace, name] = [api_version, kind, namespace, name].map(str::to_owned);
        self.run(|client| async move {
            let api = api(&client, &api_version, &kind, &namespace).await?;
            api.delete(&name, &DeleteParams::default()).await?;
            Ok(())
        })
    }

    /// Deletes every Service except `default/kubernetes`, and every EndpointSlice, Node and Event, for the next test.
    pub fn clear(&self) -> Result<()> {
        let kinds = [
            ("v1", "Service"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("v1", "Node"),
            ("events.k8s.io/v1", "Event"),
        ];
        self.run(|client| async move {
            for (api_version, kind) in kinds {
                let (resource, _) = resource(&client, api_version, kind).await?;
                let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                for object in all.list_metadata(&ListParams::default()).await? {
                    let (namespace, name) = (object.namespace(), object.name_any());
                    if kind == "Service" && namespace.as_deref() == Some("default") && name == "kubernetes" {
                        continue;
                    }
                    let api: Api<DynamicObject> = match &namespace {
                        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                        None => all.clone(),
                    };
                    api.delete(&name, &DeleteParams::default()).await?;
                }
            }
            Ok(())
        })
    }
}

async fn apply(client: &Client, mut object: Value) -> Result<()> {
    let Place { what, api, name } = Place::of(client, &object).await?;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        SERVERS_OWN.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| what.clone())?;
    if let Some(status) = status.filter(|status| status.as_object().is_some_and(|fields| !fields.is_empty()))
    {
        // A merge, because an apply takes several addresses of one type, as a Node has them, for duplicates.
        let merge = Patch::Merge(json!({ "status": status }));
        let patched = api.patch_status(&name, &PatchParams::default(), &merge).await;
        patched.with_context(|| format!("{what}, status"))?;
    }
    Ok(())
}

/// Where an object is stored.
struct Place {
    /// For messages.
    what: String,
    api: Api<DynamicObject>,
    name: String,
}

impl Place {
    async fn of(client: &Client, object: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let what = format!("{kind} {namespace}/{name}");
        let api = api(client, &api_version, &kind, &namespace).await.with_context(|| what.clone())?;
        Ok(Self { what, api, name })
    }
}

/// The objects of a kind; those of this namespace, if the kind is namespaced.
async fn api(client: &Client, api_version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
    let (resource, scope) = resource(client, api_version, kind).await?;
    Ok(match (scope, namespace) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, "") => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Namespaced, _) => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}

/// The resource and the scope that the server has for a kind.
async fn resource(client: &Client, api_version: &str, kind: &str) -> Result<(ApiResource, Scope)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &kind).await?;
    Ok((resource, capabilities.scope))
}

/// All objects of all documents.
fn parse(yaml: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let mut value = Value::deserialize(document).context("the text is not YAML")?;
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => objects.extend(items),
            _ if value.is_null() => {}
            _ => objects.push(value),
        }
    }
    Ok(objects)
}

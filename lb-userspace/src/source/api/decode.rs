//! Decodes objects one by one, so that an object that cannot be decoded does not stop the others.

use std::borrow::Cow;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::watched::Watched;
use crate::objects::name::ObjectName;

/// An object from the API server: its compact form, or the reason why it cannot be decoded.
#[derive(Clone, Debug)]
pub(super) struct Lenient<K> {
    /// Name, namespace and version; nothing else is kept.
    metadata: ObjectMeta,
    pub(super) object: Result<K, String>,
}

impl<K: Watched> Lenient<K> {
    pub(super) fn name(&self) -> ObjectName {
        let Self { metadata, .. } = self;
        ObjectName::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    }
}

impl<'de, K: Watched> Deserialize<'de> for Lenient<K> {
    /// Fails only if not even the metadata can be read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // This makes no copy, because kube decodes from text that it holds.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        match serde_json::from_str::<K::Wire>(text) {
            Ok(wire) => {
                let metadata = essential(wire.meta());
                Ok(Self { metadata, object: Ok(K::compact(wire)) })
            }
            Err(error) => {
                let Header { metadata } = serde_json::from_str(text).map_err(de::Error::custom)?;
                let metadata = ObjectMeta {
                    name: metadata.name,
                    namespace: metadata.namespace,
                    resource_version: metadata.resource_version,
                    ..ObjectMeta::default()
                };
                Ok(Self { metadata, object: Err(error.to_string()) })
            }
        }
    }
}

/// The metadata that is kept after the wire form is dropped.
fn essential(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        resource_version: metadata.resource_version.clone(),
        ..ObjectMeta::default()
    }
}

/// The fields that even a broken object has.
#[derive(Deserialize)]
struct Header {
    metadata: Essential,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Essential {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

/// kube's watchers need the version, and the path of the kind.
impl<K: Watched> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = <K::Wire as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::Wire::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::Wire::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::Wire::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::Wire::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

//! Parses the text of one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::{core::v1, discovery::v1 as discovery, networking::v1 as networking};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::{Deserializer, Value};

use crate::objects::cidr::ServiceCidr;
use crate::objects::event::{Change, Event};
use crate::objects::name::{Kind, ObjectName, Subject};
use crate::objects::node::Node;
use crate::objects::notice::{Notice, Severity};
use crate::objects::service::Service;
use crate::objects::slice::Slice;

/// An object of a kind that is used.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Service),
    Slice(Slice),
    Node(Node),
    ServiceCidr(ServiceCidr),
}

impl Object {
    pub fn subject(&self) -> Subject {
        let (kind, name) = match self {
            Self::Service(service) => (Kind::Service, &service.name),
            Self::Slice(slice) => (Kind::EndpointSlice, &slice.name),
            Self::Node(node) => (Kind::Node, &node.name),
            Self::ServiceCidr(cidr) => (Kind::ServiceCidr, &cidr.name),
        };
        Subject { kind, name: name.clone() }
    }

    /// The event for an object that is new or changed.
    pub fn applied(self) -> Event {
        match self {
            Self::Service(service) => Event::Service(Change::Apply(service)),
            Self::Slice(slice) => Event::Slice(Change::Apply(slice)),
            Self::Node(node) => Event::Node(Change::Apply(node)),
            Self::ServiceCidr(cidr) => Event::ServiceCidr(Change::Apply(cidr)),
        }
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// In the order of the file.
    pub objects: Vec<Object>,
    /// At most one notice, which names the kinds that were skipped.
    pub notices: Vec<Notice>,
}

/// Reads a file of one or more YAML documents (JSON if the name ends in `.json`), each an object or a list of objects.
/// Objects of other kinds are skipped.
///
/// # Errors
/// If a document or object cannot be read. The notice is about the first one, and names file, document, object, and the
/// line if it is known.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Parsed, Notice> {
    let mut reader = Reader { file, text, parsed: Parsed::default(), skipped: BTreeMap::new() };
    for (index, document) in reader.documents()?.into_iter().enumerate() {
        reader.read(document, Place { document: index, is_listed: false })?;
    }
    let skipped: Vec<String> =
        reader.skipped.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
    if !skipped.is_empty() {
        let text = format!(
            "skipped, because only Service, EndpointSlice, Node and ServiceCIDR are read: {}",
            skipped.join(", ")
        );
        let notice =
            Notice { severity: Severity::Info, subject: None, file: Some(file.clone()), text, reason: None };
        reader.parsed.notices.push(notice);
    }
    Ok(reader.parsed)
}

struct Reader<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    parsed: Parsed,
    /// The number of skipped objects by `apiVersion kind`.
    skipped: BTreeMap<String, usize>,
}

#[derive(Clone, Copy)]
struct Place {
    /// Counts from 0.
    document: usize,
    /// Whether the object is an item of a list.
    is_listed: bool,
}

/// The fields of every object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
}

impl Reader<'_> {
    fn documents(&self) -> Result<Vec<Value>, Notice> {
        if self.is_json() {
            let documents = serde_json::Deserializer::from_str(self.text).into_iter();
            return documents.collect::<Result<_, _>>().map_err(|error| self.broken(None, error.to_string()));
        }
        let mut documents = Vec::new();
        for document in Deserializer::from_str(self.text) {
            let mut value = Value::deserialize(document)
                .map_err(|e| self.broken(None, format!("document {}: {e}", documents.len() + 1)))?;
            value
                .apply_merge()
                .map_err(|e| self.broken(None, format!("document {}: {e}", documents.len() + 1)))?;
            documents.push(value);
        }
        Ok(documents)
    }

    fn read(&mut self, document: Value, place: Place) -> Result<(), Notice> {
        if document.is_null() {
            return Ok(());
        }
        let header: Header = serde_yaml_ng::from_value(document.clone()).map_err(|error| {
            self.broken(None, format!("{}: not a Kubernetes object: {error}", place.text(None)))
        })?;
        if let Some(items) = header.items.filter(|_| header.kind.ends_with("List")) {
            let item_kind = header.kind.trim_end_matches("List");
            for item in items {
                self.read(listed(item, &header.api_version, item_kind), Place { is_listed: true, ..place })?;
            }
            return Ok(());
        }
        let kind = match (header.api_version.as_str(), header.kind.as_str()) {
            ("v1", "Service") => Kind::Service,
            ("v1", "Node") => Kind::Node,
            ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
            ("networking.k8s.io/v1", "ServiceCIDR") => Kind::ServiceCidr,
            (version, kind) => {
                *self.skipped.entry(format!("{version} {kind}")).or_default() += 1;
                return Ok(());
            }
        };
        let namespace = match kind {
            Kind::Node | Kind::ServiceCidr => String::new(),
            _ => header.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        };
        let name = header.metadata.name.filter(|name| !name.is_empty()).ok_or_else(|| {
            self.broken(None, format!("{}: a {kind} without metadata.name", place.text(None)))
        })?;
        let subject = Subject { kind, name: ObjectName::new(namespace, name) };
        let file = Some(self.file.clone());
        let object = match kind {
            Kind::Service => {
                Object::Service(Service::new(self.typed::<v1::Service>(document, place, &subject)?, file))
            }
            Kind::EndpointSlice => Object::Slice(Slice::new(
                self.typed::<discovery::EndpointSlice>(document, place, &subject)?,
                file,
            )),
            Kind::Node => Object::Node(Node::new(self.typed::<v1::Node>(document, place, &subject)?)),
            Kind::ServiceCidr => Object::ServiceCidr(ServiceCidr::new(
                self.typed::<networking::ServiceCIDR>(document, place, &subject)?,
            )),
        };
        self.parsed.objects.push(object);
        Ok(())
    }

    fn typed<T: DeserializeOwned>(&self, value: Value, place: Place, subject: &Subject) -> Result<T, Notice> {
        serde_yaml_ng::from_value(value).map_err(|error| {
            let text = match self.locate::<T>(place) {
                Some(located) => format!("{}: {located}", place.text(located.location())),
                None => format!("{}: {error}", place.text(None)),
            };
            self.broken(Some(subject.clone()), text)
        })
    }

    /// Parses the object again from the text, because only this error knows field and line.
    fn locate<T: DeserializeOwned>(&self, place: Place) -> Option<serde_yaml_ng::Error> {
        if self.is_json() || place.is_listed {
            return None;
        }
        T::deserialize(Deserializer::from_str(self.text).nth(place.document)?).err()
    }

    fn is_json(&self) -> bool {
        self.file.ends_with(".json")
    }

    fn broken(&self, subject: Option<Subject>, text: String) -> Notice {
        Notice { severity: Severity::Error, subject, file: Some(self.file.clone()), text, reason: None }
    }
}

impl Place {
    fn text(self, location: Option<serde_yaml_ng::Location>) -> String {
        let document = self.document + 1;
        match location {
            Some(location) => format!("document {document}, line {}", location.line()),
            None => format!("document {document}"),
        }
    }
}

/// Adds `apiVersion` and `kind`, which items of a `ServiceList` may omit, because the list implies them.
fn listed(mut item: Value, api_version: &str, kind: &str) -> Value {
    if let Some(fields) = item.as_mapping_mut()
        && !kind.is_empty()
    {
        for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
            fields.entry(field.into()).or_insert_with(|| value.into());
        }
    }
    item
}

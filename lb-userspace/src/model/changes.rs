//! What a change of an object touches: claims, Services to decide again, and notices.

use std::collections::BTreeSet;

use lb_common::Addr;

use super::frontends::Unserved;
use super::{Model, NoticeOrigin};
use crate::objects::event::Change;
use crate::objects::name::{Family, Kind, Named, ObjectName, Subject};
use crate::objects::node::Node;
use crate::objects::notice::{Notice, Problem, Severity};
use crate::objects::service::Service;
use crate::objects::slice::Slice;

impl Model {
    /// Keeps a notice for each object that cannot be decoded, until the object can be decoded, is deleted, or a full
    /// list begins.
    pub(super) fn note_broken<Object: Named>(&mut self, kind: Kind, change: &Change<Object>) {
        let (name, reason) = match change {
            Change::Broken(name, reason) => (name, Some(reason)),
            Change::Apply(object) => (object.object_name(), None),
            Change::Delete(name) => (name, None),
            Change::Init => {
                let ended: Vec<Subject> =
                    self.broken.iter().filter(|subject| subject.kind == kind).cloned().collect();
                for subject in ended {
                    self.broken.remove(&subject);
                    self.board.replace(NoticeOrigin::Undecoded(subject), []);
                }
                return;
            }
            Change::InitDone => return,
        };
        let subject = Subject { kind, name: name.clone() };
        if let Some(reason) = reason {
            let notice = Notice {
                severity: Severity::Error,
                subject: Some(subject.clone()),
                file: None,
                text: format!("cannot be decoded: {reason}; its last known state stays in force"),
                reason: None,
            };
            self.broken.insert(subject.clone());
            self.board.replace(NoticeOrigin::Undecoded(subject), [notice]);
        } else if !self.broken.is_empty() && self.broken.remove(&subject) {
            self.board.replace(NoticeOrigin::Undecoded(subject), []);
        }
    }

    pub(super) fn service_changed(&mut self, name: ObjectName, before: Option<&Service>) {
        let service = self.services.get(&name);
        let claims = |service: Option<&Service>| service.map(|s| s.claims(&self.rules)).unwrap_or_default();
        let others = |service: Option<&Service>| -> BTreeSet<(Addr, ObjectName)> {
            let service = service.filter(|s| s.unserved(&self.rules) == Some(Unserved::OtherProxy));
            service.into_iter().flat_map(|s| &s.cluster_ips).map(|ip| (*ip, name.clone())).collect()
        };
        let (others_before, others_after) = (others(before), others(service));
        let (before, after) = (claims(before), claims(service));
        let problems = match service {
            Some(service) if service.unserved(&self.rules) != Some(Unserved::OtherProxy) => {
                [service.problems.as_slice(), &service.ignored(&self.rules)].concat()
            }
            _ => Vec::new(),
        };
        let notices = service.map(|s| notices(Kind::Service, &name, &s.file, &problems)).unwrap_or_default();
        if others_before != others_after {
            self.others.retain(|other| !others_before.contains(other));
            self.others.extend(others_after);
            self.ranges_changed = true;
        }
        self.dirty.extend(self.claims.replace(&before, after));
        self.dirty.insert(name.clone());
        self.board.replace(NoticeOrigin::Object(Subject { kind: Kind::Service, name }), notices);
    }

    pub(super) fn slice_changed(&mut self, name: ObjectName, before: Option<&Slice>) {
        let slice = self.slices.get(&name);
        if let Some(owner) = before.and_then(Slice::owner) {
            self.slices_of.remove(&(owner.clone(), name.clone()));
            self.dirty.insert(owner);
        }
        if let Some(owner) = slice.and_then(Slice::owner) {
            self.slices_of.insert((owner.clone(), name.clone()));
            self.dirty.insert(owner);
        }
        if let Some(slice) = slice
            && before.is_none_or(|before| before.endpoints != slice.endpoints || before.ports != slice.ports)
        {
            self.triggers.extend(slice.family.zip(slice.trigger_time));
        }
        let notices =
            slice.map(|s| notices(Kind::EndpointSlice, &name, &s.file, &s.problems)).unwrap_or_default();
        self.board.replace(NoticeOrigin::Object(Subject { kind: Kind::EndpointSlice, name }), notices);
    }

    /// Only two properties of the Node matter to Services: its zone (for hints) and its own addresses (for NodePorts
    /// and source ranges).
    pub(super) fn node_changed(&mut self, before: Option<&Node>) {
        let primary =
            |node: Option<&Node>| Family::BOTH.map(|family| node.and_then(|n| n.primary_ip(family)));
        let zone = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
        if zone(before) != zone(self.node()) {
            self.dirty.extend(self.services.names().cloned());
        } else if primary(before) != primary(self.node()) {
            let ranged = self.services.iter().filter(|(_, service)| !service.source_ranges.is_empty());
            self.dirty.extend(ranged.map(|(name, _)| name.clone()));
        }
        self.addresses_changed |= primary(before) != primary(self.node());
    }
}

/// The problems of an object as notices.
pub(super) fn notices(
    kind: Kind,
    name: &ObjectName,
    file: &Option<std::sync::Arc<str>>,
    problems: &[Problem],
) -> Vec<Notice> {
    let subject = Subject { kind, name: name.clone() };
    problems
        .iter()
        .map(|problem| Notice {
            severity: problem.severity,
            subject: Some(subject.clone()),
            file: file.clone(),
            text: problem.text.clone(),
            reason: problem.reason,
        })
        .collect()
}

//! The objects of one kind, updated by lists and changes.

use std::collections::BTreeMap;

use crate::objects::event::Change;
use crate::objects::name::{Named, ObjectName};

/// Objects are boxed because the nodes of a B-tree are seldom full.
#[derive(Clone, Debug)]
pub(super) struct Store<Object> {
    objects: BTreeMap<ObjectName, Box<Object>>,
    /// The list that is being delivered; `None` for an object that has not changed, because most have not.
    incoming: Option<BTreeMap<ObjectName, Option<Box<Object>>>>,
    synced: bool,
}

/// The previous state of an object, if it existed.
type Before<Object> = Option<Box<Object>>;

impl<Object> Default for Store<Object> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), incoming: None, synced: false }
    }
}

impl<Object: Named + PartialEq> Store<Object> {
    /// Returns the names of the objects that changed, with their previous state.
    pub(super) fn apply(&mut self, change: Change<Object>) -> Vec<(ObjectName, Before<Object>)> {
        match change {
            Change::Init => {
                self.incoming = Some(BTreeMap::new());
                Vec::new()
            }
            Change::Apply(object) => {
                let name = object.object_name().clone();
                match &mut self.incoming {
                    Some(incoming) => {
                        let is_known = self.objects.get(&name).is_some_and(|known| **known == object);
                        incoming.insert(name, (!is_known).then(|| Box::new(object)));
                        Vec::new()
                    }
                    None => self.put(name, object).into_iter().collect(),
                }
            }
            Change::Delete(name) => match &mut self.incoming {
                Some(incoming) => {
                    incoming.remove(&name);
                    Vec::new()
                }
                None => self.objects.remove(&name).map(|before| (name, Some(before))).into_iter().collect(),
            },
            Change::Broken(name, _) => {
                if let Some(incoming) = &mut self.incoming
                    && self.objects.contains_key(&name)
                {
                    incoming.insert(name, None);
                }
                Vec::new()
            }
            Change::InitDone => self.swap(),
        }
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Object> {
        self.objects.get(name).map(Box::as_ref)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Object)> {
        self.objects.iter().map(|(name, object)| (name, object.as_ref()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.objects.keys()
    }

    /// Whether a full list has arrived.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    fn put(&mut self, name: ObjectName, object: Object) -> Option<(ObjectName, Before<Object>)> {
        if self.objects.get(&name).is_some_and(|known| **known == object) {
            return None;
        }
        let before = self.objects.insert(name.clone(), Box::new(object));
        Some((name, before))
    }

    /// Puts the delivered list in force. The tree is rebuilt from a sorted list, so its nodes are full.
    fn swap(&mut self) -> Vec<(ObjectName, Before<Object>)> {
        self.synced = true;
        let Some(incoming) = self.incoming.take() else { return Vec::new() };
        let mut before = std::mem::take(&mut self.objects);
        let mut changed = Vec::new();
        let mut listed = Vec::with_capacity(incoming.len());
        for (name, object) in incoming {
            let known = before.remove(&name);
            match (object, known) {
                (None, Some(known)) => listed.push((name, known)),
                (None, None) => {}
                (Some(object), known) => {
                    changed.push((name.clone(), known));
                    listed.push((name, object));
                }
            }
        }
        self.objects = listed.into_iter().collect();
        changed.extend(before.into_iter().map(|(name, gone)| (name, Some(gone))));
        changed
    }
}

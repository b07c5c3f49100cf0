//! The objects of one kind, through lists and changes.

use std::collections::BTreeMap;

use crate::event::{Change, ObjectName};

/// An object that a store can hold.
pub(super) trait Named {
    fn object_name(&self) -> &ObjectName;
}

#[derive(Clone, Debug)]
pub(super) struct Store<Object> {
    objects: BTreeMap<ObjectName, Object>,
    /// The list that is being delivered.
    incoming: Option<BTreeMap<ObjectName, Object>>,
    synced: bool,
}

impl<Object> Default for Store<Object> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), incoming: None, synced: false }
    }
}

impl<Object: Named + Clone + PartialEq> Store<Object> {
    /// Returns the names of the objects that are not what they were, with what they were.
    pub(super) fn apply(&mut self, change: Change<Object>) -> Vec<(ObjectName, Option<Object>)> {
        match change {
            Change::Init => {
                self.incoming = Some(BTreeMap::new());
                Vec::new()
            }
            Change::Apply(object) => {
                let name = object.object_name().clone();
                match &mut self.incoming {
                    Some(incoming) => {
                        incoming.insert(name, object);
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
                if let (Some(incoming), Some(known)) = (&mut self.incoming, self.objects.get(&name)) {
                    incoming.insert(name, known.clone());
                }
                Vec::new()
            }
            Change::InitDone => self.swap(),
        }
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Object> {
        self.objects.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Object)> {
        self.objects.iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.objects.keys()
    }

    /// A full list has come.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    fn put(&mut self, name: ObjectName, object: Object) -> Option<(ObjectName, Option<Object>)> {
        if self.objects.get(&name) == Some(&object) {
            return None;
        }
        let before = self.objects.insert(name.clone(), object);
        Some((name, before))
    }

    fn swap(&mut self) -> Vec<(ObjectName, Option<Object>)> {
        self.synced = true;
        let Some(incoming) = self.incoming.take() else { return Vec::new() };
        let gone: Vec<ObjectName> =
            self.objects.keys().filter(|name| !incoming.contains_key(*name)).cloned().collect();
        let mut changed: Vec<_> = gone
            .into_iter()
            .filter_map(|name| self.objects.remove(&name).map(|before| (name, Some(before))))
            .collect();
        changed.extend(incoming.into_iter().filter_map(|(name, object)| self.put(name, object)));
        changed
    }
}

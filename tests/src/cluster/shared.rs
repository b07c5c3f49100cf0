//! One cluster for the tests of a program, because a start takes seconds.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::Result;

use super::Cluster;

static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// The cluster of this process, with only the server's own objects, for one test at a time. A test in a world reaches
/// the cluster through a [`Door`](super::Door).
pub struct Shared(MutexGuard<'static, Option<Cluster>>);

impl Cluster {
    /// Starts the shared cluster, or takes the one that another test left running and deletes its objects.
    pub fn shared() -> Result<Shared> {
        static END: Once = Once::new();
        END.call_once(|| crate::sys::at_exit(end));
        let mut guard = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        // A cluster that a failed test left in disorder is replaced.
        let usable =
            guard.as_mut().is_some_and(|cluster| cluster.apiserver.is_some() && cluster.clear().is_ok());
        if !usable {
            drop(guard.take());
            *guard = Some(Self::alone()?);
        }
        Ok(Shared(guard))
    }
}

/// Ends the cluster, because statics are not dropped.
extern "C" fn end() {
    drop(CLUSTER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("the cluster was started")
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.0.as_mut().expect("the cluster was started")
    }
}

//! A namespace and a folder that belong to no world.

use anyhow::Result;

use super::folder::Folder;
use super::leftover;
use super::netns::Netns;

/// Removed when dropped, after the processes inside were ended.
pub(crate) struct Home {
    name: String,
    netns: Netns,
    folder: Folder,
}

impl Home {
    /// Creates a home, in which loopback is up.
    pub fn create() -> Result<Self> {
        let name = leftover::next_name();
        let folder = Folder::create(&name)?;
        let netns = Netns::create(&name)?;
        let home = Self { name, netns, folder };
        home.netns.ip("link set lo up\n")?;
        Ok(home)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        leftover::end_processes(&self.name);
        for result in [Netns::delete(&self.name), Folder::remove(&self.name)] {
            if let Err(error) = result {
                eprintln!("{error:#}");
            }
        }
    }
}

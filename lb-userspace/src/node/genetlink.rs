//! Generic netlink: a family of the kernel by its name, and requests to that family.

use std::io;

use rtnetlink::sys::protocols::NETLINK_GENERIC;

use super::netlink::{ACK, Netlink, REQUEST, write_header};
use super::nfnetlink::{Attributes, all_attributes};

/// Length of `struct genlmsghdr`.
const COMMAND_HEADER: usize = 4;

/// The family that knows the others (`linux/genetlink.h`).
mod ctrl {
    pub const ID: u16 = 0x10;
    pub const CMD_GETFAMILY: u8 = 3;
    pub const ATTR_FAMILY_ID: u16 = 1;
    pub const ATTR_FAMILY_NAME: u16 = 2;
}

/// A socket to one family, in the network namespace of the thread that opened it.
pub struct Genetlink {
    netlink: Netlink,
    sequence: u32,
    family: u16,
}

impl Genetlink {
    /// Opens a socket to a family. The kernel may load the module that has it.
    ///
    /// # Errors
    /// `NotFound` if the kernel has no such family.
    pub fn open(family: &str) -> io::Result<Self> {
        let mut socket = Self { netlink: Netlink::open(NETLINK_GENERIC)?, sequence: 0, family: ctrl::ID };
        let name = Attributes::new().text(ctrl::ATTR_FAMILY_NAME, family);
        let mut id = None;
        socket.exchange(ctrl::CMD_GETFAMILY, &name, |attributes| {
            let found = all_attributes(attributes).find(|(kind, _)| *kind == ctrl::ATTR_FAMILY_ID);
            id = found.and_then(|(_, value)| Some(u16::from_ne_bytes(value.try_into().ok()?)));
        })?;
        socket.family = id.ok_or(io::ErrorKind::InvalidData)?;
        Ok(socket)
    }

    /// Requests one action.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn ask(&mut self, command: u8, attributes: &Attributes) -> io::Result<()> {
        self.exchange(command, attributes, |_| {})
    }

    fn exchange(
        &mut self,
        command: u8,
        attributes: &Attributes,
        mut visit: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        let body = COMMAND_HEADER + attributes.as_bytes().len();
        write_header(&mut bytes, body, self.family, REQUEST | ACK, self.sequence);
        bytes.extend_from_slice(&[command, 1, 0, 0]);
        bytes.extend_from_slice(attributes.as_bytes());
        self.netlink.send(&bytes)?;
        self.netlink.receive(self.sequence, self.sequence, |body| {
            visit(body.get(COMMAND_HEADER..).unwrap_or_default());
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel has the family of families; one that nobody has is not found.
    #[test]
    fn a_family_is_found_by_its_name() {
        let socket = Genetlink::open("nlctrl").expect("every kernel has it");
        assert_eq!(socket.family, ctrl::ID);
        let missing = Genetlink::open("no-such-family").err().map(|error| error.kind());
        assert_eq!(missing, Some(io::ErrorKind::NotFound));
    }
}

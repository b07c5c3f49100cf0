//! Bridges: which port an address belongs to.

/// A host on a bridge: the value of `bridge_hosts`, by its address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct BridgeHost {
    /// The interface index of the port at which the address was seen.
    pub port: u32,
    /// The MAC address from which the host sent then.
    pub mac: [u8; 6],
    pub pad: u16,
}

const _: () = assert!(size_of::<BridgeHost>() == 12);

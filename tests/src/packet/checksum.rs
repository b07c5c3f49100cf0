//! The Internet checksum (RFC 1071), always summed over all bytes. The programs under test apply a delta instead.

use std::net::IpAddr;

/// CRC32c, computed bit by bit (RFC 9260 appendix A). The checksum field itself must be zero.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// A running one's complement sum.
#[derive(Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of the summed data; an odd last byte is padded with zero.
    pub fn add(mut self, bytes: &[u8]) -> Self {
        let mut pairs = bytes.chunks_exact(2);
        self.0 += pairs.by_ref().map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>();
        if let [last] = pairs.remainder() {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1).
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Self {
        let len = u32::try_from(len).expect("a packet is shorter than 4 GiB").to_be_bytes();
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.add(&src.octets()).add(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.add(&src.octets()).add(&dst.octets()),
            _ => panic!("{src} and {dst} are of different families"),
        };
        sum.add(&[0, proto]).add(&len)
    }

    /// The value of the checksum field that makes the whole sum all ones.
    pub fn complement(&self) -> u16 {
        !self.folded()
    }

    /// Whether the summed data, including its checksum field, is intact.
    pub fn is_intact(&self) -> bool {
        self.folded() == 0xffff
    }

    fn folded(&self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn odd_length_is_padded() {
        assert_eq!(Sum::default().add(&[0xab]).folded(), 0xab00);
    }
}

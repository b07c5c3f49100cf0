//! Arrays mapped into memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Pod;
use aya::maps::MapData;

/// An array map, mapped into memory (`BPF_F_MMAPABLE`). Elements start at multiples of eight bytes.
pub struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    len: usize,
    element: std::marker::PhantomData<T>,
}

// SAFETY: the shared memory is read and written word by word, with volatile or atomic access only.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above; one thread writes, and a copy that another thread reads meanwhile may mix two states, as in any
// other process that maps the array.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array.
    ///
    /// # Errors
    /// If the values of the map have another size, or the map cannot be mapped.
    pub fn new(map: &MapData, writable: bool) -> anyhow::Result<Self> {
        let info = map.info()?;
        anyhow::ensure!(
            info.value_size() as usize == size_of::<T>(),
            "map has values of {} bytes, {} expected",
            info.value_size(),
            size_of::<T>()
        );
        let len = info.max_entries() as usize;
        let bytes = (len * Self::STRIDE).next_multiple_of(4096);
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: this is a fresh shared mapping of a map that is at least this long.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(anyhow::Error::new(io::Error::last_os_error()).context("mmap of a map"));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| anyhow::anyhow!("mmap of a map gave null"))?;
        Ok(Self { start, bytes, len, element: std::marker::PhantomData })
    }

    /// Number of elements; never 0, because the kernel creates no empty array.
    pub fn entries(&self) -> u32 {
        self.len as u32
    }

    fn at(&self, index: u32) -> *mut T {
        let index = index as usize;
        assert!(index < self.len, "index {index} of an array of {}", self.len);
        // SAFETY: in bounds by the line above.
        unsafe { self.start.as_ptr().add(index * Self::STRIDE).cast() }
    }

    /// A copy of an element, word by word.
    pub fn get(&self, index: u32) -> T {
        // SAFETY: in bounds; any bit pattern is a T; the access is volatile because the kernel or another process may
        // write the element meanwhile.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes an element that no packet reads, or whose words that packets read keep their values.
    pub fn set(&self, index: u32, value: &T) {
        // SAFETY: in bounds, and only this process writes.
        unsafe { self.at(index).write_volatile(*value) }
    }

    /// A 64-bit word of an element, for a store that packets see atomically. `offset` is in bytes.
    pub fn word64(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        // SAFETY: in bounds and aligned by the line above; every access to it is atomic or a volatile read.
        unsafe { AtomicU64::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }

    /// A 32-bit word of an element. `offset` is in bytes.
    pub fn word32(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }

    /// Writes a field of one byte. `offset` is in bytes.
    pub fn set_byte(&self, index: u32, offset: usize, value: u8) {
        assert!(offset < size_of::<T>());
        // SAFETY: in bounds by the line above, and only this process writes.
        unsafe { self.at(index).cast::<u8>().add(offset).write_volatile(value) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Sets or clears a bit of a word that packets on other CPUs write too.
pub fn store_bit(word: &AtomicU64, bit: u32, on: bool) {
    if on {
        word.fetch_or(1 << bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!(1 << bit), Ordering::Relaxed);
    }
}

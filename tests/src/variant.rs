//! Variants of `lb`: copies of the binary under test with another packet path.
//!
//! `lb` contains its programs as an ELF object. A variant changes a few instructions of the object, so the product
//! needs no hook for tests.

use crate::world::lb_binary;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// `e_machine` of eBPF.
const EM_BPF: [u8; 2] = [247, 0];
/// `SHF_EXECINSTR`: the section holds instructions.
const EXECUTABLE: u64 = 4;

const CALL: u8 = 0x85;
const SHIFT_RIGHT: [u8; 2] = [0x74, 0x77];
/// Number of the helper `bpf_jiffies64`, which each program calls to learn the current beat.
const JIFFIES64: i32 = 118;
const NO_SUCH_HELPER: i32 = 9_999;

/// A copy of `lb`; removed when dropped.
pub struct Variant {
    path: PathBuf,
    _folder: TempDir,
}

impl Variant {
    /// Every program differs from that of `lb` but does the same: only its beats are twice as long (512 jiffies).
    pub fn with_other_programs() -> Result<Self> {
        Self::make(|code| {
            let mut changed = 0;
            for call in calls(code, JIFFIES64) {
                let mut after = code[call + 8..].chunks_exact_mut(8).take(4);
                let shift = after.find(|next| SHIFT_RIGHT.contains(&next[0]) && next[4..] == [8, 0, 0, 0]);
                if let Some(shift) = shift {
                    shift[4] = 9;
                    changed += 1;
                }
            }
            changed
        })
    }

    /// The kernel refuses the programs, because they call a helper that does not exist.
    pub fn that_does_not_load() -> Result<Self> {
        Self::make(|code| {
            let calls = calls(code, JIFFIES64);
            for call in &calls {
                code[call + 4..call + 8].copy_from_slice(&NO_SUCH_HELPER.to_le_bytes());
            }
            calls.len()
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `change` gets each section of instructions, and returns how many instructions it changed.
    fn make(change: impl Fn(&mut [u8]) -> usize) -> Result<Self> {
        let original = lb_binary()?;
        let mut image = fs::read(&original).with_context(|| original.display().to_string())?;
        let object = object(&image).with_context(|| format!("no eBPF object in {}", original.display()))?;
        let mut changed = 0;
        for (start, len) in sections(&image[object..])? {
            changed += change(&mut image[object + start..][..len]);
        }
        ensure!(changed > 0, "the packet path has no instruction to change");
        // Next to the original, where files can be executed and do not occupy memory.
        let parent = original.parent().context("lb is in no folder")?;
        let folder = tempfile::Builder::new().prefix("lbt-variant").tempdir_in(parent)?;
        let path = folder.path().join("lb");
        // The copy has the permissions of the original.
        fs::copy(&original, &path)?;
        fs::write(&path, image)?;
        Ok(Self { path, _folder: folder })
    }
}

/// The offset of the eBPF object.
fn object(image: &[u8]) -> Option<usize> {
    let is_object = |at: &usize| {
        let header = &image[*at..];
        header.starts_with(b"\x7fELF") && header.get(18..20) == Some(&EM_BPF)
    };
    (0..image.len()).step_by(4).find(is_object)
}

/// The offset and length of each section of instructions in a little-endian 64-bit ELF file.
fn sections(elf: &[u8]) -> Result<Vec<(usize, usize)>> {
    let bytes = |at: usize, len: usize| elf.get(at..at + len).context("the object is cut short");
    let word = |at| Ok::<_, anyhow::Error>(u64::from_le_bytes(bytes(at, 8)?.try_into()?));
    let table = word(40)? as usize;
    let count = u16::from_le_bytes(bytes(60, 2)?.try_into()?);
    let mut found = Vec::new();
    for header in (0..usize::from(count)).map(|number| table + 64 * number) {
        if word(header + 8)? & EXECUTABLE != 0 {
            let (offset, len) = (word(header + 24)? as usize, word(header + 32)? as usize);
            bytes(offset, len)?;
            found.push((offset, len));
        }
    }
    Ok(found)
}

/// The offsets of the calls to a helper.
fn calls(code: &[u8], helper: i32) -> Vec<usize> {
    let is_call = |at: &usize| {
        let instruction = &code[*at..*at + 8];
        // A source register other than 0 means a call to a function.
        instruction[0] == CALL && instruction[1] >> 4 == 0 && instruction[4..] == helper.to_le_bytes()
    };
    (0..code.len() / 8).map(|number| number * 8).filter(is_call).collect()
}

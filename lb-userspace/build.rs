//! Compiles the packet path, so that `include_bytes!` finds it as `OUT_DIR/lb-ebpf`.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, ensure};
use object::{Object, ObjectSection};

fn main() -> anyhow::Result<()> {
    xtask::toolchain::embed("lb-ebpf", "lb-ebpf");
    let out = env::var_os("OUT_DIR").context("OUT_DIR, which cargo sets, is missing")?;
    let path = Path::new(&out).join("lb-ebpf");
    // If the packet path does not compile, `embed` has reported it.
    if let Ok(mut object) = fs::read(&path) {
        mark_text(&mut object).context("edit the BTF of the packet path")?;
        fs::write(&path, object)?;
    }
    Ok(())
}

/// Marks `i8` as a character in the object's BTF, so that `bpftool map dump` prints an array of them as text. Rust has
/// no type that its debug information marks as a character; only `ServiceName` uses `i8`.
fn mark_text(object: &mut [u8]) -> anyhow::Result<()> {
    const INT: u32 = 1;
    const INT_CHAR: u32 = 1 << 1;
    let (start, _) = object::File::parse(&*object)?
        .section_by_name(".BTF")
        .context("there is no section .BTF")?
        .file_range()
        .context("the section .BTF is empty")?;
    let start = start as usize;
    let word = |object: &[u8], at: usize| -> anyhow::Result<u32> {
        Ok(u32::from_le_bytes(object.get(at..at + 4).context("the section is cut short")?.try_into()?))
    };
    // struct btf_header of linux/btf.h: offsets count from its end.
    let header = word(object, start + 4)? as usize;
    let types = start + header + word(object, start + 8)? as usize;
    let end = types + word(object, start + 12)? as usize;
    let strings = start + header + word(object, start + 16)? as usize;
    let mut at = types;
    while at < end {
        let (name, info) = (word(object, at)? as usize, word(object, at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == INT && object.get(strings + name..strings + name + 3) == Some(b"i8\0") {
            let encoding = word(object, at + 12)? & !0x0f00_0000 | INT_CHAR << 24;
            object[at + 12..at + 16].copy_from_slice(&encoding.to_le_bytes());
            return Ok(());
        }
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => members * 12,
                6 | 13 => members * 8,
                _ => 0,
            };
        ensure!(kind != 0, "a type has no kind");
    }
    anyhow::bail!("there is no type i8")
}

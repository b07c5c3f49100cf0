//! Removes DWARF from a compiled eBPF program. The linker makes BTF from DWARF, and the kernel takes BTF only. DWARF is
//! three quarters of the packet path's object, which `lb` carries.

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

/// Copies an ELF file without its debug sections and what refers to them. `.BTF` and `.BTF.ext` stay.
///
/// # Errors
/// `object` is not an ELF file.
pub fn without(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the object cannot be read")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM puts the names of sections among those of symbols; the builder wants a table for each.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        add_names(&mut builder);
    }
    builder.set_section_sizes();
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("the object cannot be written")?;
    Ok(stripped)
}

fn add_names(builder: &mut Builder<'_>) {
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
}

#[cfg(test)]
mod tests {
    use object::Endianness;

    use super::*;

    fn object(sections: &[&'static str]) -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_BPF;
        add_names(&mut builder);
        for name in sections {
            let section = builder.sections.add();
            section.name = (*name).into();
            section.sh_type = elf::SHT_PROGBITS;
            section.data = SectionData::Data(name.as_bytes().into());
        }
        builder.set_section_sizes();
        let mut bytes = Vec::new();
        builder.write(&mut bytes).expect("an object of a few sections");
        bytes
    }

    #[test]
    fn only_debug_sections_go() {
        let stripped =
            without(&object(&["classifier", ".debug_info", ".BTF", ".rel.debug_info", ".BTF.ext"]));
        let builder = stripped.expect("it was just written");
        let builder = Builder::read(builder.as_slice()).expect("it was just written");
        let kept = builder.sections.iter().filter_map(|section| match &section.data {
            SectionData::Data(bytes) => Some((section.name.to_string(), bytes.as_slice())),
            _ => None,
        });
        let expected = ["classifier", ".BTF", ".BTF.ext"].map(|name| (name.to_owned(), name.as_bytes()));
        assert_eq!(kept.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(without(b"text").is_err());
    }
}

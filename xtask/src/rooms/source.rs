//! The source of a package as Rust sees it: from each root file along its `mod` lines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{Attribute, Item, ItemMod, Meta};

/// A package: its library, if any, and its programs. Each is a crate of its own to the compiler.
pub struct Package {
    /// The name by which programs of the package import from its library: `lb_userspace`.
    pub library: String,
    /// The crates, in the order of their root files.
    pub crates: Vec<Crate>,
}

/// One library or program.
pub struct Crate {
    /// Whether other crates of the package may import from this one.
    pub is_library: bool,
    /// The root and every module below it.
    pub modules: Vec<Module>,
}

/// A file, or a module within braces.
pub struct Module {
    /// From the root of the crate, which has none: `["view", "columns"]`.
    pub path: Vec<String>,
    /// From the folder `src`: `view/columns.rs`.
    pub file: String,
    /// What the module holds, except for its own modules.
    pub items: Vec<Item>,
}

/// Reads the package in `folder`.
///
/// # Errors
/// A file is missing or is not Rust.
pub fn read(folder: &Path) -> Result<Package> {
    let manifest = folder.join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let source = folder.join("src");
    let mut roots: Vec<String> = ["lib.rs", "main.rs"].map(str::to_owned).into();
    for entry in fs::read_dir(source.join("bin")).into_iter().flatten() {
        let entry = entry?.file_name().to_string_lossy().into_owned();
        roots.extend([format!("bin/{entry}/main.rs"), format!("bin/{entry}")]);
    }
    roots.retain(|root| source.join(root).is_file());
    roots.sort();
    package(name.context("the package has no name")?, &roots, &|file| {
        let file = source.join(file);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    })
}

/// Reads the crates whose root files are `roots`; `text` gives the text of a file.
pub fn package(
    name: &str,
    roots: &[impl AsRef<str>],
    text: &dyn Fn(&str) -> Result<String>,
) -> Result<Package> {
    let reader = Reader { text };
    let crates = roots.iter().map(|root| {
        let root = root.as_ref();
        let mut modules = Vec::new();
        let folder = Path::new(root).parent().unwrap_or(Path::new("")).to_owned();
        reader.file(root, folder, Vec::new(), &mut modules)?;
        Ok(Crate { is_library: root == "lib.rs", modules })
    });
    Ok(Package { library: name.replace('-', "_"), crates: crates.collect::<Result<_>>()? })
}

struct Reader<'a> {
    text: &'a dyn Fn(&str) -> Result<String>,
}

impl Reader<'_> {
    /// Reads a file, and the files of its modules, which are in `folder`.
    fn file(&self, file: &str, folder: PathBuf, path: Vec<String>, modules: &mut Vec<Module>) -> Result<()> {
        let syntax = syn::parse_file(&(self.text)(file)?).with_context(|| format!("{file} is not Rust"))?;
        self.module(file, folder, path, syntax.items, modules)
    }

    fn module(
        &self,
        file: &str,
        folder: PathBuf,
        path: Vec<String>,
        items: Vec<Item>,
        modules: &mut Vec<Module>,
    ) -> Result<()> {
        let mut own = Vec::new();
        for item in items {
            let Item::Mod(module) = item else {
                own.push(item);
                continue;
            };
            if is_for_tests(&module.attrs) {
                continue;
            }
            self.child(file, &folder, &path, module, modules)?;
        }
        modules.push(Module { path, file: file.to_owned(), items: own });
        Ok(())
    }

    fn child(
        &self,
        file: &str,
        folder: &Path,
        parent: &[String],
        module: ItemMod,
        modules: &mut Vec<Module>,
    ) -> Result<()> {
        let name = module.ident.to_string();
        let path = [parent, std::slice::from_ref(&name)].concat();
        let inside = folder.join(&name);
        match module.content {
            Some((_, items)) => self.module(file, inside, path, items, modules),
            None => self.file(&format!("{}.rs", inside.display()), inside, path, modules),
        }
    }
}

/// Whether the attributes contain `#[cfg(test)]`, also with further conditions.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test")
        }
        _ => false,
    })
}

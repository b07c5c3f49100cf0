//! The rooms and files of a package, and the arrows between them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    graph::Graph,
    imports::{Imports, Words},
    source::{Crate, Package},
};

/// Stands for the import of a whole module whose contents are then named through the module.
const MODULE: &str = "self";
/// The longest chain of imported names that is followed; a name may stand for itself.
const DEPTH: usize = 8;

/// The rooms of a package.
pub struct House {
    /// The folder of the package: `lb-common`.
    pub name: String,
    /// The names of the rooms, in order.
    pub rooms: Vec<String>,
    /// The files, from the folder `src`, in order.
    pub files: Vec<String>,
    /// Arrows between rooms.
    pub between: Graph,
    /// Arrows between files of the same room.
    pub within: Graph,
}

impl House {
    /// The house of the package called `name`.
    pub fn new(name: &str, package: &Package) -> Self {
        let map = Map::new(package);
        let mut house = Self {
            name: name.to_owned(),
            rooms: map.rooms.clone(),
            files: map.files.keys().cloned().collect(),
            between: Graph::default(),
            within: Graph::default(),
        };
        for ((from, to), names) in map.imports() {
            let (room, other) = (map.room_of[from], map.room_of[to]);
            let file = house.files[from].as_str();
            for name in &names {
                if room == other {
                    house.within.add(from, to, "", name);
                } else {
                    house.between.add(room, other, file, name);
                }
            }
        }
        house
    }
}

/// Where everything is.
struct Map {
    library: Option<(usize, String)>,
    crates: Vec<Modules>,
    /// Files in the order of their names, and their numbers.
    files: BTreeMap<String, usize>,
    rooms: Vec<String>,
    /// The room of each file.
    room_of: Vec<usize>,
}

/// The modules of one crate.
struct Modules {
    file_of: BTreeMap<Words, usize>,
    imports: BTreeMap<Words, Imports>,
}

/// What a path names: a module, and the words after it.
struct Target {
    krate: usize,
    module: Words,
    rest: Words,
}

impl Map {
    fn new(package: &Package) -> Self {
        let rooms_of_files: BTreeMap<String, String> = package.crates.iter().flat_map(rooms).collect();
        let names: BTreeSet<&String> = rooms_of_files.values().collect();
        let rooms: Vec<String> = names.into_iter().cloned().collect();
        let room_of = rooms_of_files.values().filter_map(|room| rooms.binary_search(room).ok()).collect();
        let files: BTreeMap<String, usize> = rooms_of_files.into_keys().zip(0..).collect();
        let library = package.crates.iter().position(|krate| krate.is_library);
        Self {
            library: library.map(|number| (number, package.library.clone())),
            crates: package.crates.iter().map(|krate| Modules::new(krate, &files)).collect(),
            files,
            rooms,
            room_of,
        }
    }

    /// The names that each file imports from each other file.
    fn imports(&self) -> BTreeMap<(usize, usize), BTreeSet<String>> {
        let mut all: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (number, krate) in self.crates.iter().enumerate() {
            for (module, imports) in &krate.imports {
                for path in &imports.paths {
                    let Some(target) = self.resolve(number, module, path, 0) else { continue };
                    let (from, to) = (krate.file_of[module], self.file(&target));
                    let name = target.rest.first().map_or(MODULE, String::as_str);
                    if from != to {
                        all.entry((from, to)).or_default().insert(name.to_owned());
                    }
                }
            }
        }
        // The names that are used say more than the module that holds them.
        for names in all.values_mut().filter(|names| names.len() > 1) {
            names.remove(MODULE);
        }
        all
    }

    fn file(&self, target: &Target) -> usize {
        self.crates[target.krate].file_of[&target.module]
    }

    /// What `path` stands for in a module; `None` if the path leads out of the package.
    fn resolve(&self, krate: usize, module: &[String], path: &[String], depth: usize) -> Option<Target> {
        if depth > DEPTH {
            return None;
        }
        let modules = &self.crates[krate];
        let (first, rest) = path.split_first()?;
        let at = |krate, module: &[String]| self.walk(krate, module.to_owned(), rest, depth);
        match first.as_str() {
            "crate" => return Some(at(krate, &[])),
            "self" => return Some(at(krate, module)),
            "super" => return Some(at(krate, module.split_last()?.1)),
            _ => {}
        }
        let child = [module, std::slice::from_ref(first)].concat();
        if modules.file_of.contains_key(&child) {
            return Some(at(krate, &child));
        }
        if let Some(imported) = modules.name(module, first) {
            return self.resolve(krate, module, &[imported, rest].concat(), depth + 1);
        }
        let (library, name) = self.library.as_ref()?;
        (name == first && krate != *library).then(|| at(*library, &[]))
    }

    /// Follows words from a module, as far as they name modules.
    fn walk(&self, krate: usize, mut module: Words, path: &[String], depth: usize) -> Target {
        let modules = &self.crates[krate];
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            let child = [module.as_slice(), std::slice::from_ref(first)].concat();
            if first == "super" && !module.is_empty() {
                module.pop();
            } else if modules.file_of.contains_key(&child) {
                module = child;
            } else {
                break;
            }
            rest = after;
        }
        let here = Target { krate, module, rest: rest.to_owned() };
        self.behind(&here, depth).unwrap_or(here)
    }

    /// What a name stands for that a module only passes on. A path that names another room's module means that
    /// room, so a name is followed from the root of the crate, which is a door, or within the room.
    fn behind(&self, here: &Target, depth: usize) -> Option<Target> {
        let modules = &self.crates[here.krate];
        let (first, after) = here.rest.split_first()?;
        let is_root = here.module.is_empty();
        if let Some(module) = modules.macro_home(first).filter(|_| is_root) {
            return Some(Target { krate: here.krate, module: module.clone(), rest: here.rest.clone() });
        }
        let imported = modules.name(&here.module, first)?;
        let target = self.resolve(here.krate, &here.module, &[imported, after].concat(), depth + 1)?;
        let same_room = self.room_of[self.file(&target)] == self.room_of[self.file(here)];
        (is_root || same_room).then_some(target)
    }
}

impl Modules {
    fn new(krate: &Crate, files: &BTreeMap<String, usize>) -> Self {
        let modules = || krate.modules.iter();
        Self {
            file_of: modules().map(|module| (module.path.clone(), files[&module.file])).collect(),
            imports: modules().map(|module| (module.path.clone(), Imports::of(module))).collect(),
        }
    }

    /// The path that an imported name stands for in a module.
    fn name(&self, module: &[String], name: &str) -> Option<&[String]> {
        let names = &self.imports.get(module)?.names;
        names.iter().find(|(local, _)| local == name).map(|(_, path)| path.as_slice())
    }

    /// The module of an exported macro.
    fn macro_home(&self, name: &str) -> Option<&Words> {
        let has = |imports: &Imports| imports.exported_macros.iter().any(|exported| exported == name);
        self.imports.iter().find(|(_, imports)| has(imports)).map(|(module, _)| module)
    }
}

/// The room of each file of a crate. Rooms of a program in `src/bin` have its name in front.
fn rooms(krate: &Crate) -> Vec<(String, String)> {
    let root = krate.modules.iter().find(|module| module.path.is_empty());
    let root = root.map_or("", |module| &module.file);
    let (folder, stem) = root.rsplit_once('/').unwrap_or(("", root));
    let program = folder.strip_prefix("bin/").unwrap_or_default();
    let of = |file: &str| {
        let inside = file.strip_prefix(folder).unwrap_or(file).trim_start_matches('/');
        let room = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        match program {
            "" => room.to_owned(),
            _ if inside == stem => program.to_owned(),
            _ => format!("{program}/{room}"),
        }
    };
    krate.modules.iter().map(|module| (module.file.clone(), of(&module.file))).collect()
}

#[cfg(test)]
pub mod tests {
    use anyhow::Context;

    use super::{super::source::package, *};

    /// The house of a package with these files.
    pub fn house(files: &[(&str, &str)]) -> House {
        let text = |name: &str| {
            let file = files.iter().find(|(file, _)| *file == name);
            file.map(|(_, text)| (*text).to_owned()).context("no such file")
        };
        let roots: Vec<&str> = files
            .iter()
            .map(|(file, _)| *file)
            .filter(|file| matches!(*file, "lib.rs" | "main.rs"))
            .collect();
        House::new("house", &package("the-house", &roots, &text).expect("the fixture is Rust"))
    }

    /// Every arrow between rooms: `a -> b: Name (a.rs)`.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let house = house(files);
        let arrows = house.between.arrows().map(|(from, to, _)| (from, to));
        let line = |(from, to)| {
            format!("{} -> {}: {}", house.rooms[from], house.rooms[to], house.between.names(from, to))
        };
        arrows.map(line).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b;");

    #[test]
    fn imports_one_way_are_no_circle() {
        let files = [ROOT, ("a.rs", "use crate::b::{self, Wall as W, c::*};"), ("b.rs", "pub mod c {}")];
        assert_eq!(arrows(&files), ["a -> b: *, Wall (a.rs)"]);
        assert!(house(&files).between.circles().is_empty());
    }

    #[test]
    fn imports_both_ways_are_a_circle() {
        let house = house(&[
            ROOT,
            ("a.rs", "use crate::b; fn f() { b::open(); }"),
            ("b.rs", "pub fn open(_: crate::a::Door) {}"),
        ]);
        assert_eq!(house.between.circles(), [BTreeSet::from([0, 1])]);
        assert_eq!(house.between.names(0, 1), "open (a.rs)");
        assert_eq!(house.between.names(1, 0), "Door (b.rs)");
    }

    #[test]
    fn paths_through_parents_are_followed() {
        let files = [
            ROOT,
            ("a.rs", "mod deep;"),
            ("a/deep.rs", "use super::super::b::X; mod inline { use super::super::super::b::Y; }"),
            ("b.rs", "use self::c::Z; mod c { pub struct Z; }"),
        ];
        assert_eq!(arrows(&files), ["a -> b: X, Y (a/deep.rs)"]);
    }

    #[test]
    fn code_of_tests_does_not_count() {
        let files = [
            ROOT,
            ("a.rs", "#[cfg(test)] mod tests { use crate::b::X; } #[cfg(test)] use crate::b::Y;"),
            ("b.rs", "#[cfg(test)] mod tests; #[cfg(test)] fn f() { crate::a::g(); }"),
        ];
        assert!(arrows(&files).is_empty());
    }

    #[test]
    fn macros_attributes_and_types_import_too() {
        let files = [
            ROOT,
            ("a.rs", "fn f() { vec![g(crate::b::X)]; } struct S { #[serde(with = \"crate::b::y\")] y: u8 }"),
            ("b.rs", "/// As [`crate::a::S`].\nimpl Iterator for Vec<crate::a::T> {}"),
        ];
        assert_eq!(arrows(&files), ["a -> b: X, y (a.rs)", "b -> a: T (b.rs)"]);
    }

    #[test]
    fn visibility_is_no_import() {
        let files = [ROOT, ("a.rs", "pub(in crate::b) struct S;"), ("b.rs", "")];
        assert!(arrows(&files).is_empty());
    }

    #[test]
    fn the_root_passes_names_and_macros_on() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use b::X; pub struct Own;"),
            ("a.rs", "use crate::{X, Own}; crate::make!();"),
            ("b.rs", "#[macro_export] macro_rules! make { () => {} } pub struct X;"),
        ];
        let expected = ["a -> b: X, make (a.rs)", "a -> lib: Own (a.rs)", "lib -> b: X (lib.rs)"];
        assert_eq!(arrows(&files), expected);
    }

    #[test]
    fn the_root_passes_a_renamed_import_on() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use b::X as Wall;"),
            ("a.rs", "use crate::Wall;"),
            ("b.rs", "pub struct X;"),
        ];
        assert_eq!(arrows(&files), ["a -> b: X (a.rs)", "lib -> b: X (lib.rs)"]);
    }

    #[test]
    fn another_rooms_door_is_that_room() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::X;"),
            ("b.rs", "pub use crate::c::X;"),
            ("c.rs", ""),
        ];
        assert_eq!(arrows(&files), ["a -> b: X (a.rs)", "b -> c: X (b.rs)"]);
    }

    #[test]
    fn a_program_imports_from_its_library_by_name() {
        let files = [("lib.rs", "pub mod a;"), ("a.rs", ""), ("main.rs", "use the_house::a::run;")];
        assert_eq!(arrows(&files), ["main -> a: run (main.rs)"]);
    }

    #[test]
    fn files_of_one_room_may_form_a_circle_of_their_own() {
        let house = house(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod x; mod y; pub use x::X;"),
            ("a/x.rs", "use super::y::Y; pub struct X;"),
            ("a/y.rs", "use super::X; pub struct Y;"),
        ]);
        assert!(house.between.circles().is_empty());
        let circles = house.within.circles();
        let files: Vec<&str> = circles.iter().flatten().map(|file| house.files[*file].as_str()).collect();
        assert_eq!(files, ["a/x.rs", "a/y.rs"]);
    }
}

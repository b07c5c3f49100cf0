//! Every path that a module names: in `use`, in code, in attributes and, as far as their tokens tell, in macros.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ImplItemFn, ItemFn, ItemImpl, ItemMacro, ItemMod, ItemUse, Macro, Meta, Path, UseTree,
    VisRestricted, visit,
};

use super::source::{Module, is_for_tests};

/// A path as written, in words: `["crate", "view", "Columns"]`.
pub type Words = Vec<String>;

/// What a module names.
#[derive(Default)]
pub struct Imports {
    /// Paths of more than one word.
    pub paths: Vec<Words>,
    /// What `use` brings into scope: the local name, and the path that the name stands for.
    pub names: Vec<(String, Words)>,
    /// Macros of the module that the whole crate calls by `crate::name!`.
    pub exported_macros: Vec<String>,
}

impl Imports {
    /// Of one module, without its child modules.
    pub fn of(module: &Module) -> Self {
        let mut imports = Self::default();
        for item in &module.items {
            visit::Visit::visit_item(&mut imports, item);
        }
        imports
    }

    fn add(&mut self, path: Words) {
        if path.len() > 1 {
            self.paths.push(path);
        }
    }

    fn add_use(&mut self, mut path: Words, tree: &UseTree) {
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.add_use(path, &tree.tree);
            }
            UseTree::Name(tree) => self.add_name(tree.ident.to_string(), path, tree.ident.to_string()),
            UseTree::Rename(tree) => self.add_name(tree.rename.to_string(), path, tree.ident.to_string()),
            UseTree::Glob(_) => {
                path.push("*".to_owned());
                self.add(path);
            }
            UseTree::Group(tree) => tree.items.iter().for_each(|item| self.add_use(path.clone(), item)),
        }
    }

    fn add_name(&mut self, local: String, mut path: Words, last: String) {
        let local = if last == "self" { path.last().cloned().unwrap_or_default() } else { local };
        if last != "self" {
            path.push(last);
        }
        self.names.push((local, path.clone()));
        self.add(path);
    }

    /// Paths are words with `::` between them, also within brackets. Text may hold a path too, as in
    /// `#[serde(with = "crate::x")]`.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Words::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.add(std::mem::take(&mut path));
                    }
                    path.push(word.to_string());
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Literal(text) => self.add_text(&text.to_string()),
                TokenTree::Punct(_) => self.add(std::mem::take(&mut path)),
            }
            colons = 0;
        }
        self.add(path);
    }

    fn add_text(&mut self, text: &str) {
        let text = text.trim_matches('"');
        if ["crate::", "super::", "self::"].iter().any(|start| text.starts_with(start)) {
            self.add(text.split("::").map(str::to_owned).collect());
        }
    }
}

impl visit::Visit<'_> for Imports {
    fn visit_item_use(&mut self, item: &ItemUse) {
        // `use ::name` is always another crate.
        if item.leading_colon.is_none() && !is_for_tests(&item.attrs) {
            self.add_use(Words::new(), &item.tree);
        }
    }

    fn visit_path(&mut self, path: &Path) {
        if path.leading_colon.is_none() {
            self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &Macro) {
        self.visit_path(&call.path);
        self.add_tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &Attribute) {
        match &attribute.meta {
            Meta::List(list) => self.add_tokens(list.tokens.clone()),
            // Text of documentation imports nothing.
            Meta::NameValue(_) | Meta::Path(_) => {}
        }
    }

    fn visit_item_macro(&mut self, item: &ItemMacro) {
        let is_exported = item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
        if let Some(name) = item.ident.as_ref().filter(|_| is_exported) {
            self.exported_macros.push(name.to_string());
        }
        visit::visit_item_macro(self, item);
    }

    /// `pub(in crate::x)` says who may import, and imports nothing.
    fn visit_vis_restricted(&mut self, _: &VisRestricted) {}

    /// The modules of a file are read apart. What is left is a module within a function, which only tests have.
    fn visit_item_mod(&mut self, _: &ItemMod) {}

    fn visit_item_fn(&mut self, item: &ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &ItemImpl) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }
}

//! The graph of files: who imports whom, resolved to the file that defines what is named.
//!
//! A front that only passes names on (`pub use child::Name`) does not depend on its children: whoever names
//! `Name` by the front depends on the child. A front that uses a child for its own work does.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Import, Source, read};

/// How often a name may be passed on before we give up.
const MAX_PASSES: usize = 8;

struct File {
    name: String,
    module: Vec<String>,
    source: Source,
}

/// All files, by module path.
pub struct House {
    files: BTreeMap<Vec<String>, File>,
}

/// `src/mesh/gate/mod.rs` and `src/mesh/gate.rs` are both `mesh::gate`.
fn module_of(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    if module == ["lib"] {
        module.clear();
    }
    module
}

impl House {
    /// Of files as `(name, text)`, names from the root of the project.
    pub fn of(files: &[(String, String)]) -> Self {
        let mut all: BTreeMap<Vec<String>, File> = files
            .iter()
            // Tests beside what they test, by whatever `#[path]` they are declared.
            .filter(|(name, _)| !name.ends_with("_tests.rs"))
            .map(|(name, text)| {
                let module = module_of(name);
                (module.clone(), File { name: name.clone(), module, source: read(text) })
            })
            .collect();
        // Files that exist only in tests, and what is below them.
        let tests: Vec<Vec<String>> = all
            .values()
            .flat_map(|file| {
                file.source.test_modules.iter().map(|child| {
                    let mut module = file.module.clone();
                    module.push(child.clone());
                    module
                })
            })
            .collect();
        all.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self { files: all }
    }

    /// Names of the files that are not only for tests.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.values().map(|file| file.name.as_str())
    }

    /// The module path that an import names, from the root; `None`: it is another crate's.
    fn absolute(&self, file: &File, import: &Import) -> Option<Vec<String>> {
        let mut path = import.path.as_slice();
        // Where `self` is: inline modules count as the file that they are in.
        let mut base = file.module.clone();
        let mut depth = import.depth;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                path = &path[1..];
            }
            "atmosphere" if file.module == ["main"] => {
                base.clear();
                path = &path[1..];
            }
            "self" => path = &path[1..],
            "super" => {
                while path.first().is_some_and(|segment| segment == "super") {
                    if depth > 0 {
                        depth -= 1;
                    } else {
                        base.pop();
                    }
                    path = &path[1..];
                }
            }
            first => {
                // A child module by its bare name.
                let mut child = base.clone();
                child.push(first.to_owned());
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        base.extend(path.iter().cloned());
        Some(base)
    }

    /// The longest prefix of a path that is a file, and the segment after it.
    fn file_and_name<'a>(&'a self, path: &[String]) -> Option<(&'a File, Option<String>)> {
        (0..=path.len())
            .rev()
            .find_map(|length| self.files.get(&path[..length]).map(|file| (file, path.get(length).cloned())))
    }

    /// The file that defines what a path from the root names.
    fn defined_in(&self, path: &[String], passes: usize) -> Option<&File> {
        let (file, name) = self.file_and_name(path)?;
        let Some(name) = name else { return Some(file) };
        if passes == 0 || file.source.defines.contains(&name) {
            return Some(file);
        }
        let passed_on = |import: &&Import| import.passed_on_as.is_some();
        for import in file.source.imports.iter().filter(passed_on) {
            let Some(mut target) = self.absolute(file, import) else { continue };
            if import.path.last().is_some_and(|last| last == "*") {
                target.pop();
                let Some(child) = self.files.get(&target) else { continue };
                if child.source.defines.contains(&name) {
                    return Some(child);
                }
            } else if import.passed_on_as.as_ref() == Some(&name) {
                return self.defined_in(&target, passes - 1);
            }
        }
        Some(file)
    }

    /// Which files each file depends on.
    fn edges(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for file in self.files.values() {
            for import in &file.source.imports {
                let Some(mut path) = self.absolute(file, import) else { continue };
                if path.last().is_some_and(|last| last == "*") {
                    path.pop();
                }
                let Some(target) = self.defined_in(&path, MAX_PASSES) else { continue };
                let passes_on_its_own = import.passed_on_as.is_some() && target.module.starts_with(&file.module);
                if target.name != file.name && !passes_on_its_own {
                    edges.entry(&file.name).or_default().insert(&target.name);
                }
            }
        }
        edges
    }

    /// Imports upward by `order`, modules that have no place in it, and cycles between files.
    pub fn problems(&self, order: &[&str]) -> Vec<String> {
        let place = |name: &str| {
            let module = module_of(name);
            let top = module.first().cloned().unwrap_or_default();
            (order.iter().position(|known| *known == top), top)
        };
        // The crate's front and the program's are above all of them.
        let outside = ["src/lib.rs", "src/main.rs"];
        let mut problems: Vec<String> = self
            .files
            .values()
            .filter(|file| !outside.contains(&file.name.as_str()) && place(&file.name).0.is_none())
            .map(|file| format!("{}: module {} has no place in the order of modules", file.name, place(&file.name).1))
            .collect();
        let edges = self.edges();
        for (from, targets) in edges.iter().filter(|(from, _)| !outside.contains(from)) {
            for to in targets.iter().filter(|to| !outside.contains(to)) {
                let ((from_place, from_module), (to_place, to_module)) = (place(from), place(to));
                if from_module != to_module && to_place < from_place {
                    problems.push(format!("{from} imports upward from {to_module} ({to})"));
                }
            }
        }
        problems.extend(cycles(&edges).iter().map(|cycle| format!("a cycle of imports: {}", cycle.join(" -> "))));
        problems
    }

    /// Where `crate_name` is named outside of the module that may, but for `exceptions`.
    pub fn foreign(&self, crate_name: &str, module: &str, exceptions: &[&str]) -> Vec<String> {
        let mut problems = Vec::new();
        for file in self.files.values().filter(|file| file.module.first().is_none_or(|top| top != module)) {
            for import in file.source.imports.iter().filter(|import| import.path[0] == crate_name) {
                let path = import.path.join("::");
                if !exceptions.contains(&path.as_str()) {
                    problems.push(format!("{} names {path}: only {module} may", file.name));
                }
            }
        }
        problems
    }
}

/// One cycle for each group of files that import each other.
fn cycles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut in_a_cycle: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys() {
        if in_a_cycle.contains(start) {
            continue;
        }
        if let Some(cycle) = way_back(edges, start) {
            in_a_cycle.extend(cycle.iter().copied());
            found.push(cycle);
        }
    }
    found
}

/// The shortest way from a file to itself.
fn way_back<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in edges.get(file).into_iter().flatten() {
            if *next == start {
                let mut way = vec![start, file];
                let mut at = file;
                while at != start {
                    at = came_from[at];
                    way.push(at);
                }
                if file == start {
                    way.pop();
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

//! The house keeps its order: no import upward between modules, no cycle between files, no file too long, and
//! libp2p nowhere but in the mesh.
//!
//! [`source`] reads what a file imports, [`house`] builds the graph of files and finds what breaks the rules.

mod house;
mod source;

use std::path::{Path, PathBuf};

use house::House;

/// The modules from top to bottom: each imports only from those after it.
const ORDER: [&str; 16] = [
    "cli",
    "node",
    "config",
    "api",
    "cache",
    "dispatch",
    "router",
    "provider",
    "mesh",
    "catalog",
    "embedding",
    "wire",
    "dialect",
    "capability",
    "telemetry",
    "waiting",
];
/// Longer files have more than one idea in them.
const MAX_LINES: usize = 800;
/// From here on a file should be thought about.
const WARN_LINES: usize = 600;

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    rust_files(&root.join(directory), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
            let name = path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
            (name, text)
        })
        .collect()
}

fn nothing_wrong(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n  {}", problems.len(), problems.join("\n  "));
}

#[test]
fn no_module_imports_upward_and_no_files_form_a_cycle() {
    let house = House::of(&files("src"));
    nothing_wrong(&house.problems(&ORDER));
}

#[test]
fn only_the_mesh_imports_libp2p() {
    let house = House::of(&files("src"));
    nothing_wrong(&house.foreign("libp2p", "mesh", &["libp2p::PeerId"]));
}

#[test]
fn no_file_is_too_long() {
    let mut problems = Vec::new();
    for directory in ["src", "tests", "benches", "examples"] {
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).is_dir() {
            continue;
        }
        for (name, text) in files(directory) {
            let lines = text.lines().count();
            if lines > MAX_LINES {
                problems.push(format!("{name} has {lines} lines, more than {MAX_LINES}: split it by idea"));
            } else if lines > WARN_LINES {
                eprintln!("{name} has {lines} lines, more than {WARN_LINES}: think about splitting it");
            }
        }
    }
    nothing_wrong(&problems);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let files = files("src");
    let house = House::of(&files);
    let problems: Vec<String> = house
        .names()
        .filter(|name| files.iter().any(|(file, text)| file == name && !text.starts_with("//!")))
        .map(|name| format!("{name} does not open with a //! comment"))
        .collect();
    nothing_wrong(&problems);
}

/// The checker itself: each rule is shown to fail on a house that breaks it.
mod planted {
    use super::house::House;

    const ORDER: [&str; 3] = ["api", "mesh", "capability"];

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, String)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        House::of(&files).problems(&ORDER)
    }

    #[track_caller]
    fn one_problem(files: &[(&str, &str)], words: &[&str]) {
        let found = problems(files);
        assert_eq!(found.len(), 1, "{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word:?} is missing in {found:?}");
        }
    }

    #[test]
    fn a_clean_house_has_none() {
        let clean = [
            ("src/lib.rs", "pub mod api; pub mod mesh; pub mod capability;"),
            ("src/api/mod.rs", "mod chat; pub use chat::Chat;"),
            ("src/api/chat.rs", "use crate::mesh::Handle; use crate::{capability::{Call, Frame}, mesh::view};"),
            ("src/mesh/mod.rs", "mod driver; mod handle; pub use handle::Handle;"),
            ("src/mesh/handle.rs", "use crate::capability::Call;"),
            ("src/mesh/driver.rs", "use super::Handle; // re-exported from handle.rs: no cycle with mod.rs"),
            ("src/capability/mod.rs", "pub struct Call;"),
        ];
        assert_eq!(problems(&clean), Vec::<String>::new());
    }

    #[test]
    fn an_import_upward_is_found() {
        one_problem(
            &[("src/mesh/mod.rs", "use crate::api::Chat;"), ("src/api/mod.rs", "pub struct Chat;")],
            &["src/mesh/mod.rs", "api"],
        );
    }

    #[test]
    fn an_inline_path_upward_is_found_also_in_a_nested_group_and_a_macro() {
        for text in [
            "fn f() { crate::api::chat(); }",
            "use crate::{capability::Call, api::{self, Chat}};",
            "fn f() { info!(\"{}\", crate::api::NAME); }",
            "use super::api::Chat;",
            "pub use crate::api::Chat as Other;",
        ] {
            let found = problems(&[("src/mesh/mod.rs", text), ("src/api/mod.rs", ""), ("src/capability/mod.rs", "")]);
            assert!(found.iter().any(|problem| problem.contains("upward")), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_cycle_between_files_is_found_and_shown() {
        one_problem(
            &[
                ("src/mesh/mod.rs", "mod a; mod b; mod c;"),
                ("src/mesh/a.rs", "use super::b::B; pub struct A;"),
                ("src/mesh/b.rs", "use crate::mesh::c::C; pub struct B;"),
                ("src/mesh/c.rs", "fn f() { super::a::A; } pub struct C;"),
            ],
            &["src/mesh/a.rs", "src/mesh/b.rs", "src/mesh/c.rs"],
        );
    }

    #[test]
    fn a_cycle_through_the_front_is_found() {
        one_problem(
            &[
                ("src/mesh/mod.rs", "mod driver; use driver::Driver; pub struct Settings; fn f(_: Driver) {}"),
                ("src/mesh/driver.rs", "use super::Settings; pub struct Driver;"),
            ],
            &["src/mesh/mod.rs", "src/mesh/driver.rs"],
        );
    }

    #[test]
    fn tests_comments_and_strings_do_not_count() {
        let text = r##"
            // use crate::api::Chat;
            /* crate::api::Chat /* nested */ crate::api::Chat */
            //! [`crate::api::Chat`]
            const A: &str = "crate::api::Chat";
            const B: &str = r#"use crate::api::"Chat""#;
            const C: char = '"'; // "
            fn f<'a>(x: &'a str) -> &'a str { x }
            #[cfg(test)]
            mod tests { use crate::api::Chat; fn f() { crate::api::g(); } }
            #[cfg(test)]
            use crate::api::Other;
        "##;
        assert_eq!(problems(&[("src/mesh/mod.rs", text), ("src/api/mod.rs", "")]), Vec::<String>::new());
        let after = "#[cfg(test)] mod tests { use x; } use crate::api::Chat;";
        assert_eq!(problems(&[("src/mesh/mod.rs", after), ("src/api/mod.rs", "")]).len(), 1);
        // A whole file of tests, declared by its parent.
        let parent = ("src/mesh/mod.rs", "#[cfg(test)] mod tests;");
        assert!(problems(&[parent, ("src/mesh/tests.rs", "use crate::api::Chat;"), ("src/api/mod.rs", "")]).is_empty());
    }

    #[test]
    fn a_module_without_a_place_is_found() {
        one_problem(&[("src/helpers/mod.rs", "")], &["helpers"]);
    }

    #[test]
    fn libp2p_outside_of_the_mesh_is_found() {
        let files = [
            ("src/api/mod.rs", "use libp2p::Multiaddr;"),
            ("src/mesh/mod.rs", "use libp2p::Swarm;"),
            ("src/capability/mod.rs", "pub use libp2p::PeerId;"),
            ("src/capability/call.rs", "fn f(_: libp2p::swarm::ConnectionId) {}"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let found = House::of(&files).foreign("libp2p", "mesh", &["libp2p::PeerId"]);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

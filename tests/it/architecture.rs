//! Who may use whom: the arrows of docs/ARCHITECTURE.md, read off the `use` lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Used by all, use none but each other.
const LEAVES: [&str; 6] = ["oci", "config", "metrics", "clock", "causes", "hop"];

/// Beyond the leaves: which module may use which.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["admin", "app", "cache", "listen", "policy", "pull", "telemetry", "transfer", "upstream"]),
    ("app", &["admin", "cache", "fill", "listen", "policy", "pull", "server", "transfer", "upstream"]),
    ("server", &["listen", "policy", "pull", "telemetry"]),
    ("admin", &["cache", "listen", "pull", "transfer", "upstream"]),
    ("transfer", &["cache", "pull"]),
    ("pull", &["cache", "fill", "policy", "upstream"]),
    ("fill", &["cache", "upstream"]),
    ("cache", &[]),
    ("upstream", &[]),
    ("listen", &[]),
    ("policy", &[]),
    ("telemetry", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The first path segments behind every `crate::` that is not in a comment.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = code.flat_map(|line| line.split("crate::").skip(1));
    let word = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    after.map(word).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_arrow_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        // A test may put together what the program keeps apart.
        if ["lib", "main"].contains(&module) || file.ends_with("tests.rs") {
            continue;
        }
        let leaf = LEAVES.contains(&module);
        let allowed = ARROWS.iter().find(|(from, _)| *from == module).map_or(&[][..], |(_, to)| to);
        assert!(leaf || ARROWS.iter().any(|(from, _)| *from == module), "{module} is in no table");
        for target in used(&fs::read_to_string(&file).unwrap()) {
            if target != module && !LEAVES.contains(&target.as_str()) && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{} uses {target}", inside.display()));
            }
            seen.insert(target);
        }
    }
    assert!(seen.len() > 8, "the reader of use lines finds nothing: {seen:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

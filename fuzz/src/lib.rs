//! What the fuzz targets do with their bytes.
//!
//! `tests/it/fuzz.rs` includes this file, too, and runs every body over the corpora and over random input with a stable
//! compiler. A body panics where a promise is broken; that nothing panics elsewhere is the first promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, missing_docs, reason = "they fail by panicking")]

#[path = "bundles.rs"]
mod bundles;
#[path = "parsers.rs"]
mod parsers;
#[path = "traffic.rs"]
mod traffic;

pub use bundles::import;
pub use parsers::{challenge, config, manifest, range, route};
pub use traffic::{answer, request};

/// What is done with the bytes that a fuzzer makes up.
pub type Body = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Body); 8] = [
    ("route", route),
    ("range", range),
    ("challenge", challenge),
    ("manifest", manifest),
    ("config", config),
    ("import", import),
    ("request", request),
    ("answer", answer),
];

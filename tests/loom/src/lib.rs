//! The modules of the mirror that loom checks in every interleaving, compiled with loom in the place of `std::sync`.

#![cfg(loom)]

#[path = "../../../src/fill/extents.rs"]
pub mod extents;
#[path = "../../../src/fill/progress.rs"]
pub mod progress;

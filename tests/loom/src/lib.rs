//! The modules of the mirror that loom checks in every interleaving, compiled with loom in the place of `std::sync`.

#![cfg(loom)]

// The folder is named, not the files: a file named by `path` would look for its own modules beside itself.
#[path = "../../../src/fill"]
pub mod fill {
    pub mod extents;
    pub mod progress;
}

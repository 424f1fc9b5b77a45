//! The registry's vocabulary: pure values and grammars, no I/O.
//!
//! Everything a client or an upstream says is parsed here into a value that is valid by its type. Used by every other
//! module; uses none of them.

pub mod digest;
pub mod name;

pub use digest::{Algorithm, Digest, Hasher};
pub use name::{Reference, Repository, Scope, Tag, UpstreamName};

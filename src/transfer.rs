//! Carrying a site: into the cache from upstreams (`prefetch`), out of it into files (`export`), and from files into
//! the cache of a mirror that never sees an upstream (`import`).
//!
//! A library over `cache` and `pull`; the command line uses it on a stopped mirror's folder, the admin interface inside
//! a running one. A bundle is an ordinary OCI image layout in a tar: other tools read it, and theirs are read here.
//! Content becomes visible only whole: every byte is hashed before its file gets a name (I1), a manifest gets its name
//! after everything it needs, and a tag after its manifest.

pub mod bundle;
pub mod document;
pub mod export;
pub mod import;
pub mod input;
pub mod output;
pub mod prefetch;
pub mod sign;
pub mod sources;
pub mod tar;

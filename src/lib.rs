//! Roadstead, a pull-through caching mirror for container images.

pub mod config;
pub mod metrics;
pub mod oci;
pub mod upstream;

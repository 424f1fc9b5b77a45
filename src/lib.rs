//! Roadstead, a pull-through caching mirror for container images.

pub mod app;
pub mod cli;
pub mod config;
pub mod metrics;
pub mod oci;
pub mod cache;
pub mod clock;
pub mod telemetry;

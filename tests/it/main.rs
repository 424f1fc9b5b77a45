//! The integration tests, one binary: each subject is a module, all stand on [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

mod kit;
mod support;

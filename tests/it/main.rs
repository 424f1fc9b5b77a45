//! The integration tests, one binary: each subject is a module, all stand on [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

#[cfg(any())]
mod coalesce;
#[cfg(any())]
mod faults;
mod kit;
#[cfg(any())]
mod protocol;
#[cfg(any())]
mod range;
#[cfg(any())]
mod restart;
mod support;
#[cfg(any())]
mod tags;

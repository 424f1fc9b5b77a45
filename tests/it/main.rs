//! The integration tests, one binary: each subject is a module, all stand on [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

mod architecture;
mod care;
mod cli;
mod coalesce;
mod faults;
mod kit;
mod outages;
mod private;
mod protocol;
mod range;
mod restart;
mod support;
mod tags;

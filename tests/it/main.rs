//! The integration tests, one binary: each subject is a module, all stand on [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]

mod admin;
mod architecture;
mod care;
mod cli;
mod coalesce;
mod faults;
mod kit;
mod outages;
mod protocol;
mod range;
mod refusals;
mod restart;
mod secrets;
mod support;
mod tags;

//! The integration tests, one binary: each subject is a module, all stand on [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test that is how it fails")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what was counted, for whoever asks with --nocapture")]

mod access;
mod admin;
mod architecture;
mod care;
mod cli;
mod coalesce;
mod faults;
mod fuzz;
mod kit;
mod limits;
mod outages;
mod parallel;
mod private;
mod protocol;
mod range;
mod refusals;
mod reload;
mod restart;
mod secrets;
mod store;
mod support;
mod tags;
mod tls;

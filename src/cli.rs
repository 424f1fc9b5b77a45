//! The command line: one file a command, which holds its arguments, their help, and what it does.
//!
//! Called by `main` alone. Commands print to standard output what they were asked for, and to standard error what
//! went wrong; they return an exit code, and never exit by themselves.

mod check;
mod clients;
mod endpoint;
pub mod exit;
mod export;
mod files;
mod import;
mod notify;
mod papers;
mod prefetch;
mod progress;
mod remote;
mod serve;
mod site;
mod store;
mod wanted;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, Finding};

const LONG_ABOUT: &str = "\
A pull-through caching mirror for container images.

Docker, containerd, CRI-O, podman and buildkit pull through it. The first pull of anything goes to \
the registry once. The mirror serves every later pull itself, also while the registry cannot be reached.";

const AFTER_HELP: &str = "\
Getting started, without any configuration:
  roadstead serve                   listens on 127.0.0.1:5000, caches in ./roadstead-cache
  roadstead clients docker          what to write into /etc/docker/daemon.json
  docker pull alpine                goes through the mirror once Docker is restarted

Exit codes:
  0   done, or stopped by SIGTERM or SIGINT
  1   failed; `check`: the configuration is wrong
  64  the command line is wrong
  78  the configuration is wrong
  128 + N  ended at once by a second signal N";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "roadstead", version, about = "A pull-through caching mirror for container images", long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Clients(clients::Clients),
    #[command(name = "ls")]
    List(store::List),
    Stats(store::Stats),
    Explain(store::Explain),
    Purge(store::Purge),
    Pin(store::Pin),
    Unpin(store::Unpin),
    Gc(store::Gc),
    Verify(store::Verify),
    Prefetch(prefetch::Prefetch),
    Export(export::Export),
    Import(import::Import),
    Wanted(wanted::Wanted),
}

impl Cli {
    /// Reads the process's arguments. The error is also the answer to `--help` and `--version`: see [`exit::command_line`].
    pub fn from_command_line() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// Does what was asked. `serve` returns when the mirror has stopped.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Clients(clients) => clients.run(),
            Command::List(list) => list.run(),
            Command::Stats(stats) => stats.run(),
            Command::Explain(explain) => explain.run(),
            Command::Purge(purge) => purge.run(),
            Command::Pin(pin) => pin.run(),
            Command::Unpin(unpin) => unpin.run(),
            Command::Gc(gc) => gc.run(),
            Command::Verify(verify) => verify.run(),
            Command::Prefetch(prefetch) => prefetch.run(),
            Command::Export(export) => export.run(),
            Command::Import(import) => import.run(),
            Command::Wanted(wanted) => wanted.run(),
        }
    }
}

/// Which configuration.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, a TOML file. Without it every key has its default; config.example.toml shows all of them
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref())
    }

    /// As [`Self::load`], with all that `examine` finds wrong besides.
    fn load_examined(&self, examine: &mut dyn FnMut(&Config) -> Vec<Finding>) -> Result<Config, ConfigError> {
        Config::load_examined(self.config.as_deref(), examine)
    }
}

/// Prints what a command was asked for. That nobody reads it any more (`| head`) is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Says something besides. That nobody reads it is no failure, and ends nothing.
fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

//! `roadstead serve`: runs the mirror from its start to its stop.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigFile, clients, files, notify, print};
use crate::app::{Mirror, Running};
use crate::config::{Config, ConfigError, Listen};
use crate::listen::{Passed, Place};
use crate::telemetry;

/// Run the mirror
///
/// Needs no configuration. Without one it listens on 127.0.0.1:5000 (admin on 127.0.0.1:5001), caches up to 50 GiB in
/// ./roadstead-cache, and mirrors docker.io, ghcr.io, quay.io, registry.k8s.io, gcr.io, mcr.microsoft.com,
/// public.ecr.aws and nvcr.io. Prints where it listens and how to point Docker at it; its log goes to standard error.
///
/// SIGTERM or SIGINT stops it gracefully: it takes no new connections, and running answers finish within
/// server.shutdown_timeout. The next start resumes unfinished downloads. A second signal ends it at once. SIGHUP reads
/// the configuration again: access, upstreams, freshness, server.tls and admin.tls change at once. Other changes wait
/// for a restart; the log names them.
#[derive(Debug, Args)]
#[command(after_help = "\
Environment:
  RUST_LOG                             overrides log.level
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY    set the way to the upstreams
Examples:
  roadstead serve
  roadstead serve --config /etc/roadstead/config.toml
  roadstead serve --listen 0.0.0.0:5000 --open --cache-dir /var/lib/roadstead")]
pub(super) struct Serve {
    #[command(flatten)]
    file: ConfigFile,

    /// Serve clients here: IP:PORT, plain:IP:PORT, unix:PATH, systemd or systemd:NAME. Can be given more than once.
    /// Overrides server.listen
    #[arg(short, long, value_name = "ADDRESS", value_parser = address)]
    listen: Vec<Listen>,

    /// Serve health, metrics and status here: IP:PORT, unix:PATH, systemd:NAME, or "off". Overrides admin.listen
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin_listen: Option<AdminAddress>,

    /// Cache in this folder. Overrides cache.dir
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Let everybody who reaches the mirror pull everything: sets access.open. Needed to serve other machines without
    /// rules
    #[arg(long)]
    open: bool,
}

/// `None` is "off".
#[derive(Clone, Debug)]
struct AdminAddress(Option<Listen>);

pub(super) fn address(text: &str) -> Result<Listen, String> {
    text.parse()
        .map_err(|reason: String| if reason.is_empty() { "expected IP:PORT, unix:PATH or systemd".to_owned() } else { reason })
}

fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" { Ok(AdminAddress(None)) } else { address(text).map(|listen| AdminAddress(Some(listen))) }
}

impl Serve {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config()?;
        // Before there are threads: the environment is changed.
        let passed = Passed::from_env(config.server.listen.iter().chain(&config.admin.listen));
        let _log = telemetry::install(&config.log)?;
        doubt(&config);
        files::raise(&config.server);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the threads of the mirror")?;
        let ended = runtime.block_on(serve(&self, config, passed));
        // What still runs was given its time; a blocked thread must not hold up the end.
        runtime.shutdown_background();
        ended
    }

    /// The file's configuration, and the flags over it.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = self.file.load()?;
        if self.open && !config.access.rules.is_empty() {
            return Err(ConfigError::OpenWithRules);
        }
        config.access.open |= self.open;
        if !self.listen.is_empty() {
            config.server.listen.clone_from(&self.listen);
        }
        if let Some(AdminAddress(address)) = &self.admin_listen {
            config.admin.listen.clone_from(address);
        }
        if let Some(dir) = &self.cache_dir {
            config.cache.dir.clone_from(dir);
        }
        // A flag may have opened what the file keeps closed.
        config.admin.exposed().map_or(Ok(config), |problem| Err(ConfigError::Flag { flag: "--admin-listen", problem }))
    }
}

/// Says what the configuration has that seldom is meant.
fn doubt(config: &Config) {
    config.doubts().iter().for_each(|doubt| tracing::warn!("{doubt}"));
}

async fn serve(options: &Serve, config: Config, passed: Passed) -> anyhow::Result<ExitCode> {
    // Before anything else, so that a signal during a long start is not lost.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let pulls_from_hub = clients::docker_mirror_path(&config);

    let running = tokio::select! {
        started = Mirror::start_with(config, passed) => started?,
        stop = signals.stop() => return Ok(stop.at_once()),
    };
    if let Err(error) = print(&announcement(&running, pulls_from_hub.as_deref())) {
        // What it says is of use to somebody who looks on. The mirror is of use without.
        tracing::warn!(%error, "cannot print where the mirror listens");
    }
    notify::ready();

    let stop = loop {
        match signals.next().await {
            Request::Stop(stop) => break stop,
            // A file that does not answer holds up no stop.
            Request::Reload => tokio::select! {
                () = reload(options, &running) => {}
                stop = signals.stop() => break stop,
            },
        }
    };
    notify::stopping();
    tracing::info!(signal = stop.name(), "stopping; a second signal ends at once");
    match running.shutdown_unless(signals.stop()).await {
        None => Ok(ExitCode::SUCCESS),
        Some(again) => {
            tracing::warn!(signal = again.name(), "ended at once");
            Ok(again.at_once())
        }
    }
}

/// Reads the configuration again. Whatever is wrong with it, the mirror goes on as before.
async fn reload(options: &Serve, running: &Running) {
    tracing::info!("SIGHUP: the configuration is read again");
    notify::reloading();
    take_again(options, running).await;
    notify::ready();
}

async fn take_again(options: &Serve, running: &Running) {
    // Files are read (I11).
    let read = tokio::task::block_in_place(|| options.config());
    let config = match read {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, "the new configuration is wrong; the old one holds"),
    };
    doubt(&config);
    match running.reload(config).await {
        Ok(()) => tracing::info!("the configuration was read again"),
        Err(error) => tracing::error!(%error, "the new configuration cannot be used; the old one holds"),
    }
}

/// Where the mirror listens, and how to use it. `docker` is the path under which docker.io is, if it is mirrored.
fn announcement(running: &Running, docker: Option<&str>) -> String {
    let mut text = String::new();
    for served in running.places() {
        let _ = writeln!(text, "roadstead listens on {}", url(&served.place, served.tls));
    }
    if let Some(served) = running.admin() {
        let _ = writeln!(text, "health, metrics and status on {}", url(&served.place, served.tls));
    }
    let first = running.places().iter().find_map(|served| Some((served.place.address()?, served.tls)));
    if let (Some((address, tls)), Some(path)) = (first, docker) {
        let url = format!("{}{path}", url(&Place::Tcp(reachable(address)), tls));
        let _ = writeln!(text, "to point Docker at it, in /etc/docker/daemon.json: {{ \"registry-mirrors\": [{url:?}] }}");
    }
    text.push_str("for containerd, podman, CRI-O and buildkit: roadstead clients --help\n");
    text
}

fn url(place: &Place, tls: bool) -> String {
    match place {
        Place::Tcp(address) if tls => format!("https://{address}"),
        Place::Tcp(address) => format!("http://{address}"),
        Place::Unix(_) => place.to_string(),
    }
}

/// An address that a client on this machine can use for the one that is bound.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug)]
enum Request {
    Stop(Stop),
    Reload,
}

/// Which signal asked for the end.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Terminate,
    Interrupt,
}

impl Stop {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// The exit code of a process that a signal ended, as shells have it.
    fn at_once(self) -> ExitCode {
        let kind = match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
        };
        u8::try_from(128 + kind.as_raw_value()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal. Cancel-safe: a signal that was not returned is returned next time.
    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop(Stop::Terminate),
            _ = self.interrupt.recv() => Request::Stop(Stop::Interrupt),
            _ = self.hangup.recv() => Request::Reload,
        }
    }

    /// Waits for a signal that asks for the end. A SIGHUP that comes meanwhile is kept for [`Self::next`]: what a start or
    /// a reload has read may be older than it. Cancel-safe.
    async fn stop(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_use_the_unspecified_address() {
        for (bound, used) in [
            ("0.0.0.0:5000", "127.0.0.1:5000"),
            ("[::]:5000", "[::1]:5000"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), used);
        }
    }

    #[test]
    fn an_end_at_once_has_the_code_of_its_signal() {
        assert_eq!(Stop::Terminate.at_once(), ExitCode::from(143));
        assert_eq!(Stop::Interrupt.at_once(), ExitCode::from(130));
    }
}

//! `roadstead check`: whether a configuration is right, and what it amounts to.

mod access;
mod online;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{ConfigFile, print, tell};
use crate::config::{Abandoned, Amount, Config, Credentials, Finding, Globs, Tls, TlsVersion, Upstream};
use crate::listen::tls::{self, Interface};
use crate::oci::ImageRef;
use crate::transfer::sign::Verifier;
use crate::upstream::certificate_problems;

/// Check a configuration, and show what it amounts to
///
/// Reads the file and whatever it names: password files, certificates, keys, environment variables. Contacts nobody
/// without --online. Prints "ok" and a summary, or every error with its file, line and column: first all values that
/// cannot be read, and once they can, all that do not go together or name something that is no good.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all is right; 1 the configuration is wrong, (--online) a step failed, or (--as) an image may not be pulled; 64 the command line is wrong."
)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,

    /// Test each upstream as well: name, TLS, /v2/, credentials, token
    ///
    /// With IMAGEs, such as "ghcr.io/owner/app:1" or Docker Hub's "alpine", also ask for each of them by HEAD. Nothing
    /// is pulled, nothing counts against a quota of pulls, and no secret is printed.
    #[arg(long, num_args = 0.., value_name = "IMAGE")]
    online: Option<Vec<ImageRef>>,

    /// Say whether WHO may pull IMAGEs, and which rule says so: user:NAME, cert:NAME, address:IP or anyone
    #[arg(long = "as", value_name = "WHO", requires = "images", conflicts_with = "online")]
    caller: Option<String>,

    /// With --as: the images that WHO would pull, such as "ghcr.io/owner/app:1"
    #[arg(value_name = "IMAGE", requires = "caller")]
    images: Vec<ImageRef>,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.file.load_examined(&mut findings) {
            Ok(config) if self.caller.is_some() => {
                access::explain(&config, self.caller.as_deref().unwrap_or_default(), &self.images)
            }
            Ok(config) => {
                doubts(&config).iter().for_each(|doubt| tell(format_args!("warning: {doubt}")));
                print(&format!("ok\n\n{}", summary(&config)))?;
                match self.online {
                    Some(images) => online::run(&config, images),
                    None => Ok(ExitCode::SUCCESS),
                }
            }
            Err(error) => {
                tell(error);
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// The tables of certificates that the mirror would show.
fn tables(config: &Config) -> impl Iterator<Item = (&Tls, Interface)> {
    let both = [(&config.server.tls, Interface::Server), (&config.admin.tls, Interface::Admin)];
    both.into_iter().filter_map(|(tls, interface)| Some((tls.as_ref()?, interface)))
}

/// For what the mirror would not start, or would take no bundle: whom it would let in, the certificates and keys that it would
/// show, and the key that bundles are signed with. Reads files.
fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = config.exposures();
    for (tls, interface) in tables(config) {
        findings.extend(tls::problems(tls, interface).iter().map(|error| error.finding(interface)));
    }
    for (name, upstream) in &config.upstreams {
        findings.extend(certificate_problems(upstream).iter().map(|error| error.finding(name)));
    }
    if let Some(Err(error)) = config.import.verify_key.as_deref().map(Verifier::from_file) {
        findings.push(Finding::new(&["import", "verify_key"], error));
    }
    findings
}

/// With what the mirror starts, and somebody is not content.
fn doubts(config: &Config) -> Vec<String> {
    let refused = tables(config).flat_map(|(tls, interface)| tls::check(tls, interface).unwrap_or_default());
    refused.chain(config.doubts()).collect()
}

/// One fact a line; no secret among them.
fn summary(config: &Config) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("listen", config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    if let Some(tls) = &config.server.tls {
        row("tls", spoken(tls));
    }
    row("admin", config.admin.listen.as_ref().map_or("off".to_owned(), ToString::to_string));
    if let Some(tls) = &config.admin.tls {
        row("  tls", spoken(tls));
    }
    let (all, one) = (config.server.max_connections, config.server.max_connections_per_client);
    row("connections", format!("at most {all}, {} of one client", one.min(all)));
    access::rows(&config.access).into_iter().for_each(|(name, value)| row(&name, value));
    row("cache", config.cache.dir.display().to_string());
    row("  on disk", format!("at most {}, {} of the file system stay free", config.cache.max_size, config.cache.min_free));
    row("  in memory", format!("at most {}", Amount::Bytes(config.cache.memory)));
    if config.cache.offline {
        row("  offline", "no upstream is contacted".to_owned());
    }
    if config.fill.abandoned == Abandoned::Abort {
        let after = humantime::format_duration(config.fill.abandon_after);
        row("fills", format!("aborted when nobody has read for {after}"));
    }
    row("upstreams", format!("{}, by default {}", config.upstreams.len(), config.server.default_upstream));
    for (name, upstream) in &config.upstreams {
        row(&format!("  {name}"), facts(upstream));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {value}");
        text
    })
}

fn spoken(tls: &Tls) -> String {
    let certificates = tls.certificates.iter().map(|pair| pair.cert.display().to_string());
    let mut facts = vec![certificates.collect::<Vec<_>>().join(", ")];
    if let Some(clients) = &tls.clients {
        let need = if clients.required { "need" } else { "may have" };
        facts.push(format!("clients {need} a certificate of {}", clients.ca.display()));
    }
    if tls.min_version == TlsVersion::V1_3 {
        facts.push("1.3 alone".to_owned());
    }
    facts.join(", ")
}

fn facts(upstream: &Upstream) -> String {
    let urls: Vec<_> = upstream.urls.iter().map(url::Url::as_str).collect();
    let mut facts = vec![urls.join(" or ")];
    facts.push(signs_in(&upstream.credentials));
    facts.extend(upstream.client.as_ref().map(|pair| format!("shows the certificate {}", pair.cert.display())));
    facts.push(format!("{} downloads at once", upstream.max_connections));
    facts.push(match upstream.freshness.fresh_for {
        Duration::MAX => "tags fresh for ever".to_owned(),
        time => format!("tags fresh for {}", humantime::format_duration(time)),
    });
    let patterns = |globs: &Globs| globs.patterns().join(" ");
    if upstream.repositories.allow.patterns() != ["**"] {
        facts.push(format!("allow {}", patterns(&upstream.repositories.allow)));
    }
    if !upstream.repositories.deny.patterns().is_empty() {
        facts.push(format!("deny {}", patterns(&upstream.repositories.deny)));
    }
    facts.join(", ")
}

fn signs_in(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Anonymous => "anonymous".to_owned(),
        Credentials::Password { .. } => "user and password".to_owned(),
        Credentials::DockerConfig(file) => format!("signs in by {}", file.display()),
        Credentials::Helper(name) => format!("signs in by docker-credential-{name}"),
        Credentials::Ecr => "signs in by AWS".to_owned(),
        Credentials::Gcp { key_file: Some(file) } => format!("signs in to Google by {}", file.display()),
        Credentials::Gcp { key_file: None } => "signs in by Google".to_owned(),
        Credentials::Acr => "signs in by Azure".to_owned(),
        Credentials::ByRepository(list) => {
            let entry = |entry: &crate::config::ScopedCredentials| {
                let prefix = if entry.prefix.is_empty() { "else" } else { &entry.prefix };
                format!("{prefix}: {}", signs_in(&entry.credentials))
            };
            list.iter().map(entry).collect::<Vec<_>>().join("; ")
        }
    }
}

//! `roadstead purge`, `pin`, `unpin`, `gc`: what becomes of what is in a cache.

use std::fmt::Write as _;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::REFERENCE;
use super::table::{ago, list, row, show, size, table, text};
use crate::cli::remote::Remote;
use crate::oci::{Platform, Platforms};

/// Remove images, with everything that no other image needs
///
/// Pinned images stay, and so do layers that other images need. Clients that are reading removed content can read it to
/// its end.
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(in crate::cli) struct Purge {
    /// What to remove
    #[arg(value_name = "REF")]
    reference: String,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Keep an image, with everything that it needs, whatever happens to the rest
///
/// A pinned tag is followed: the mirror keeps what the tag stands for. Pinning downloads nothing.
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(in crate::cli) struct Pin {
    /// What to keep. Without it, list the pins
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// Only these platforms of a multi-platform image, such as linux/amd64
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<Platform>,
    #[command(flatten)]
    remote: Remote,
}

/// Remove pins
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(in crate::cli) struct Unpin {
    /// Remove the pins of these
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    remote: Remote,
}

/// Remove unfinished downloads, damaged files and what a quota's unused_for has expired; make room with --free
#[derive(Debug, Args)]
pub(in crate::cli) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Evict until so many more bytes fit, such as 10GiB
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    free: ByteSize,
    #[command(flatten)]
    remote: Remote,
}

impl Purge {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let dry_run = if self.dry_run { "true" } else { "" };
        let document = self.remote.ask(Method::POST, "purge", &[("ref", &self.reference), ("dry_run", dry_run)])?;
        show(&self.remote, &document, |document| {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let mut text = format!("{verb} {} objects, {}\n", document["objects"], size(&document["bytes"]));
            let names = |name: &str| list(document, name).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
            for image in names("images") {
                let _ = writeln!(text, "  {image}");
            }
            for image in names("pinned") {
                let _ = writeln!(text, "  {image}: pinned, left alone");
            }
            match document["shared"].as_u64().unwrap_or_default() {
                0 => {}
                1 => text.push_str("1 object stays because other images need it\n"),
                shared => {
                    let _ = writeln!(text, "{shared} objects stay because other images need them");
                }
            }
            text
        })
    }
}

fn pins(document: &Value, name: &str, none: &str) -> String {
    if list(document, name).is_empty() {
        return format!("{none}\n");
    }
    let mut rows = vec![row(["IMAGE", "PLATFORMS", "SINCE"])];
    rows.extend(list(document, name).iter().map(|pin| {
        let platforms: Vec<&str> = list(pin, "platforms").iter().filter_map(Value::as_str).collect();
        let platforms = if platforms.is_empty() { "all".to_owned() } else { platforms.join(" ") };
        row([text(&pin["image"]), &platforms, &ago(&pin["since"])])
    }));
    table(&rows)
}

impl Pin {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let document = match &self.reference {
            None => self.remote.ask(Method::GET, "pins", &[])?,
            Some(reference) => {
                let platforms: Platforms = self.platform.iter().cloned().collect();
                self.remote.ask(Method::POST, "pin", &[("ref", reference), ("platform", &platforms.to_string())])?
            }
        };
        show(&self.remote, &document, |document| pins(document, "pins", "nothing is pinned"))
    }
}

impl Unpin {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let document = self.remote.ask(Method::POST, "unpin", &[("ref", &self.reference)])?;
        show(&self.remote, &document, |document| pins(document, "unpinned", "no pin matches"))
    }
}

impl Gc {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let (method, free) = (if self.dry_run { Method::GET } else { Method::POST }, self.free.as_u64().to_string());
        let document = self.remote.ask(method, "gc", &[("free", &free)])?;
        show(&self.remote, &document, |document| {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let more = match document["evicted_more_bytes"].as_u64() {
                Some(0) | None => String::new(),
                Some(_) => format!(", and {} more", size(&document["evicted_more_bytes"])),
            };
            let evicted = format!("{}{more}", list(document, "evicted").len());
            table(&[
                row([verb, &size(&document["bytes"])]),
                row(["  unfinished downloads", &document["leftovers"].to_string()]),
                row(["  damaged files", &document["quarantined"].to_string()]),
                row(["  unused for too long", &document["expired"].to_string()]),
                row(["  evicted", &evicted]),
                row(["  records of what is gone", &document["records"].to_string()]),
            ])
        })
    }
}

//! `roadstead ls`, `stats`, `explain`, `purge`, `pin`, `unpin`, `gc`, `verify`: what is in a cache, and what becomes of it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::print;
use super::remote::Remote;
use crate::cache::Cache;
use crate::cache::verify::{Progress, Verification};
use crate::metrics::Metrics;

const REFERENCE: &str = "\
REF is an image as docker pull takes it (alpine:3.20, ghcr.io/acme/app@sha256:…), a digest (sha256:…), or a pattern over
UPSTREAM/REPOSITORY:TAG, in which * stays within one component and ** does not: 'ghcr.io/acme/**', 'alpine:3.*'.";

/// List the images in the cache
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct List {
    /// Only these images
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Show the figures of a running mirror: requests, hit rates, what the cache holds
#[derive(Debug, Args)]
pub(super) struct Stats {
    #[command(flatten)]
    remote: Remote,
}

/// Explain an image or object: what of it is cached, since when, fresh or stale and why, what a pull would do
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct Explain {
    /// An image or a digest
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    remote: Remote,
}

/// Remove images, with all that no other image needs
///
/// Pinned images, and layers that other images need, stay. Readers of what is removed keep it until they are done.
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct Purge {
    /// What to remove
    #[arg(value_name = "REF")]
    reference: String,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Keep an image, with all that it needs, whatever happens to the rest
///
/// A pinned tag is followed: what it stands for is kept. Nothing is downloaded by pinning.
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct Pin {
    /// What to keep; without it, the pins are listed
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// Of a multi-platform image only these, as linux/amd64
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Remove pins
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct Unpin {
    /// Whose pins
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    remote: Remote,
}

/// Clean up: unfinished downloads, damaged files, what its quota has no more time for; and make room
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Evict until so many more bytes fit, as 10GiB
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    free: ByteSize,
    #[command(flatten)]
    remote: Remote,
}

/// Hash all content again; set apart what is damaged
///
/// Asks the running mirror, which downloads damaged content again. Where none runs, the folder of the configuration is
/// verified, and damaged content is downloaded at its next pull.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all content is right, 1 some was damaged, or it could not be verified.")]
pub(super) struct Verify {
    /// Bytes a second to read at most, as 50MiB; 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    rate: ByteSize,
    #[command(flatten)]
    remote: Remote,
}

fn size(value: &Value) -> String {
    ByteSize(value.as_u64().unwrap_or_default()).display().iec().to_string()
}

fn ago(value: &Value) -> String {
    let Some(then) = value.as_u64().filter(|then| *then > 0) else { return "-".to_owned() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(then);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86400),
    }
}

fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// A digest that people can tell apart.
fn short(value: &Value) -> String {
    text(value).chars().take(19).collect()
}

/// Columns of equal width; the first row is the head.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        text
    })
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// JSON, or what people read.
fn show(remote: &Remote, document: &Value, people: impl FnOnce(&Value) -> String) -> anyhow::Result<ExitCode> {
    print(&if remote.is_for_people() { people(document) } else { format!("{document:#}\n") })?;
    Ok(ExitCode::SUCCESS)
}

impl List {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let limit = self.limit.to_string();
        let parameters = [("ref", self.reference.as_deref().unwrap_or_default()), ("limit", &limit)];
        let document = self.remote.ask(Method::GET, "images", &parameters)?;
        show(&self.remote, &document, |document| {
            let mut rows = vec![row(["IMAGE", "DIGEST", "CACHED", "MISSING", "CAME", "USED", "CHECKED", ""])];
            rows.extend(list(document, "images").iter().map(|image| {
                let mark = if image["pinned"] == true { "pinned" } else { "" };
                row([
                    text(&image["image"]),
                    &short(&image["digest"]),
                    &size(&image["bytes"]),
                    &size(&image["missing_bytes"]),
                    &ago(&image["since"]),
                    &ago(&image["used"]),
                    &ago(&image["checked"]),
                    mark,
                ])
            }));
            let mut text = table(&rows);
            if document["more"] == true {
                text.push_str("… and more (--limit)\n");
            }
            if document["complete"] == false {
                text.push_str("(the mirror is still reading its catalog; there may be more)\n");
            }
            text
        })
    }
}

impl Stats {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut document = self.remote.ask(Method::GET, "stats", &[])?;
        document["catalog"] = self.remote.ask(Method::GET, "cache", &[])?;
        show(&self.remote, &document, |document| {
            let rate = |value: &Value| value.as_f64().map_or("-".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
            let count = |value: &Value| value.as_f64().unwrap_or_default().to_string();
            let bytes = |value: &Value| ByteSize(value.as_f64().unwrap_or_default() as u64).display().iec().to_string();
            let tier = |tier: &Value| {
                format!("{} of {}, {} objects", bytes(&tier["bytes"]), bytes(&tier["limit_bytes"]), count(&tier["objects"]))
            };
            let mut rows = vec![
                row(["version", text(&document["version"])]),
                row(["requests", &count(&document["requests"])]),
                row(["hit rate", &rate(&document["hit_rate"])]),
                row(["byte hit rate", &rate(&document["byte_hit_rate"])]),
                row(["sent to clients", &bytes(&document["response_bytes"])]),
                row(["from upstreams", &bytes(&document["upstream_bytes"])]),
                row(["pulls saved", &count(&document["pulls_saved"])]),
                row(["downloads now", &count(&document["fills_in_flight"])]),
                row(["on disk", &tier(&document["cache"]["disk"])]),
                row(["in memory", &tier(&document["cache"]["memory"])]),
                row(["pinned", &size(&document["catalog"]["pinned_bytes"])]),
                row(["images", &format!("{} tags, {} manifests", document["catalog"]["tags"], document["catalog"]["manifests"])]),
            ];
            rows.extend(
                list(&document["catalog"], "quotas").iter().map(|quota| row([text(&quota["pattern"]), &size(&quota["bytes"])])),
            );
            table(&rows)
        })
    }
}

fn parts(document: &Value) -> String {
    let mut rows = vec![row(["PART", "KIND", "PLATFORM", "SIZE", "CACHED", "CAME", "USED", "SHARED"])];
    rows.extend(list(document, "parts").iter().map(|part| {
        row([
            &short(&part["digest"]),
            text(&part["kind"]),
            text(&part["platform"]),
            &size(&part["bytes"]),
            if part["cached"] == true { "yes" } else { "no" },
            &ago(&part["since"]),
            &ago(&part["used"]),
            &match part["shared_by"].as_u64() {
                None | Some(0) => "-".to_owned(),
                Some(others) => format!("with {others}"),
            },
        ])
    }));
    if rows.len() > 1 { format!("\n{}", table(&rows)) } else { String::new() }
}

impl Explain {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let document = self.remote.ask(Method::GET, "explain", &[("ref", &self.reference)])?;
        show(&self.remote, &document, |document| {
            let yes = |value: &Value| if *value == true { "yes" } else { "no" }.to_owned();
            let mut rows = Vec::new();
            let mut fact = |name: &str, value: String| rows.push(row([name, &value]));
            for name in ["image", "digest", "upstream", "kind", "why"] {
                if let Some(value) = document[name].as_str() {
                    fact(name, value.to_owned());
                }
            }
            fact("cached", yes(&document["cached"]));
            if document["bytes"].is_u64() {
                fact("here", size(&document["bytes"]));
            }
            if document["missing_bytes"].is_u64() {
                fact("not here", size(&document["missing_bytes"]));
            }
            if let Some(why) = document["tag"]["why"].as_str() {
                fact("tag", format!("{}: {why}", if document["tag"]["fresh"] == true { "fresh" } else { "stale" }));
            }
            for name in ["repositories", "images"] {
                let names: Vec<&str> = list(document, name).iter().filter_map(Value::as_str).collect();
                if !names.is_empty() {
                    fact(name, names.join(", "));
                }
            }
            fact("now", text(&document["pull"]).to_owned());
            format!("{}{}", table(&rows), parts(document))
        })
    }
}

impl Purge {
    pub fn run(self) -> anyhow::Result<ExitCode> {
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
            if document["shared"].as_u64().is_some_and(|shared| shared > 0) {
                let _ = writeln!(text, "{} objects stay because other images need them", document["shared"]);
            }
            text
        })
    }
}

fn pins(document: &Value, name: &str) -> String {
    let mut rows = vec![row(["IMAGE", "PLATFORMS", "SINCE"])];
    rows.extend(list(document, name).iter().map(|pin| {
        let platforms: Vec<&str> = list(pin, "platforms").iter().filter_map(Value::as_str).collect();
        let platforms = if platforms.is_empty() { "all".to_owned() } else { platforms.join(" ") };
        row([text(&pin["image"]), &platforms, &ago(&Value::from(pin["since"].as_u64().unwrap_or_default() / 1000))])
    }));
    table(&rows)
}

impl Pin {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let document = match &self.reference {
            None => self.remote.ask(Method::GET, "pins", &[])?,
            Some(reference) => {
                self.remote.ask(Method::POST, "pin", &[("ref", reference), ("platform", &self.platform.join(","))])?
            }
        };
        show(&self.remote, &document, |document| pins(document, "pins"))
    }
}

impl Unpin {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let document = self.remote.ask(Method::POST, "unpin", &[("ref", &self.reference)])?;
        show(&self.remote, &document, |document| pins(document, "unpinned"))
    }
}

impl Gc {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (method, free) = (if self.dry_run { Method::GET } else { Method::POST }, self.free.as_u64().to_string());
        let document = self.remote.ask(method, "gc", &[("free", &free)])?;
        show(&self.remote, &document, |document| {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let evicted = list(document, "evicted");
            table(&[
                row([verb, &size(&document["bytes"])]),
                row(["  unfinished downloads", &document["leftovers"].to_string()]),
                row(["  damaged files", &document["quarantined"].to_string()]),
                row(["  unused for too long", &document["expired"].to_string()]),
                row(["  evicted", &evicted.len().to_string()]),
            ])
        })
    }
}

impl Verify {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let rate = self.rate.as_u64().to_string();
        let progress = match self.remote.ask(Method::POST, "verify", &[("rate", &rate)]) {
            Ok(_) => self.follow()?,
            Err(error) => match self.alone()? {
                Some(progress) => progress,
                None => return Err(error),
            },
        };
        let document = serde_json::to_value(progress)?;
        show(&self.remote, &document, |document| {
            format!("{} objects, {} verified, {} damaged\n", document["objects"], size(&document["bytes"]), document["damaged"])
        })?;
        Ok(if progress.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Waits until the mirror has done it.
    fn follow(&self) -> anyhow::Result<Progress> {
        loop {
            let document = self.remote.ask(Method::GET, "verify", &[])?;
            let progress: Progress = serde_json::from_value(document.clone())?;
            bar(&progress, document["of_bytes"].as_u64().unwrap_or_default());
            if !progress.running {
                clear_bar();
                return Ok(progress);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Verifies the folder itself; `None` if it is not there or a mirror has it.
    fn alone(&self) -> anyhow::Result<Option<Progress>> {
        let config = self.remote.file().load()?;
        if !config.cache.dir.join("VERSION").exists() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let progress = runtime.block_on(async {
            let cache = Cache::open(&config.cache, Arc::new(Metrics::new()))?;
            let maintenance = tokio::spawn(cache.clone().maintain());
            let verification = Arc::new(Verification::default());
            let (shared, whole, rate) = (verification.clone(), cache.clone(), self.rate.as_u64());
            let run = tokio::spawn(async move { whole.verify(&shared, rate).await });
            while !run.is_finished() {
                bar(&verification.progress(), cache.disk_totals().0);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            clear_bar();
            maintenance.abort();
            anyhow::Ok(verification.progress())
        })?;
        Ok(Some(progress))
    }
}

fn bar(progress: &Progress, of: u64) {
    if std::io::stderr().is_terminal() {
        let share = if of > 0 { (progress.bytes as f64 / of as f64).min(1.0) } else { 0.0 };
        let done = "#".repeat((share * 30.0) as usize);
        let bytes = ByteSize(progress.bytes).display().iec();
        let _ = write!(std::io::stderr(), "\r[{done:30}] {:3.0} %  {} objects, {bytes}  ", share * 100.0, progress.objects);
    }
}

fn clear_bar() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

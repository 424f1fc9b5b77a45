//! `roadstead ls`, `stats`, `explain`: what is in a cache; and below, what becomes of it.

mod change;
mod table;
mod verify;

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use http::Method;
use serde_json::Value;

pub(super) use change::{Gc, Pin, Purge, Unpin};
use table::{ago, list, row, short, show, size, table, text};
pub(super) use verify::Verify;

use super::remote::Remote;

const REFERENCE: &str = "\
REF is one of:
  an image as docker pull takes it: alpine:3.20, ghcr.io/acme/app@sha256:…
  a digest, all of it: sha256:… (tables show the beginning of each, --json shows all)
  a pattern over UPSTREAM/REPOSITORY:TAG: 'ghcr.io/acme/**', 'alpine:3.*'
In a pattern, * stays within one component and ** does not.
A short name is Docker Hub's.";

/// List the images in the cache
#[derive(Debug, Args)]
#[command(after_help = REFERENCE)]
pub(super) struct List {
    /// Only these images
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// At most this many
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
            let mut text = match (rows.len(), &self.reference) {
                (1, None) => "no image is here yet\n".to_owned(),
                (1, Some(reference)) => format!("no image here matches {reference}\n"),
                _ => table(&rows),
            };
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
    let mut rows = vec![row(["PART", "KIND", "PLATFORM", "SIZE", "CACHED", "CAME", "USED", "SHARED", ""])];
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
            if part["pinned"] == true { "pinned" } else { "" },
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
            if let Some(state) = document["upstream_state"].as_str().filter(|state| *state != "up") {
                fact("upstream is", state.to_owned());
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

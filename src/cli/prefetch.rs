//! `roadstead prefetch`: images into the cache before anybody asks.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, Place, token_from};
use super::site::{Site, SiteArgs, block_on, size};
use super::{print, tell};
use crate::admin::transfer::Listed;
use crate::config::Wish;
use crate::oci::Platforms;
use crate::transfer::prefetch::{Event, Options, Order, Outcome, Parallel, prefetch};
use crate::transfer::sources;

/// Fill the cache with images before anybody asks for them
///
/// If a mirror runs on this cache folder, that mirror fetches the images; else the command does. What is cached is not
/// downloaded again, and interrupted downloads are resumed. Leaves quota_reserve of an upstream's quota to clients.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roadstead prefetch alpine:3.20 'registry.k8s.io/pause:3.*' --platform linux/amd64,linux/arm64
  roadstead prefetch --file wanted.txt --with-referrers
  helm template chart | roadstead prefetch --from-manifests -
  roadstead prefetch --from-server http://other-mirror:5001 --served-within 7days
Exit codes: 0 all of it is in the cache, 1 something is missing.")]
pub(super) struct Prefetch {
    #[command(flatten)]
    site: SiteArgs,

    /// Images, or patterns of tags such as registry.k8s.io/pause:3.*
    #[arg(value_name = "IMAGE")]
    images: Vec<Wish>,

    /// A list with one image or pattern a line; # begins a comment; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Every image that these Kubernetes manifests name
    #[arg(long, value_name = "YAML", num_args = 1..)]
    from_manifests: Vec<PathBuf>,

    /// Every image of this compose file; its variables come from the environment
    #[arg(long, value_name = "YAML")]
    from_compose: Vec<PathBuf>,

    /// Every tag that another mirror has lately served or been filled with; HOST:PORT is its admin interface
    #[arg(long, value_name = "http://HOST:PORT")]
    from_server: Option<Place>,

    /// With --from-server: a file with the token of that admin interface
    #[arg(long, value_name = "FILE", requires = "from_server")]
    from_token_file: Option<PathBuf>,

    /// With --from-server: what "lately" means
    #[arg(long, value_name = "TIME", default_value = "30days", value_parser = humantime::parse_duration)]
    served_within: std::time::Duration,

    /// Only these platforms (linux/amd64,linux/arm64), which every image for several platforms must have
    #[arg(long, value_name = "PLATFORMS", default_value = "all")]
    platform: Platforms,

    /// Also fetch signatures, attestations and whatever else refers to the images
    #[arg(long)]
    with_referrers: bool,

    /// How many blobs to download at one time, from 1 to 256
    #[arg(long, value_name = "N", default_value_t)]
    parallel: Parallel,
}

impl Prefetch {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.site.config()?;
        block_on(async move {
            let wishes = self.wishes().await?;
            if wishes.is_empty() {
                bail!("nothing to fetch: name images, or a source of them (see --help)");
            }
            let options = Options { platforms: self.platform.clone(), referrers: self.with_referrers, parallel: self.parallel };
            let (sender, events) = mpsc::channel(256);
            let shown = tokio::spawn(Display::new().follow(events));
            match self.site.open(config).await? {
                Site::Stopped(workshop) => {
                    let maintain = tokio::spawn(workshop.cache.clone().maintain());
                    tokio::select! {
                        _ = prefetch(workshop.pull.clone(), wishes, options, sender) => {}
                        _ = tokio::signal::ctrl_c() => tell("interrupted; run it again to go on from here"),
                    }
                    maintain.abort();
                    workshop.close().await;
                }
                Site::Running(remote) => {
                    let order = Order { images: wishes.iter().map(ToString::to_string).collect(), options };
                    let body = Full::new(Bytes::from(serde_json::to_vec(&order)?)).map_err(|never| match never {}).boxed_unsync();
                    let mut answer = remote.send(Method::POST, "/api/v1/prefetch", body).await?.into_body();
                    let mut pending = Vec::new();
                    while let Some(frame) = answer.frame().await {
                        let Ok(data) = frame.context("the mirror broke off")?.into_data() else { continue };
                        pending.extend_from_slice(&data);
                        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                            let line: Vec<u8> = pending.drain(..=end).collect();
                            let _ = sender.send(serde_json::from_slice(&line)?).await;
                        }
                    }
                    drop(sender);
                }
            }
            let outcomes = shown.await?;
            table(&outcomes)?;
            let whole = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.error.is_none());
            Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }

    async fn wishes(&self) -> anyhow::Result<Vec<Wish>> {
        let mut wishes = self.images.clone();
        for file in &self.file {
            wishes.extend(sources::list(&read(file)?).with_context(|| file.display().to_string())?);
        }
        for file in &self.from_manifests {
            wishes.extend(sources::manifests(&read(file)?).with_context(|| file.display().to_string())?);
        }
        for file in &self.from_compose {
            let variable = |name: &str| std::env::var(name).ok();
            wishes.extend(sources::compose(&read(file)?, &variable).with_context(|| file.display().to_string())?);
        }
        if let Some(place) = &self.from_server {
            let token = self.from_token_file.as_deref().map(token_from).transpose()?;
            let answer = Endpoint::new(place.clone(), token, self.site.papers.clone()).get("/api/v1/served").await?;
            let listed: Vec<Listed> =
                serde_json::from_slice(&answer).with_context(|| format!("{place} is no admin interface of a mirror"))?;
            let lately = listed.into_iter().filter(|image| image.unused_seconds <= self.served_within.as_secs());
            for image in lately {
                wishes.push(image.image.parse()?);
            }
        }
        Ok(wishes)
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    }
    .with_context(|| format!("cannot read {}", file.display()))
}

/// Bars on a terminal, lines elsewhere.
struct Display {
    bars: Option<MultiProgress>,
    images: HashMap<String, ProgressBar>,
}

impl Display {
    fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new), images: HashMap::new() }
    }

    async fn follow(mut self, mut events: mpsc::Receiver<Event>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(event) = events.recv().await {
            match event {
                Event::Size { image, bytes, here } => match &self.bars {
                    Some(bars) => {
                        let bar = bars.add(ProgressBar::new(bytes));
                        let template = "{bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";
                        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                        bar.set_message(image.clone());
                        bar.set_position(here);
                        self.images.insert(image, bar);
                    }
                    None => tell(format_args!("{image}: {}, {} here", size(bytes), size(here))),
                },
                Event::Progress { image, bytes } => {
                    if let Some(bar) = self.images.get(&image) {
                        bar.inc(bytes);
                    }
                }
                Event::Done(outcome) => {
                    if let Some(bar) = self.images.remove(&outcome.image) {
                        bar.finish_and_clear();
                    } else if self.bars.is_none() {
                        tell(format_args!("{}: {}", outcome.image, outcome.error.as_deref().unwrap_or("done")));
                    }
                    outcomes.push(outcome);
                }
            }
        }
        outcomes.sort_by(|a, b| a.image.cmp(&b.image));
        outcomes
    }
}

fn table(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let width = outcomes.iter().map(|outcome| outcome.image.len()).max().unwrap_or_default().max(5);
    let mut text = format!("{:width$}  {:>5}  {:>10}  {:>10}  RESULT\n", "IMAGE", "BLOBS", "SIZE", "FETCHED");
    for outcome in outcomes {
        let result = match (&outcome.error, outcome.digest) {
            (Some(error), _) => format!("MISSING: {error}"),
            (None, digest) => digest.map(|digest| digest.to_string()).unwrap_or_default(),
        };
        text += &format!(
            "{:width$}  {:>5}  {:>10}  {:>10}  {result}\n",
            outcome.image,
            outcome.blobs,
            size(outcome.bytes),
            size(outcome.fetched)
        );
    }
    let missing = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    text += &format!("{} images, {missing} missing\n", outcomes.len());
    Ok(print(&text)?)
}

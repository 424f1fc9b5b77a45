//! From upstreams into the cache, before anybody asks.
//!
//! Images in parallel, their blobs in parallel under one limit, through the same fills as clients' pulls: what is here
//! is not asked for again, and what was interrupted is resumed. Leaves `quota_reserve` of an upstream's quota to clients.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

use super::document::{Descriptor, Document, MAX_MANIFESTS, platform_of_config};
use crate::config::{Globs, Wish};
use crate::oci::{Digest, ImageRef, MediaType, Platforms, Reference, Scope, Tag};
use crate::pull::{Pull, PullError};

/// Images looked at at one time; their blobs share [`Options::parallel`].
const IMAGES: usize = 4;

/// What is fetched of each image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Of indexes.
    #[serde(default)]
    pub platforms: Platforms,
    /// Also signatures, attestations and whatever else refers to it.
    #[serde(default)]
    pub referrers: bool,
    /// Blobs at one time.
    #[serde(default)]
    pub parallel: Parallel,
}

/// How many blobs are downloaded at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Parallel(u16);

impl Default for Parallel {
    fn default() -> Self {
        Self(8)
    }
}

impl TryFrom<u64> for Parallel {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        let within = u16::try_from(number).ok().filter(|number| (1..=256).contains(number));
        within.map(Self).ok_or_else(|| format!("{number} is not a whole number from 1 to 256"))
    }
}

impl FromStr for Parallel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u64>().map_err(|_| format!("{text:?} is not a whole number from 1 to 256"))?.try_into()
    }
}

impl fmt::Display for Parallel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a running mirror is asked to fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Images and patterns.
    pub images: Vec<String>,
    /// What of each.
    #[serde(default)]
    pub options: Options,
}

/// What happens, as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It is known how much an image is, and how much of it is missing.
    Size {
        /// Which image.
        image: String,
        /// Bytes of all its blobs.
        bytes: u64,
        /// Bytes that are here.
        here: u64,
    },
    /// More of an image is here.
    Progress {
        /// Which image.
        image: String,
        /// Bytes more.
        bytes: u64,
    },
    /// An image is done.
    Done(Outcome),
}

/// What came of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// As it was asked for, in full.
    pub image: String,
    /// What it is.
    pub digest: Option<Digest>,
    /// Its blobs.
    pub blobs: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that were downloaded.
    pub fetched: u64,
    /// Why it is not whole.
    pub error: Option<String>,
}

/// Fetches everything; tells of each image by an [`Event::Done`].
pub async fn prefetch(pull: Arc<Pull>, wishes: Vec<Wish>, options: Options, events: mpsc::Sender<Event>) -> Vec<Outcome> {
    let job = Arc::new(Job { pull, blobs: Semaphore::new(options.parallel.0.into()), options, events });
    let (mut images, mut outcomes) = (Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            Wish::One(image) => images.push(image),
            Wish::Tags(ref scope, ref tags) => match job.matching(scope, tags).await {
                Ok(matching) => images.extend(matching),
                Err(error) => {
                    let outcome = Outcome::failed(wish.to_string(), error);
                    let _ = job.events.send(Event::Done(outcome.clone())).await;
                    outcomes.push(outcome);
                }
            },
        }
    }
    let mut known = HashSet::new();
    images.retain(|image| known.insert(image.clone()));
    let mut waiting = images.into_iter();
    let (mut running, mut names) = (JoinSet::new(), HashMap::new());
    loop {
        while running.len() < IMAGES
            && let Some(image) = waiting.next()
        {
            let (job, name) = (job.clone(), image.to_string());
            names.insert(running.spawn(job.image(image)).id(), name);
        }
        let outcome = match running.join_next().await {
            Some(Ok(outcome)) => outcome,
            // That image alone: the others go on.
            Some(Err(error)) => Outcome::failed(names.remove(&error.id()).unwrap_or_default(), error.to_string()),
            None => break,
        };
        let _ = job.events.send(Event::Done(outcome.clone())).await;
        outcomes.push(outcome);
    }
    outcomes.sort_by(|a, b| a.image.cmp(&b.image));
    outcomes
}

impl Outcome {
    /// Nothing came of it, and this is why.
    pub(crate) fn failed(image: String, error: String) -> Self {
        Self { image, digest: None, blobs: 0, bytes: 0, fetched: 0, error: Some(error) }
    }
}

struct Job {
    pull: Arc<Pull>,
    options: Options,
    blobs: Semaphore,
    events: mpsc::Sender<Event>,
}

impl Job {
    async fn matching(&self, scope: &Scope, wanted: &Globs) -> Result<Vec<ImageRef>, String> {
        self.check(scope)?;
        let tags = self.pull.list_tags(scope).await.map_err(|error| error.to_string())?;
        let matching = tags.into_iter().filter(|tag| wanted.is_match(tag.as_str()));
        let images: Vec<_> = matching.map(|tag| scope.image(tag)).collect();
        if images.is_empty() { Err(format!("no tag of {scope} matches {:?}", wanted.patterns().concat())) } else { Ok(images) }
    }

    fn check(&self, scope: &Scope) -> Result<(), String> {
        if self.pull.knows(scope) {
            return Ok(());
        }
        let upstream = &scope.upstream;
        Err(format!("there is no upstream {upstream}: add [upstream.\"{upstream}\"] to the configuration"))
    }

    /// Whether the upstream's quota allows one more manifest.
    fn afford(&self, scope: &Scope) -> Result<(), String> {
        self.pull.kept_for_clients(scope).map_or(Ok(()), |left| {
            Err(format!(
                "{} allows {left} more pulls, which quota_reserve keeps for clients. Run it again later: it goes on from here",
                scope.upstream
            ))
        })
    }

    async fn image(self: Arc<Self>, image: ImageRef) -> Outcome {
        let name = image.to_string();
        let mut outcome = Outcome { error: None, ..Outcome::failed(name.clone(), String::new()) };
        let fetched = Arc::new(AtomicU64::new(0));
        if let Err(error) = self.clone().fetch(&image, &mut outcome, &fetched).await {
            outcome.error = Some(error);
        }
        outcome.fetched = fetched.load(Ordering::Relaxed);
        outcome
    }

    async fn fetch(self: Arc<Self>, image: &ImageRef, outcome: &mut Outcome, fetched: &Arc<AtomicU64>) -> Result<(), String> {
        let scope = &image.scope;
        self.check(scope)?;
        let digest = match &image.reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.pull.refresh(scope, tag).await.map_err(|error| error.to_string())?,
        };
        outcome.digest = Some(digest);
        let mut found = Found::default();
        self.manifest(scope, digest, Some(&self.options.platforms), &mut found).await?;
        if self.options.referrers {
            for subject in found.manifests.clone() {
                self.referrers(scope, &subject, &mut found).await?;
            }
        }
        let blobs = found.blobs;
        let cache = self.pull.cache();
        // Where the tree cannot be read, each blob says so.
        let _ = cache.until_scanned().await;
        // Sizes are whatever the manifest says, so their sum may be more than there are numbers for.
        let bytes = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        let are_here = blobs.iter().filter(|blob| cache.has(&blob.digest).is_some());
        let here = are_here.fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        (outcome.blobs, outcome.bytes) = (blobs.len(), bytes);
        let _ = self.events.send(Event::Size { image: outcome.image.clone(), bytes, here }).await;
        let mut running = JoinSet::new();
        for blob in blobs {
            let (job, scope, name, fetched) = (self.clone(), scope.clone(), outcome.image.clone(), fetched.clone());
            running.spawn(async move { job.blob(&scope, &blob, &name, &fetched).await });
        }
        let mut problems = Vec::new();
        while let Some(ended) = running.join_next().await {
            problems.extend(ended.map_err(|error| error.to_string()).flatten().err());
        }
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    async fn blob(&self, scope: &Scope, blob: &Descriptor, name: &str, fetched: &AtomicU64) -> Result<(), String> {
        // Never closed.
        let _turn = self.blobs.acquire().await.map_err(|error| error.to_string())?;
        let mut told = 0;
        let progress = |here: u64| {
            let more = here.saturating_sub(told);
            told = here;
            // A display that lags loses a step, and gets the sum with the last one.
            let _ = self.events.try_send(Event::Progress { image: name.to_owned(), bytes: more });
        };
        let was_missing = self
            .pull
            .blob_into_cache(scope, &blob.digest, blob.size, progress)
            .await
            .map_err(|error| format!("blob {}: {error}", blob.digest))?;
        if was_missing {
            // What came, not what the manifest says of it.
            fetched.fetch_add(self.pull.cache().has(&blob.digest).unwrap_or_default(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes a manifest and all below it. `platforms`: given for the image itself only.
    async fn manifest(
        &self,
        scope: &Scope,
        digest: Digest,
        platforms: Option<&Platforms>,
        found: &mut Found,
    ) -> Result<(), String> {
        let mut open = vec![(digest, platforms)];
        while let Some((digest, platforms)) = open.pop() {
            if !found.seen.insert(digest) {
                continue;
            }
            if self.pull.cache().has(&digest).is_none() {
                self.afford(scope)?;
            }
            let bytes = self.pull.manifest_bytes(scope, &digest).await.map_err(|error| error.to_string())?;
            let document = document(bytes, None).await.map_err(|error| format!("manifest {digest}: {error}"))?;
            found.manifests.push(digest);
            let all = Platforms::default();
            let wanted = platforms.unwrap_or(&all);
            if document.lacks(wanted) {
                return Err(format!("it has no {wanted}, only {}", document.platforms()));
            }
            for child in document.wanted(wanted) {
                match child.media_type.is_manifest() {
                    true => open.push((child.digest, None)),
                    false => found.blob(child),
                }
            }
            if document.manifests.is_empty()
                && let (Some(wanted), Some(config)) = (platforms.filter(|wanted| !wanted.is_all()), document.blobs.first())
            {
                self.check_config(scope, config, wanted).await?;
            }
            document.blobs.iter().for_each(|blob| found.blob(blob));
            if found.manifests.len() > MAX_MANIFESTS {
                return Err(format!("it has more than {MAX_MANIFESTS} manifests"));
            }
        }
        Ok(())
    }

    async fn check_config(&self, scope: &Scope, config: &Descriptor, wanted: &Platforms) -> Result<(), String> {
        let fetched = self.pull.blob_into_cache(scope, &config.digest, config.size, |_| {}).await;
        fetched.map_err(|error| error.to_string())?;
        let Some(hit) = self.pull.cache().get(&config.digest).await else { return Ok(()) };
        let crate::cache::Content::Memory(bytes) = hit.content else { return Ok(()) };
        match platform_of_config(&bytes) {
            Some(platform) if !wanted.wants(&platform) => Err(format!("it has no {wanted}, only {platform}")),
            _ => Ok(()),
        }
    }

    async fn referrers(&self, scope: &Scope, subject: &Digest, found: &mut Found) -> Result<(), String> {
        let fail = |error: PullError| format!("what refers to {subject}: {error}");
        let list = self.pull.list_referrers(scope, subject).await.map_err(fail)?;
        let list = document(list, Some(MediaType::OCI_INDEX)).await?;
        for child in &list.manifests {
            self.manifest(scope, child.digest, None, found).await?;
        }
        for suffix in Tag::COSIGN {
            let Ok(tag) = Tag::of_cosign(subject, suffix) else { continue };
            match self.pull.refresh(scope, &tag).await {
                Ok(digest) => self.manifest(scope, digest, None, found).await?,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }
}

/// Looks at a manifest off the reactor: it may be large (I11).
async fn document(bytes: Bytes, media_type: Option<MediaType>) -> Result<Document, String> {
    let looked = spawn_blocking(move || Document::parse(&bytes, media_type.as_ref().map(MediaType::as_str)));
    looked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

#[derive(Default)]
struct Found {
    seen: HashSet<Digest>,
    manifests: Vec<Digest>,
    blobs: Vec<Descriptor>,
}

impl Found {
    fn blob(&mut self, blob: &Descriptor) {
        if self.seen.insert(blob.digest) {
            self.blobs.push(blob.clone());
        }
    }
}

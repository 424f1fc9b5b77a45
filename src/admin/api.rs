//! `/api/v1/…`: what operators ask of the cache and tell it. GET reads, POST changes; answers are JSON.
//!
//! Parameters stand in the query. Documented in docs/API.md; `roadstead ls`, `explain`, `purge` … are its clients.

mod explain;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cache::catalog::Totals;
use crate::cache::manage::{Account, PinRow};
use crate::cache::pins::Pin;
use crate::cache::selector::Selector;
use crate::cache::verify::Verification;
use crate::cache::{Cache, StillReading};
use crate::oci::{Platforms, Reference};
use crate::pull::Pull;

/// Images in an answer, unless `limit` says otherwise.
const LIMIT: usize = 1000;

/// The API of one mirror.
#[derive(Debug)]
pub struct Api {
    cache: Arc<Cache>,
    pull: Arc<Pull>,
    verification: Arc<Verification>,
}

/// Status and document.
pub type Reply = (StatusCode, Value);

fn refused(status: StatusCode, error: impl Into<String>) -> Reply {
    (status, json!({ "error": error.into() }))
}

fn still_reading(error: StillReading) -> Reply {
    refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// The parameters of a query.
struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(query: &str) -> Self {
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn is_set(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value != "false" && value != "0")
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, Reply> {
        let wrong = |_| refused(StatusCode::BAD_REQUEST, format!("{name} is a number"));
        self.get(name).map_or(Ok(default), |text| text.parse().map_err(wrong))
    }
}

impl Api {
    /// The API over `cache`, which `pull` serves from and fills.
    pub fn new(cache: Arc<Cache>, pull: Arc<Pull>) -> Self {
        Self { cache, pull, verification: Arc::default() }
    }

    /// Answers a request for `path`, which begins after `/api/v1/`; `None` if there is no such thing.
    pub async fn answer(&self, method: &Method, path: &str, query: &str) -> Option<Reply> {
        let query = Query::parse(query);
        let (reads, changes) = (matches!(*method, Method::GET | Method::HEAD), *method == Method::POST);
        let answer = match path {
            "images" if reads => self.images(&query).await,
            "explain" if reads => self.explain(&query).await,
            "pins" if reads => Ok((StatusCode::OK, json!({ "pins": rows(&self.cache.pins.all()) }))),
            "cache" if reads => Ok(self.account()),
            "images" | "explain" | "pins" | "cache" if changes => Err(refused(StatusCode::METHOD_NOT_ALLOWED, "this only reads")),
            "verify" if reads => Ok((StatusCode::OK, self.verification())),
            "verify" if changes => self.verify(&query),
            "gc" if reads => self.collect(&query, true).await,
            "gc" if changes => self.collect(&query, query.is_set("dry_run")).await,
            "purge" if changes => self.purge(&query).await,
            "pin" if changes => self.pin(&query).await,
            "unpin" if changes => self.unpin(&query).await,
            "images" | "explain" | "pins" | "cache" | "verify" | "gc" | "purge" | "pin" | "unpin" => {
                Err(refused(StatusCode::METHOD_NOT_ALLOWED, "GET reads, POST changes"))
            }
            _ => return None,
        };
        Some(answer.unwrap_or_else(|refused| refused))
    }

    fn selector(&self, query: &Query) -> Result<Selector, Reply> {
        let text = query.get("ref").ok_or_else(|| refused(StatusCode::BAD_REQUEST, "name an image, digest or pattern: ?ref="))?;
        text.parse().map_err(|reason| refused(StatusCode::BAD_REQUEST, reason))
    }

    async fn images(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = query.get("ref").map(|_| self.selector(query)).transpose()?;
        let limit = usize::try_from(query.number("limit", LIMIT as u64)?).unwrap_or(LIMIT);
        let cache = self.cache.clone();
        let mut images = off_the_reactor(move || cache.images(selector.as_ref(), limit.saturating_add(1))).await?;
        let more = images.len() > limit;
        images.truncate(limit);
        Ok((StatusCode::OK, json!({ "images": images, "more": more, "complete": self.cache.is_surveyed() })))
    }

    fn account(&self) -> Reply {
        let Account { pinned_bytes, quotas, index_memory_bytes } = self.cache.account();
        let Totals { repositories, tags, manifests, parts, most_parts } = self.cache.catalog.totals();
        let document = json!({
            "repositories": repositories, "tags": tags, "manifests": manifests, "pinned_bytes": pinned_bytes, "quotas": quotas,
            "named": parts, "most_named": most_parts, "index_memory_bytes": index_memory_bytes, "indexed": self.cache.is_scanned(), "complete": self.cache.is_surveyed(),
            "scrubbing": self.cache.scrubbing.progress(),
        });
        (StatusCode::OK, document)
    }

    async fn purge(&self, query: &Query) -> Result<Reply, Reply> {
        let removed = self.cache.purge(self.selector(query)?, query.is_set("dry_run")).await.map_err(still_reading)?;
        let status = if removed.error.is_some() { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        Ok((status, json!(removed)))
    }

    async fn pin(&self, query: &Query) -> Result<Reply, Reply> {
        let platforms: Platforms = match query.get("platform").map_or(Ok(Platforms::default()), str::parse) {
            Ok(platforms) => platforms,
            Err(error) => return Err(refused(StatusCode::BAD_REQUEST, error.to_string())),
        };
        let selector = self.selector(query)?;
        if matches!(selector, Selector::Digest(_)) {
            return Err(refused(StatusCode::BAD_REQUEST, "a pin needs the repository, too: REPOSITORY@sha256:…"));
        }
        if matches!(selector, Selector::Glob(_)) {
            // Images that nobody has read yet would be left out.
            self.cache.surveyed_soon().await.map_err(still_reading)?;
        }
        let now = self.cache.clock().wall();
        let pinned = self.cache.blocking(move |cache| {
            let targets = match &selector {
                Selector::Image(image) => vec![image.clone()],
                selector => {
                    let tags = cache.catalog.tags(Some(selector), usize::MAX);
                    tags.into_iter().map(|tagged| tagged.scope.image(tagged.tag)).collect()
                }
            };
            cache.pin(targets, &platforms, now)
        });
        match pinned.await.map_err(io::Error::from).flatten() {
            Ok(pins) => Ok((StatusCode::OK, json!({ "pins": rows(&pins) }))),
            Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the pin cannot be written down: {error}"))),
        }
    }

    async fn unpin(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = self.selector(query)?;
        let removed = self.cache.blocking(move |cache| {
            cache.unpin(|pin| match &selector {
                Selector::Image(image) => pin.image == *image,
                Selector::Digest(digest) => pin.image.reference == Reference::Digest(*digest),
                Selector::Glob(globs) => globs.is_match(&pin.image.to_string()),
            })
        });
        match removed.await.map_err(io::Error::from).flatten() {
            Ok(pins) => Ok((StatusCode::OK, json!({ "unpinned": rows(&pins) }))),
            Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the pins cannot be written down: {error}"))),
        }
    }

    async fn collect(&self, query: &Query, dry_run: bool) -> Result<Reply, Reply> {
        let collected = self.cache.collect(query.number("free", 0)?, dry_run).await;
        let collected = collected.map_err(|error| refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        let status = if collected.error.is_some() { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::OK };
        Ok((status, json!(collected)))
    }

    fn verify(&self, query: &Query) -> Result<Reply, Reply> {
        let rate = query.number("rate", 0)?;
        if let Some(error) = self.cache.scan_error() {
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, format!("the cache folder cannot be read: {error}")));
        }
        if let Some(begun) = self.verification.begin() {
            let cache = self.cache.clone();
            tokio::spawn(async move { cache.verify(begun, rate).await });
        }
        Ok((StatusCode::ACCEPTED, self.verification()))
    }

    fn verification(&self) -> Value {
        let mut document = json!(self.verification.progress());
        let (bytes, objects) = self.cache.disk_totals();
        document["of_objects"] = json!(objects);
        document["of_bytes"] = json!(bytes);
        document
    }
}

/// Pins, with their times as the API tells times.
fn rows(pins: &[Pin]) -> Vec<PinRow> {
    pins.iter().map(PinRow::from).collect()
}

/// Runs what may take a while at 10^6 objects where that holds up nobody (I11).
async fn off_the_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Reply> {
    let failed = |_| refused(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says more");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

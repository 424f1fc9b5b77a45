//! `/api/v1/…`: what operators ask of the cache and tell it. GET reads, POST changes; answers are JSON.
//!
//! Parameters stand in the query. Documented in docs/API.md; `roadstead ls`, `explain`, `purge` … are its clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::selector::{Selector, image_name};
use crate::cache::verify::Verification;
use crate::clock::Clock;
use crate::config::{Config, Freshness};
use crate::oci::{Digest, Reference, Scope, UpstreamName};
use crate::upstream::Upstream;

/// Images in an answer, unless `limit` says otherwise.
const LIMIT: usize = 1000;

/// Repositories, images and manifests named of one object: a base layer may be part of everything.
const SHOWN: usize = 20;

/// The API of one mirror.
#[derive(Debug)]
pub struct Api {
    cache: Arc<Cache>,
    clock: Clock,
    default_upstream: UpstreamName,
    freshness: BTreeMap<UpstreamName, Freshness>,
    upstreams: Vec<Arc<Upstream>>,
    verification: Arc<Verification>,
}

/// Status and document.
pub type Reply = (StatusCode, Value);

fn refused(status: StatusCode, error: impl Into<String>) -> Reply {
    (status, json!({ "error": error.into() }))
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
    /// The API over `cache`, whose content came from `upstreams`.
    pub fn new(cache: Arc<Cache>, config: &Config, upstreams: Vec<Arc<Upstream>>) -> Self {
        Self {
            cache,
            clock: Clock::new(),
            default_upstream: config.server.default_upstream.clone(),
            freshness: config.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.freshness.clone())).collect(),
            upstreams,
            verification: Arc::default(),
        }
    }

    /// Answers a request for `path`, which begins after `/api/v1/`; `None` if there is no such thing.
    pub async fn answer(&self, method: &Method, path: &str, query: &str) -> Option<Reply> {
        let query = Query::parse(query);
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let answer = match path {
            "images" if reads => self.images(&query).await,
            "explain" if reads => self.explain(&query).await,
            "pins" if reads => Ok((StatusCode::OK, json!({ "pins": self.cache.pins.all() }))),
            "cache" if reads => Ok(self.account()),
            "verify" if reads => Ok(self.verification()),
            "gc" if reads => self.collect(&query, true).await,
            "images" | "explain" | "pins" | "cache" | "verify" | "gc" | "purge" | "pin" | "unpin" if *method == Method::POST => {
                self.change(path, &query).await
            }
            "images" | "explain" | "pins" | "cache" | "verify" | "gc" | "purge" | "pin" | "unpin" => {
                Err(refused(StatusCode::METHOD_NOT_ALLOWED, "GET reads, POST changes"))
            }
            _ => return None,
        };
        Some(answer.unwrap_or_else(|refused| refused))
    }

    async fn change(&self, path: &str, query: &Query) -> Result<Reply, Reply> {
        match path {
            "purge" => self.purge(query).await,
            "pin" => self.pin(query).await,
            "unpin" => self.unpin(query).await,
            "gc" => self.collect(query, query.is_set("dry_run")).await,
            "verify" => self.verify(query),
            _ => Err(refused(StatusCode::METHOD_NOT_ALLOWED, "this only reads")),
        }
    }

    fn selector(&self, query: &Query) -> Result<Selector, Reply> {
        let text = query.get("ref").ok_or_else(|| refused(StatusCode::BAD_REQUEST, "name an image, digest or pattern: ?ref="))?;
        Selector::parse(text, &self.default_upstream).map_err(|reason| refused(StatusCode::BAD_REQUEST, reason))
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

    async fn explain(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = self.selector(query)?;
        let (cache, complete) = (self.cache.clone(), self.cache.is_surveyed());
        let (scope, reference) = match &selector {
            Selector::Image(scope, reference) => (scope.clone(), reference.clone()),
            Selector::Digest(digest) => {
                let digest = *digest;
                let document = off_the_reactor(move || explain_object(&cache, &digest, complete)).await?;
                return Ok((StatusCode::OK, document));
            }
            Selector::Glob(_) => {
                return Err(refused(StatusCode::BAD_REQUEST, "explain takes one image or digest; ls takes patterns"));
            }
        };
        let name = image_name(&scope, &reference);
        let Some((digest, record)) = self.cache.catalog.resolve(&scope, &reference) else {
            let why =
                if complete { "it was never pulled through here, or was purged" } else { "the catalog is still being read" };
            let now = match self.standing(&scope.upstream) {
                (_, Some(why)) => format!("a pull would fail: {} {why}", scope.upstream),
                _ => format!("a pull would ask {} and download all of it", scope.upstream),
            };
            return Ok((
                StatusCode::OK,
                json!({ "image": name, "cached": false, "why": why, "pull": now, "complete": complete }),
            ));
        };
        let parts = off_the_reactor(move || cache.explain(&digest)).await?;
        let missing: u64 = parts.iter().filter(|part| !part.cached).map(|part| part.bytes).sum();
        let held: u64 = parts.iter().filter(|part| part.cached).map(|part| part.bytes).sum();
        let root_cached = self.cache.known(&digest).is_some_and(|known| known.present);
        let tag = record.map(|record| self.tag(&scope, &reference, record.checked_at));
        let (standing, away) = self.standing(&scope.upstream);
        let is_stale = tag.as_ref().is_some_and(|tag| tag["fresh"] == json!(false));
        let check = match &away {
            Some(why) if is_stale => format!("take the tag as it was, because {} {why}, then ", scope.upstream),
            None if is_stale => format!("ask {} by HEAD whether the tag has moved, then ", scope.upstream),
            _ => String::new(),
        };
        let rest = match (root_cached, missing, &away) {
            (true, 0, _) => "serve all of it from here".to_owned(),
            (false, _, None) => format!("pull the manifest from {}", scope.upstream),
            (false, _, Some(why)) => format!("fail: {} {why}", scope.upstream),
            (true, missing, None) => {
                format!("serve what is here and download what the client asks for of {missing} bytes that are not")
            }
            (true, missing, Some(why)) => {
                format!("serve what is here and fail for the {missing} bytes that are not: {} {why}", scope.upstream)
            }
        };
        let document = json!({
            "image": name, "upstream": scope.upstream, "upstream_state": standing, "repository": scope.repository,
            "digest": digest, "cached": root_cached, "bytes": held, "missing_bytes": missing, "tag": tag, "parts": parts,
            "pull": format!("a pull would {check}{rest}"), "complete": complete,
        });
        Ok((StatusCode::OK, document))
    }

    /// How an upstream stands, and why it would not be asked now.
    fn standing(&self, name: &UpstreamName) -> (&'static str, Option<String>) {
        let Some(upstream) = self.upstreams.iter().find(|upstream| upstream.name() == name) else {
            return ("unknown", Some("is not configured any more".to_owned()));
        };
        if upstream.is_offline() {
            return ("offline", Some("is offline".to_owned()));
        }
        match upstream.outage() {
            Some(why) => ("down", Some(format!("does not answer ({why})"))),
            None => ("up", None),
        }
    }

    fn tag(&self, scope: &Scope, reference: &Reference, checked_at: crate::clock::Timestamp) -> Value {
        let age = self.clock.now().since(checked_at);
        let Some(freshness) = self.freshness.get(&scope.upstream) else {
            return json!({ "fresh": false, "why": format!("upstream {} is not configured any more", scope.upstream) });
        };
        let shown = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
        let immutable = matches!(reference, Reference::Tag(tag) if freshness.immutable_tags.is_match(tag.as_str()));
        let (fresh, why) = match age {
            _ if immutable => (true, "it matches freshness.immutable_tags".to_owned()),
            None => (false, "it was checked under a wrong clock".to_owned()),
            Some(age) if age < freshness.fresh_for => {
                (true, format!("checked {} ago, fresh for {}", shown(age), shown(freshness.fresh_for)))
            }
            Some(age) => (false, format!("checked {} ago, fresh for {}", shown(age), shown(freshness.fresh_for))),
        };
        json!({ "checked": checked_at.0 / 1000, "fresh": fresh, "why": why })
    }

    fn account(&self) -> Reply {
        let (pinned, quotas, memory) = self.cache.account();
        let (repositories, tags, manifests) = self.cache.catalog.totals();
        let quotas: Vec<Value> =
            quotas.into_iter().map(|(pattern, bytes)| json!({ "pattern": pattern, "bytes": bytes })).collect();
        let document = json!({
            "repositories": repositories, "tags": tags, "manifests": manifests, "pinned_bytes": pinned, "quotas": quotas,
            "index_memory_bytes": memory, "indexed": self.cache.is_scanned(), "complete": self.cache.is_surveyed(),
            "scrubbing": self.cache.scrubbing.progress(),
        });
        (StatusCode::OK, document)
    }

    async fn purge(&self, query: &Query) -> Result<Reply, Reply> {
        let removed = self.cache.purge(self.selector(query)?, query.is_set("dry_run")).await;
        Ok((StatusCode::OK, json!(removed)))
    }

    async fn pin(&self, query: &Query) -> Result<Reply, Reply> {
        let platforms: Vec<String> =
            query.get("platform").into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        if let Some(bad) = platforms.iter().find(|platform| !(1..=2).contains(&platform.matches('/').count())) {
            return Err(refused(StatusCode::BAD_REQUEST, format!("{bad:?} is no platform; write linux/amd64 or linux/arm64/v8")));
        }
        let selector = self.selector(query)?;
        if matches!(selector, Selector::Digest(_)) {
            return Err(refused(StatusCode::BAD_REQUEST, "a pin needs the repository, too: REPOSITORY@sha256:…"));
        }
        let (cache, now) = (self.cache.clone(), self.clock.now());
        let pinned = tokio::task::spawn_blocking(move || {
            let targets = match &selector {
                Selector::Image(scope, reference) => vec![(scope.clone(), reference.clone())],
                selector => {
                    let tags = cache.catalog.tags(Some(selector), usize::MAX);
                    tags.into_iter().map(|tagged| (tagged.scope, Reference::Tag(tagged.tag))).collect()
                }
            };
            cache.pin(&targets, &platforms, now)
        });
        match pinned.await.map_err(std::io::Error::other).and_then(|pinned| pinned) {
            Ok(pins) => Ok((StatusCode::OK, json!({ "pins": pins }))),
            Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the pin cannot be written down: {error}"))),
        }
    }

    async fn unpin(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = self.selector(query)?;
        let cache = self.cache.clone();
        let removed = tokio::task::spawn_blocking(move || {
            cache.unpin(|pin| match &selector {
                Selector::Image(scope, reference) => pin.image == image_name(scope, reference),
                Selector::Digest(digest) => pin.image.ends_with(&format!("@{digest}")),
                Selector::Glob(globs) => globs.is_match(&pin.image),
            })
        });
        match removed.await.map_err(std::io::Error::other).and_then(|removed| removed) {
            Ok(pins) => Ok((StatusCode::OK, json!({ "unpinned": pins }))),
            Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the pins cannot be written down: {error}"))),
        }
    }

    async fn collect(&self, query: &Query, dry_run: bool) -> Result<Reply, Reply> {
        let collected = self.cache.collect(query.number("free", 0)?, dry_run).await;
        Ok((StatusCode::OK, json!(collected)))
    }

    fn verify(&self, query: &Query) -> Result<Reply, Reply> {
        let rate = query.number("rate", 0)?;
        if let Some(error) = self.cache.scan_error() {
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, format!("the cache folder cannot be read: {error}")));
        }
        if !self.verification.progress().running {
            let (cache, verification) = (self.cache.clone(), self.verification.clone());
            tokio::spawn(async move { cache.verify(&verification, rate).await });
        }
        Ok((StatusCode::ACCEPTED, json!({ "started": true })))
    }

    fn verification(&self) -> Reply {
        let mut document = json!(self.verification.progress());
        self.cache.measure();
        let (bytes, objects) = self.cache.disk_totals();
        document["of_objects"] = json!(objects);
        document["of_bytes"] = json!(bytes);
        (StatusCode::OK, document)
    }
}

/// Runs what may take a while at 10^6 objects where that holds up nobody (I11).
async fn off_the_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Reply> {
    let failed = |_| refused(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says more");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

fn explain_object(cache: &Cache, digest: &Digest, complete: bool) -> Value {
    let known = cache.known(digest);
    let catalog = &cache.catalog;
    let owners = catalog.owners_of(digest, SHOWN);
    let tags = |digest: &Digest| catalog.tags(Some(&Selector::Digest(*digest)), SHOWN);
    // A layer belongs to a manifest, that to an index, and either may have a tag.
    let above: Vec<Digest> = owners.iter().flat_map(|owner| catalog.owners_of(owner, SHOWN)).collect();
    let mut images: Vec<String> = std::iter::once(digest)
        .chain(&owners)
        .chain(&above)
        .flat_map(tags)
        .map(|tagged| image_name(&tagged.scope, &Reference::Tag(tagged.tag)))
        .collect();
    images.sort();
    images.dedup();
    images.truncate(SHOWN);
    let present = known.is_some_and(|known| known.present);
    json!({
        "digest": digest,
        "kind": if catalog.is_manifest(digest) { "manifest" } else { "blob" },
        "cached": present,
        "bytes": known.map(|known| known.size),
        "since": known.filter(|known| known.present).map(|known| known.since),
        "used": known.filter(|known| known.present).map(|known| known.used),
        "pinned": known.is_some_and(|known| known.pinned),
        "repositories": catalog.repositories_of(digest, SHOWN).iter().map(ToString::to_string).collect::<Vec<_>>(),
        "manifests": owners,
        "images": images,
        "parts": if catalog.is_manifest(digest) { json!(cache.explain(digest)) } else { Value::Null },
        "pull": if present { "a pull would be served from here" } else { "a pull would download it" },
        "complete": complete,
    })
}

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

/// Images in an answer, unless `limit` says otherwise.
const LIMIT: usize = 1000;

/// The API of one mirror.
#[derive(Debug)]
pub struct Api {
    cache: Arc<Cache>,
    clock: Clock,
    default_upstream: UpstreamName,
    freshness: BTreeMap<UpstreamName, Freshness>,
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
    /// The API over `cache`.
    pub fn new(cache: Arc<Cache>, config: &Config) -> Self {
        Self {
            cache,
            clock: Clock::new(),
            default_upstream: config.server.default_upstream.clone(),
            freshness: config.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.freshness.clone())).collect(),
            verification: Arc::default(),
        }
    }

    /// Answers a request for `path`, which begins after `/api/v1/`; `None` if there is no such thing.
    pub async fn answer(&self, method: &Method, path: &str, query: &str) -> Option<Reply> {
        let query = Query::parse(query);
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let answer = match path {
            "images" if reads => self.images(&query),
            "explain" if reads => self.explain(&query),
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

    fn images(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = query.get("ref").map(|_| self.selector(query)).transpose()?;
        let limit = usize::try_from(query.number("limit", LIMIT as u64)?).unwrap_or(LIMIT);
        let mut images = self.cache.images(selector.as_ref(), limit.saturating_add(1));
        let more = images.len() > limit;
        images.truncate(limit);
        Ok((StatusCode::OK, json!({ "images": images, "more": more, "complete": self.cache.is_surveyed() })))
    }

    fn explain(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = self.selector(query)?;
        let complete = self.cache.is_surveyed();
        let (scope, reference) = match &selector {
            Selector::Image(scope, reference) => (scope.clone(), reference.clone()),
            Selector::Digest(digest) => return Ok((StatusCode::OK, self.explain_object(digest, complete))),
            Selector::Glob(_) => {
                return Err(refused(StatusCode::BAD_REQUEST, "explain takes one image or digest; ls takes patterns"));
            }
        };
        let name = image_name(&scope, &reference);
        let Some((digest, record)) = self.cache.catalog.resolve(&scope, &reference) else {
            let why =
                if complete { "it was never pulled through here, or was purged" } else { "the catalog is still being read" };
            let now = format!("a pull would ask {} and download all of it", scope.upstream);
            return Ok((
                StatusCode::OK,
                json!({ "image": name, "cached": false, "why": why, "pull": now, "complete": complete }),
            ));
        };
        let parts = self.cache.explain(&digest);
        let missing: u64 = parts.iter().filter(|part| !part.cached).map(|part| part.bytes).sum();
        let held: u64 = parts.iter().filter(|part| part.cached).map(|part| part.bytes).sum();
        let root_cached = self.cache.known(&digest).is_some_and(|known| known.present);
        let tag = record.map(|record| self.tag(&scope, &reference, record.checked_at));
        let check = match &tag {
            Some(tag) if tag["fresh"] == json!(false) => {
                format!("ask {} by HEAD whether the tag has moved, then ", scope.upstream)
            }
            _ => String::new(),
        };
        let rest = match (root_cached, missing) {
            (false, _) => format!("pull the manifest from {}", scope.upstream),
            (true, 0) => "serve all of it from here".to_owned(),
            (true, missing) => {
                format!("serve what is here and download what the client asks for of {missing} bytes that are not")
            }
        };
        let document = json!({
            "image": name, "upstream": scope.upstream, "repository": scope.repository, "digest": digest,
            "cached": root_cached, "bytes": held, "missing_bytes": missing, "tag": tag, "parts": parts,
            "pull": format!("a pull would {check}{rest}"), "complete": complete,
        });
        Ok((StatusCode::OK, document))
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

    fn explain_object(&self, digest: &Digest, complete: bool) -> Value {
        let known = self.cache.known(digest);
        let catalog = &self.cache.catalog;
        let owners = catalog.owners_of(digest);
        let tags = |digest: &Digest| catalog.tags(Some(&Selector::Digest(*digest)), 20);
        // A layer belongs to a manifest, that to an index, and either may have a tag.
        let above: Vec<Digest> = owners.iter().flat_map(|owner| catalog.owners_of(owner)).collect();
        let mut images: Vec<String> = std::iter::once(digest)
            .chain(&owners)
            .chain(&above)
            .flat_map(tags)
            .map(|tagged| image_name(&tagged.scope, &Reference::Tag(tagged.tag)))
            .collect();
        images.sort();
        images.dedup();
        let present = known.is_some_and(|known| known.present);
        json!({
            "digest": digest,
            "kind": if catalog.is_manifest(digest) { "manifest" } else { "blob" },
            "cached": present,
            "bytes": known.map(|known| known.size),
            "since": known.filter(|known| known.present).map(|known| known.since),
            "used": known.filter(|known| known.present).map(|known| known.used),
            "pinned": known.is_some_and(|known| known.pinned),
            "repositories": catalog.repositories_of(digest, 20).iter().map(ToString::to_string).collect::<Vec<_>>(),
            "manifests": owners,
            "images": images,
            "parts": if catalog.is_manifest(digest) { json!(self.cache.explain(digest)) } else { Value::Null },
            "pull": if present { "a pull would be served from here" } else { "a pull would download it" },
            "complete": complete,
        })
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
        let targets = match self.selector(query)? {
            Selector::Image(scope, reference) => vec![(scope, reference)],
            Selector::Digest(_) => {
                return Err(refused(StatusCode::BAD_REQUEST, "a pin needs the repository, too: REPOSITORY@sha256:…"));
            }
            glob => {
                let tags = self.cache.catalog.tags(Some(&glob), usize::MAX);
                tags.into_iter().map(|tagged| (tagged.scope, Reference::Tag(tagged.tag))).collect()
            }
        };
        let (cache, now) = (self.cache.clone(), self.clock.now());
        let pinned = tokio::task::spawn_blocking(move || {
            let pin = |(scope, reference): &(Scope, Reference)| cache.pin(scope, reference, platforms.clone(), now);
            targets.iter().map(pin).collect::<Result<Vec<_>, _>>()
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

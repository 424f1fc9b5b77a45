//! `explain`: what is known of an image or an object, and what a pull of it would do now.
//!
//! What becomes of a tag is decided by the pull path itself ([`crate::pull::Pull::forecast`]) and only put into words here.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, Query, Reply, off_the_reactor, refused};
use crate::cache::Cache;
use crate::cache::selector::Selector;
use crate::clock::Timestamp;
use crate::oci::{Digest, ImageRef, Reference, Scope, UpstreamName};
use crate::pull::{Course, Forecast};

/// Repositories, images and manifests named of one object: a base layer may be part of everything.
const SHOWN: usize = 20;

impl Api {
    pub(super) async fn explain(&self, query: &Query) -> Result<Reply, Reply> {
        let selector = self.selector(query)?;
        let (cache, complete) = (self.cache.clone(), self.cache.is_surveyed());
        let image = match selector {
            Selector::Image(image) => image,
            Selector::Digest(digest) => {
                let document = off_the_reactor(move || explain_object(&cache, &digest, complete)).await?;
                return Ok((StatusCode::OK, document));
            }
            Selector::Glob(_) => {
                return Err(refused(StatusCode::BAD_REQUEST, "explain takes one image or digest; ls takes patterns"));
            }
        };
        let name = image.to_string();
        let ImageRef { scope, reference } = image;
        let (standing, away) = self.standing(&scope.upstream);
        let Some((digest, record)) = self.cache.catalog.resolve(&scope, &reference) else {
            let why =
                if complete { "it was never pulled through here, or was purged" } else { "the catalog is still being read" };
            let now = match away {
                Some(why) => format!("a pull would fail: {} {why}", scope.upstream),
                None => format!("a pull would ask {} and download all of it", scope.upstream),
            };
            return Ok((
                StatusCode::OK,
                json!({ "image": name, "cached": false, "why": why, "pull": now, "complete": complete }),
            ));
        };
        let parts = off_the_reactor(move || cache.explain(&digest)).await?;
        let bytes = |cached| {
            let parts = parts.iter().filter(|part| part.cached == cached);
            // What is not here has the size that its manifest says, whatever that is.
            parts.fold(0, |sum: u64, part| sum.saturating_add(part.bytes))
        };
        let (held, missing) = (bytes(true), bytes(false));
        let here = self.cache.known(&digest).is_some_and(|known| known.present);
        let tag = match (&reference, record) {
            (Reference::Tag(tag), Some(record)) => {
                let forecast = self.pull.forecast(&scope, tag, &record, here);
                let checked = self.cache.clock().date(record.checked_at);
                Some((freshness(&scope, checked, forecast.as_ref(), here), forecast))
            }
            _ => None,
        };
        let content = content(&scope.upstream, here, missing, away.as_deref());
        let pull = match &tag {
            Some((_, Some(forecast))) => pull_by_tag(&scope.upstream, &forecast.course, here, away.as_deref(), &content),
            _ => format!("a pull would {content}"),
        };
        let document = json!({
            "image": name, "upstream": scope.upstream, "upstream_state": standing, "repository": scope.repository,
            "digest": digest, "cached": here, "bytes": held, "missing_bytes": missing, "tag": tag.map(|(tag, _)| tag),
            "parts": parts, "pull": pull, "complete": complete,
        });
        Ok((StatusCode::OK, document))
    }

    /// How an upstream stands, and why it would not be asked now.
    fn standing(&self, name: &UpstreamName) -> (&'static str, Option<String>) {
        let Some(upstream) = self.pull.upstreams().into_iter().find(|upstream| upstream.name() == name) else {
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
}

/// Whether a tag that was `checked` then is fresh, and why. `here`: the manifest that it names is.
fn freshness(scope: &Scope, checked: Timestamp, forecast: Option<&Forecast>, here: bool) -> Value {
    let Some(Forecast { terms, age, course }) = forecast else {
        return json!({ "fresh": false, "why": format!("upstream {} is not configured any more", scope.upstream) });
    };
    let shown = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    let fresh = *course == Course::Fresh;
    let why = match age {
        _ if fresh && age.is_none_or(|age| age >= terms.fresh_for) => {
            format!("it came in a bundle, and {} is offline", scope.upstream)
        }
        None => "it was checked under a wrong clock".to_owned(),
        Some(age) if !here => format!("checked {} ago, and its manifest is not here", shown(*age)),
        Some(age) if terms.fresh_for == Duration::MAX => format!("checked {} ago, fresh for ever", shown(*age)),
        Some(age) => format!("checked {} ago, fresh for {}", shown(*age), shown(terms.fresh_for)),
    };
    json!({ "checked": checked.seconds(), "fresh": fresh, "why": why })
}

/// What a pull by tag would do; `here`: the manifest that it names is; `content`: what is done once the digest is known.
fn pull_by_tag(upstream: &UpstreamName, course: &Course, here: bool, away: Option<&str>, content: &str) -> String {
    match (course, away) {
        (Course::Fresh, _) => format!("a pull would {content}"),
        (Course::Behind { may_check: true }, _) => {
            format!("a pull would take the tag as it was and ask {upstream} by HEAD meanwhile, then {content}")
        }
        (Course::Behind { may_check: false }, _) => {
            let why = format!("what is left of the quota of {upstream} is kept for clients (quota_reserve)");
            format!("a pull would take the tag as it was, because {why}, then {content}")
        }
        (Course::Stale { why, .. }, away) => {
            let why = away.map_or_else(|| why.clone(), |away| format!("{upstream} {away}"));
            format!("a pull would take the tag as it was, because {why}, then {content}")
        }
        (Course::Check(_), _) => format!("a pull would ask {upstream} by HEAD whether the tag has moved, then {content}"),
        (Course::Need, None) => format!("a pull would ask {upstream} by HEAD what the tag is now, then {content}"),
        (Course::Need, Some(why)) if here => {
            format!("a pull would fail: {upstream} {why}; the tag is older than stale_if_error allows")
        }
        (Course::Need, Some(why)) => format!("a pull would fail: {upstream} {why}"),
        (Course::Nothing, _) => format!("a pull would fail: {upstream} is offline"),
    }
}

/// What a pull would do about the manifest and what it refers to. `here`: the manifest is; `missing`: bytes that are not.
fn content(upstream: &UpstreamName, here: bool, missing: u64, away: Option<&str>) -> String {
    match (here, missing, away) {
        (true, 0, _) => "serve all of it from here".to_owned(),
        (false, _, None) => format!("pull the manifest from {upstream}"),
        (false, _, Some(why)) => format!("fail: {upstream} {why}"),
        (true, missing, None) => {
            format!("serve what is here and download what the client asks for of {missing} bytes that are not")
        }
        (true, missing, Some(why)) => {
            format!("serve what is here and fail for the {missing} bytes that are not: {upstream} {why}")
        }
    }
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
        .map(|tagged| tagged.scope.image(tagged.tag).to_string())
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
        "since": known.filter(|known| known.present).map(|known| cache.date(known.since)),
        "used": known.filter(|known| known.present).map(|known| cache.date(known.used)),
        "pinned": known.is_some_and(|known| known.pinned),
        "repositories": catalog.repositories_of(digest, SHOWN).iter().map(ToString::to_string).collect::<Vec<_>>(),
        "manifests": owners,
        "images": images,
        "parts": if catalog.is_manifest(digest) { json!(cache.explain(digest)) } else { Value::Null },
        "pull": if present { "a pull would be served from here" } else { "a pull would download it" },
        "complete": complete,
    })
}

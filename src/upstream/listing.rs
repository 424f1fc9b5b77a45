//! Lists at an upstream: the tags of a repository and the referrers of a manifest.
//!
//! Pages are passed on as they came, and so are whole in memory, as long as somebody reads them. Those of ordinary size are
//! bounded by the requests that an upstream may be asked and the clients that may wait for them; of larger ones there are
//! [`LARGE`] at one time in the whole process, whoever asks.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::{Error, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use url::Url;
use url::form_urlencoded::{self, Serializer};

use super::Upstream;
use super::blob::{self, Body};
use super::error::{Class, Reason, UpstreamError};
use super::request::{Answer, Ask};
use crate::metrics::Kind;
use crate::oci::{Digest, Repository};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A kind of list.
struct List {
    kind: Kind,
    accept: &'static str,
    /// The largest page that is taken from an upstream, in bytes.
    limit: usize,
}

/// Not every registry makes pages of it.
const TAGS: List = List { kind: Kind::Tags, accept: "application/json", limit: 32 << 20 };
/// Clients take no larger one.
const REFERRERS: List = List { kind: Kind::Referrers, accept: INDEX, limit: ORDINARY };

/// A page of up to so many bytes needs no place.
const ORDINARY: usize = 4 << 20;
/// Larger pages that are in memory at one time.
const LARGE: usize = 4;
/// How long a larger page waits for its place.
const PATIENCE: Duration = Duration::from_secs(10);
/// The places of larger pages. The process has one memory.
static PLACES: Semaphore = Semaphore::const_new(LARGE);
/// How long the whole of a page may take, however steadily it drips.
const WHOLE: Duration = Duration::from_secs(120);

/// What an answer with a status that is no success means, where it is no failure.
enum Lack {
    /// There is no such API.
    Api,
    /// There is, and not this of it.
    Of(Reason),
}

/// One page of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// JSON as received; known to be an object with a list of strings as `tags`.
    pub bytes: Bytes,
    /// The query of the next page, without the question mark, as the upstream wrote it; for [`Upstream::tags`].
    pub next: Option<String>,
}

/// One page of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    /// An image index as received; known to be JSON with a list as `manifests`.
    pub bytes: Bytes,
    /// `OCI-Filters-Applied`: what the upstream has filtered by already.
    pub filters_applied: Option<String>,
    /// The query of the next page, without the question mark.
    pub next: Option<String>,
}

/// A page as it came.
struct Page {
    bytes: Bytes,
    /// The query of the next one.
    next: Option<String>,
    headers: HeaderMap,
    /// The error to give if the bytes turn out to be something else.
    unreadable: UpstreamError,
}

#[derive(Deserialize)]
struct TagList {
    /// Some registries write `null` for none. Where it is missing, this is no list.
    #[serde(rename = "tags", deserialize_with = "Option::deserialize")]
    _tags: Option<Vec<Text>>,
}

/// A string that is not kept.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(Any)
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "manifests")]
    _manifests: Vec<IgnoredAny>,
}

impl Upstream {
    /// A page of tags (distribution-spec, *Listing Tags*). `query` is a client's, or what [`Listing::next`] gave: some registries
    /// page by tokens of their own.
    pub async fn tags(&self, repository: &Repository, query: &str) -> Result<Listing, UpstreamError> {
        let lacks = |status: StatusCode| match status.as_u16() {
            // ECR's word on more than 1000 at once.
            400 if !query.is_empty() => Some(Lack::Of(Reason::NoPage(status))),
            405 | 501 => Some(Lack::Of(Reason::NoList(status))),
            _ => None,
        };
        let page = self.list(TAGS, repository, "tags/list".into(), query, lacks).await?;
        let Some(Page { bytes, next, unreadable, .. }) = page else {
            return Err(UpstreamError::new(&self.name, "", Reason::NotFound { believe: None }));
        };
        // A million tags take a while (I11).
        let tags = bytes.clone();
        let is_list = spawn_blocking(move || serde_json::from_slice::<TagList>(&tags).is_ok()).await;
        if is_list.unwrap_or(false) { Ok(Listing { bytes, next }) } else { Err(unreadable) }
    }

    /// A page of the manifests that refer to `digest` (distribution-spec, *Listing Referrers*), of any of `artifact_types` if
    /// there are any and the upstream filters. `page` is an earlier
    /// answer's `next`, and then stands for the whole query.
    ///
    /// `None`: the upstream has no such API, which it shows by 400, 404, 405, 406, 410, 501 or something that is no index. Whoever
    /// has named a page has the API: that it does not give that one is an error.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_types: &[String],
        page: Option<&str>,
    ) -> Result<Option<Referrers>, UpstreamError> {
        let filters = || artifact_types.iter().map(|kind| ("artifactType", kind));
        let filter = || Serializer::new(String::new()).extend_pairs(filters()).finish();
        let query = page.map_or_else(filter, ToOwned::to_owned);
        let continues = page.is_some_and(names_a_page);
        let lacks = |status: StatusCode| match status.as_u16() {
            400 => page.is_none().then_some(Lack::Api),
            404 | 405 | 406 | 410 | 501 => (!continues).then_some(Lack::Api),
            _ => None,
        };
        let page = self.list(REFERRERS, repository, format!("referrers/{digest}"), &query, lacks).await;
        let refused = |error: &UpstreamError, reason| UpstreamError::new(&self.name, error.host(), reason);
        let page = page.map_err(|error| match error.class() {
            // A 404 would send clients to the tag that stands in for the API.
            Class::NotFound => refused(&error, Reason::Invalid("it has named a page that it does not have".into())),
            _ => error,
        })?;
        let Some(Page { bytes, next, headers, unreadable }) = page else { return Ok(None) };
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let media_type = text("content-type").and_then(|kind| kind.split(';').next());
        if !media_type.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(INDEX)) {
            return if continues { Err(unreadable) } else { Ok(None) };
        }
        if serde_json::from_slice::<Index>(&bytes).is_err() {
            return Err(refused(&unreadable, Reason::Refused("an index of referrers that cannot be read".into())));
        }
        Ok(Some(Referrers { bytes, filters_applied: text("oci-filters-applied").map(ToOwned::to_owned), next }))
    }

    /// A page of a list; `None` for a status by which the API `lacks`.
    async fn list(
        &self,
        List { kind, accept, limit }: List,
        repository: &Repository,
        path: String,
        query: &str,
        lacks: impl Fn(StatusCode) -> Option<Lack>,
    ) -> Result<Option<Page>, UpstreamError> {
        let query = Some(query.to_owned()).filter(|query| !query.is_empty());
        let ask = Ask { query, accept, ..Ask::new(kind, repository, path) };
        let (origin, answer) = self.ask(&ask, |answer: &Answer| lacks(answer.response.status()).is_some()).await?;
        match lacks(answer.response.status()) {
            None => {}
            Some(Lack::Api) => return Ok(None),
            Some(Lack::Of(reason)) => return Err(origin.client.error(&answer.url, reason)),
        }
        let headers = answer.response.headers().clone();
        if answer.response.status() != StatusCode::OK {
            return Err(origin.client.error(&answer.url, Reason::Status(answer.response.status())));
        }
        blob::check_identity(&headers).map_err(|reason| origin.client.error(&answer.url, reason))?;
        let next = next_query(&headers, &answer.url);
        let unreadable =
            origin.client.error(&answer.url, Reason::Invalid("it sent something else than the list asked for".into()));
        let body = Body::new(&origin.client, &answer.url, answer.response);
        let bytes = collect(body, limit, |reason| origin.client.error(&answer.url, reason)).await?;
        Ok(Some(Page { bytes, next, headers, unreadable }))
    }
}

/// A page that keeps its place for as long as somebody has it.
struct Large(Vec<u8>, #[expect(dead_code, reason = "it acts when it is dropped")] SemaphorePermit<'static>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The whole of a page, if it has at most `limit` bytes; `fail` says whose it is. That it is too large, or has no place, is no
/// outage: a list that is there and cannot be passed on has no shorter one as its substitute.
async fn collect(mut body: Body, limit: usize, fail: impl Fn(Reason) -> UpstreamError) -> Result<Bytes, UpstreamError> {
    let too_large = || fail(Reason::Refused(format!("a list that is larger than {}", ByteSize(limit as u64))));
    if body.left().is_some_and(|left| left > limit as u64) {
        return Err(too_large());
    }
    let all = async {
        let (mut whole, mut place) = (Vec::new(), None);
        while let Some(chunk) = body.chunk().await {
            let chunk = chunk?;
            let size = whole.len() + chunk.len();
            if size > limit {
                return Err(too_large());
            }
            if size > ORDINARY && place.is_none() {
                let free = tokio::time::timeout(PATIENCE, PLACES.acquire()).await.ok().and_then(Result::ok);
                let none =
                    || format!("a list that has more than {}, as have {LARGE} that are being sent", ByteSize(ORDINARY as u64));
                place = Some(free.ok_or_else(|| fail(Reason::Refused(none())))?);
            }
            whole.extend_from_slice(&chunk);
        }
        whole.shrink_to_fit();
        Ok(match place {
            Some(place) => Bytes::from_owner(Large(whole, place)),
            None => whole.into(),
        })
    };
    let slow = || fail(Reason::Broken("it takes too long".into()));
    tokio::time::timeout(WHOLE, all).await.unwrap_or_else(|_| Err(slow()))
}

/// Whether a query is one by which an upstream has named a page, and not only a client's wish for so much at once.
fn names_a_page(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name != "n" && name != "artifactType")
}

/// The query of `Link: <…>; rel="next"` (RFC 8288). Only the query is taken: which host and path to ask is ours to know.
fn next_query(headers: &HeaderMap, base: &Url) -> Option<String> {
    let lines = headers.get_all(header::LINK).iter().filter_map(|line| line.to_str().ok());
    let mut links = lines.flat_map(|line| line.split('<').skip(1)).filter_map(|link| link.split_once('>'));
    let is_next = |parameters: &str| {
        // Up to the comma that begins the next link; a parameter of another name may hold anything.
        parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let mut relations = value.trim().trim_matches('"').split_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        })
    };
    let (target, _) = links.find(|(_, parameters)| is_next(parameters))?;
    let next = base.join(target).ok()?;
    // A next page that is this one would have its clients ask for ever.
    next.query().filter(|query| !query.is_empty() && Some(*query) != base.query()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t21_next_pages() {
        let next = |lines: &[&str]| {
            let headers = lines.iter().map(|line| (header::LINK, line.parse().unwrap())).collect();
            next_query(&headers, &"https://r.example/v2/a/tags/list?n=2".parse().unwrap())
        };
        for (line, expected) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("n=2&last=b")),
            ("<https://elsewhere.example/x?last=b&n=2>;rel=next", Some("last=b&n=2")),
            ("<?n=2&last=b>; title=\"x\"; REL=\"prev NEXT\"", Some("n=2&last=b")),
            (r#"</first?x=1>; rel="first", </second?x=2>; rel="next""#, Some("x=2")),
            (r#"</v2/a/tags/list>; rel="next""#, None),
            (r#"</v2/a/tags/list?n=2>; rel="prev""#, None),
            ("/v2/a/tags/list?n=2; rel=next", None),
            ("<", None),
            (r#"<>; rel="next""#, None),
            (r#"<?n=2>; rel="next""#, None),
        ] {
            assert_eq!(next(&[line]).as_deref(), expected, "{line}");
        }
        assert_eq!(next(&["</a?x=1>; rel=prev", "</b?x=2>; rel=next"]).as_deref(), Some("x=2"));
        assert_eq!(next(&[]), None);
    }
}

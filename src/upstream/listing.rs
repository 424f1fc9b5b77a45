//! Lists at an upstream: the tags of a repository and the referrers of a manifest.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;
use url::form_urlencoded::Serializer;

use super::Upstream;
use super::blob::{self, Body};
use super::error::{Reason, UpstreamError};
use super::request::{Answer, Ask};
use crate::metrics::Kind;
use crate::oci::{Digest, Repository};

/// The largest page of a list that is taken from an upstream.
const MAX_LISTING: usize = 4 * 1024 * 1024;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

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

#[derive(Deserialize)]
struct TagList {
    /// Some registries write `null` for none.
    #[serde(rename = "tags")]
    _tags: Option<Vec<String>>,
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
        let (bytes, next, _) =
            self.list(Kind::Tags, repository, "tags/list".into(), query, "application/json", |_| false).await?;
        match bytes {
            Some((bytes, error)) if serde_json::from_slice::<TagList>(&bytes).is_err() => Err(error),
            Some((bytes, _)) => Ok(Listing { bytes, next }),
            None => Err(UpstreamError::new(&self.name, "", Reason::NotFound { believe: None })),
        }
    }

    /// A page of the manifests that refer to `digest` (distribution-spec, *Listing Referrers*), of any of `artifact_types` if
    /// there are any and the upstream filters. `page` is an earlier
    /// answer's `next`, and then stands for the whole query.
    ///
    /// `None`: the upstream has no such API, which it shows by 400, 404, 405, 406, 501 or something that is no index. (A 400 to
    /// a `page` is about that page.)
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
        let lacks = |status: StatusCode| match status.as_u16() {
            400 => page.is_none(),
            status => matches!(status, 404 | 405 | 406 | 501),
        };
        let (bytes, next, headers) =
            self.list(Kind::Referrers, repository, format!("referrers/{digest}"), &query, INDEX, lacks).await?;
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).map(ToOwned::to_owned);
        let is_index = text("content-type")
            .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(INDEX)));
        match bytes.filter(|_| is_index) {
            Some((bytes, error)) if serde_json::from_slice::<Index>(&bytes).is_err() => Err(error),
            Some((bytes, _)) => Ok(Some(Referrers { bytes, filters_applied: text("oci-filters-applied"), next })),
            None => Ok(None),
        }
    }

    /// A list's bytes (with the error to give if they turn out to be something else), its next page and its headers;
    /// no bytes for a status that `lacks` names.
    async fn list(
        &self,
        kind: Kind,
        repository: &Repository,
        path: String,
        query: &str,
        accept: &'static str,
        lacks: impl Fn(StatusCode) -> bool,
    ) -> Result<(Option<(Bytes, UpstreamError)>, Option<String>, HeaderMap), UpstreamError> {
        let query = Some(query.to_owned()).filter(|query| !query.is_empty());
        let ask = Ask { query, accept, ..Ask::new(kind, repository, path) };
        let (origin, answer) = self.ask(&ask, |answer: &Answer| lacks(answer.response.status())).await?;
        let headers = answer.response.headers().clone();
        if lacks(answer.response.status()) {
            return Ok((None, None, headers));
        }
        if answer.response.status() != StatusCode::OK {
            return Err(origin.client.error(&answer.url, Reason::Status(answer.response.status())));
        }
        blob::check_identity(&headers).map_err(|reason| origin.client.error(&answer.url, reason))?;
        let next = next_query(&headers, &answer.url);
        let unreadable =
            origin.client.error(&answer.url, Reason::Invalid("it sent something else than the list asked for".into()));
        let bytes = Body::new(&origin.client, &answer.url, answer.response).collect(MAX_LISTING).await?;
        Ok((Some((bytes, unreadable)), next, headers))
    }
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

//! The query of a request: the few parameters that mean something here, and what is passed on to the upstream.
//!
//! A plus sign is a plus sign, not a blank: media types and versions have the one, and nothing asked for has the other.
//! A parameter without a value is as good as absent. What is passed on cannot end the URL or the `Link` it is put into.

use std::borrow::Cow;
use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Refusal, clip};
use crate::oci::error::ErrorCode;

/// What is encoded in a value: everything but RFC 3986's unreserved characters.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is encoded in a path or query that is passed on: what RFC 3986 § 3.3 and § 3.4 do not allow there. What is encoded
/// stays so.
const PASSED_ON: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The page of a tag list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Page {
    /// `n`: at most so many.
    pub n: Option<u64>,
    /// `last`: those after this one.
    pub last: Option<String>,
    /// Everything else: an upstream's own way of naming the next page, encoded.
    pub rest: String,
}

impl Page {
    /// The query for the upstream.
    pub fn query(&self) -> String {
        let n = self.n.map(|n| format!("n={n}"));
        joined(&self.rest, n.into_iter().chain(self.last.as_ref().map(|last| pair("last", last))))
    }
}

/// The parameters of a referrers request that reach the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReferrersQuery {
    /// `artifactType`, each one once and in order, so that the same question is the same value; containerd asks for several.
    /// Any text.
    pub artifact_types: Vec<String>,
    /// Everything else: an upstream's own way of naming the next page, encoded.
    pub rest: String,
}

impl ReferrersQuery {
    /// The whole query for the upstream, if it asks for a page that an earlier answer named.
    pub fn page(&self) -> Option<String> {
        (!self.rest.is_empty()).then(|| joined(&self.rest, self.filters()))
    }

    /// The types asked for as one text, which no other list of types gives; `None` for all.
    pub fn filter(&self) -> Option<String> {
        (!self.artifact_types.is_empty()).then(|| joined("", self.filters()))
    }

    /// Whether a referrer of this type was asked for: of one of the types, if there are any.
    pub fn wants(&self, artifact_type: Option<&str>) -> bool {
        self.artifact_types.is_empty() || self.artifact_types.iter().any(|wanted| artifact_type == Some(wanted))
    }

    fn filters(&self) -> impl Iterator<Item = String> {
        self.artifact_types.iter().map(|artifact_type| pair("artifactType", artifact_type))
    }
}

/// The `Link` header that leads from `path`, as the client wrote it, to the upstream's next page. Relative, so that the
/// client stays with the mirror, and in the form in which it addresses it. The upstream's own `ns` is not for this mirror.
pub fn next_link(path: &str, namespace: Option<&str>, query: &str) -> String {
    let path = utf8_percent_encode(path, PASSED_ON);
    let query = joined(&Parameters(query).without(&["ns"]), namespace.map(|namespace| pair("ns", namespace)));
    format!("<{path}?{query}>; rel=\"next\"")
}

/// A query as it stands in the URL, without the question mark. Empty if there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters<'a>(pub(super) &'a str);

impl<'a> Parameters<'a> {
    /// Each parameter: as it stands there, its name, its value still encoded.
    fn pairs(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>, &'a str)> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (pair, decoded(key), value)
        })
    }

    /// The values of every parameter called `name` that has one, decoded.
    fn all(self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.pairs().filter(move |(_, key, value)| key == name && !value.is_empty()).map(|(_, _, value)| decoded(value))
    }

    /// `ns`. Given twice with two values it is refused: whoever checked one of them did not check the other.
    pub(super) fn namespace(self) -> Result<Option<Cow<'a, str>>, Refusal> {
        let mut all = self.all("ns");
        let Some(first) = all.next() else { return Ok(None) };
        match all.find(|other| !other.eq_ignore_ascii_case(&first)) {
            Some(other) => Err((ErrorCode::NameInvalid, format!("ns says {}, and {}", clip(&first), clip(&other)))),
            None => Ok(Some(first)),
        }
    }

    /// Of a tag list.
    pub(super) fn page(self) -> Result<Page, Refusal> {
        let n = match self.all("n").next() {
            // Rust would take "+5" for a number, and no registry does.
            Some(n) => match n.parse().ok().filter(|_| n.bytes().all(|c| c.is_ascii_digit())) {
                Some(n) => Some(n),
                None => return Err((ErrorCode::PaginationNumberInvalid, format!("n is a number of tags, not {}", clip(&n)))),
            },
            None => None,
        };
        Ok(Page { n, last: self.all("last").next().map(Cow::into_owned), rest: self.without(&["ns", "n", "last"]) })
    }

    /// Of a referrers list. `n` and `last` may be an upstream's way of paging here.
    pub(super) fn referrers(self) -> ReferrersQuery {
        let artifact_types: BTreeSet<String> = self.all("artifactType").map(Cow::into_owned).collect();
        ReferrersQuery { artifact_types: artifact_types.into_iter().collect(), rest: self.without(&["ns", "artifactType"]) }
    }

    /// The parameters not called any of `names`, encoded so that they can stand in a URL and in a `Link`.
    fn without(self, names: &[&str]) -> String {
        let kept = self.pairs().filter(|(_, key, _)| !names.contains(&&**key));
        joined("", kept.map(|(pair, ..)| utf8_percent_encode(pair, PASSED_ON).to_string()))
    }
}

/// One parameter, encoded.
fn pair(name: &str, value: &str) -> String {
    format!("{name}={}", utf8_percent_encode(value, VALUE))
}

/// `first`, unless it is empty, and the others.
fn joined(first: &str, others: impl IntoIterator<Item = String>) -> String {
    let mut query = first.to_owned();
    for other in others {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(&other);
    }
    query
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

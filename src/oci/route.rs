//! What a URL asks for: every form in which clients address a mirror, parsed into one validated value.
//!
//! Which upstream is meant, first that applies: `?ns=` (containerd, buildkit); an upstream's name as path before
//! `/v2/`, or as the first component after it; the Host header, where an upstream lists it; the default upstream.
//! A name that is no configured upstream leads nowhere: the mirror is no open proxy.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use super::digest::{Digest, DigestError};
use super::error::ErrorCode;
use super::name::{NameError, Reference, Repository, Scope, UpstreamName};
use crate::metrics::Kind;

/// Docker Hub's name, under which one-component repositories mean `library/…`.
const DOCKER_HUB: &str = "docker.io";

/// The upstreams that a URL can name.
#[derive(Clone, Debug)]
pub struct Directory {
    /// By name and by Host header, in lower case.
    names: HashMap<String, UpstreamName>,
    hosts: HashMap<String, UpstreamName>,
    default: UpstreamName,
}

impl Directory {
    /// A directory of `upstreams`, each with the Host headers that select it.
    pub fn new<'a>(default: UpstreamName, upstreams: impl IntoIterator<Item = (&'a UpstreamName, &'a [String])>) -> Self {
        let (mut names, mut hosts) = (HashMap::new(), HashMap::new());
        for (name, listed) in upstreams {
            names.insert(name.to_string(), name.clone());
            hosts.extend(listed.iter().map(|host| (host.to_ascii_lowercase(), name.clone())));
        }
        Self { names, hosts, default }
    }

    /// An upstream by its name, or by another name it is known under (`index.docker.io`).
    fn find(&self, name: &str) -> Option<&UpstreamName> {
        self.names.get(name).or_else(|| self.hosts.get(name))
    }

    fn by_host(&self, host: &str) -> Option<&UpstreamName> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = host.to_ascii_lowercase();
        self.hosts.get(&host).or_else(|| self.hosts.get(host.rsplit_once(':')?.0))
    }
}

/// A request for one thing of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The upstream that is meant.
    pub upstream: UpstreamName,
    /// The `ns` parameter as it was given, to be confirmed by `OCI-Namespace`.
    pub namespace: Option<String>,
    /// The thing.
    pub target: Target,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/v2/`: is this a registry?
    Base,
    /// Something of a repository.
    Content(Repository, Wanted),
}

/// What of a repository is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `/manifests/<reference>`
    Manifest(Reference),
    /// `/blobs/<digest>`
    Blob(Digest),
    /// `/tags/list`
    Tags(Page),
    /// `/referrers/<digest>`
    Referrers(Digest, ReferrersQuery),
}

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
        let mut query = url::form_urlencoded::Serializer::new(self.rest.clone());
        query.extend_pairs(self.n.map(|n| ("n", n.to_string())));
        query.extend_pairs(self.last.as_ref().map(|last| ("last", last)));
        query.finish()
    }
}

/// The parameters of a referrers request that reach the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReferrersQuery {
    /// `artifactType`
    pub artifact_type: Option<String>,
    /// Everything else: an upstream's own way of naming the next page, encoded.
    pub rest: String,
}

impl ReferrersQuery {
    /// The whole query for the upstream, if it asks for a page that an earlier answer named.
    pub fn page(&self) -> Option<String> {
        let mut query = url::form_urlencoded::Serializer::new(self.rest.clone());
        query.extend_pairs(self.artifact_type.as_ref().map(|artifact_type| ("artifactType", artifact_type)));
        (!self.rest.is_empty()).then(|| query.finish())
    }
}

/// A URL that asks for nothing a mirror has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RouteError {
    /// The code it is answered with.
    pub code: ErrorCode,
    /// What is wrong with it.
    pub message: String,
    /// What it seems to have asked for.
    pub kind: Kind,
    /// The upstream, where that was clear.
    pub upstream: Option<UpstreamName>,
}

impl Route {
    /// Parses the path and query of a request line, and the Host header. The method is not looked at.
    pub fn parse(path: &str, query: Option<&str>, host: Option<&str>, directory: &Directory) -> Result<Self, RouteError> {
        let fail = |code, message: String| RouteError { code, message, kind: Kind::Other, upstream: None };
        let (prefix, rest) = split_base(path)
            .ok_or_else(|| fail(ErrorCode::NameUnknown, format!("{path} is not a path of a registry; its API is under /v2/")))?;
        let rest = decode(rest).map_err(|message| fail(ErrorCode::NameInvalid, message))?;
        let query = Query::parse(query);
        let unknown = |name: &str| {
            fail(
                ErrorCode::NameUnknown,
                format!("{name:?} is not an upstream of this mirror; add [upstream.{name:?}] to its configuration"),
            )
        };
        let by_ns = match query.ns.as_deref() {
            Some(ns) => Some(directory.find(ns).ok_or_else(|| unknown(ns))?),
            None => None,
        };
        let (by_path, rest) = match prefix {
            Some(prefix) => (Some(directory.find(prefix).ok_or_else(|| unknown(prefix))?), rest.as_ref()),
            None => match first_component(&rest, directory) {
                Some((upstream, rest)) => (Some(upstream), rest),
                None => (None, rest.as_ref()),
            },
        };
        if let (Some(ns), Some(path)) = (by_ns, by_path)
            && ns != path
        {
            return Err(fail(ErrorCode::NameInvalid, format!("ns says {ns}, the path says {path}")));
        }
        let upstream = by_ns.or(by_path).or_else(|| directory.by_host(host?)).unwrap_or(&directory.default).clone();
        let (kind, target) = target(rest, &upstream, &query);
        match target {
            Ok(target) => Ok(Self { upstream, namespace: query.ns, target }),
            Err((code, message)) => Err(RouteError { code, message, kind, upstream: Some(upstream) }),
        }
    }

    /// The label under which the request is counted.
    pub fn kind(&self) -> Kind {
        match &self.target {
            Target::Base => Kind::Other,
            Target::Content(_, Wanted::Manifest(_)) => Kind::Manifest,
            Target::Content(_, Wanted::Blob(_)) => Kind::Blob,
            Target::Content(_, Wanted::Tags(_)) => Kind::Tags,
            Target::Content(_, Wanted::Referrers(..)) => Kind::Referrers,
        }
    }

    /// The repository that is asked about.
    pub fn scope(&self) -> Option<Scope> {
        match &self.target {
            Target::Base => None,
            Target::Content(repository, _) => Some(Scope { upstream: self.upstream.clone(), repository: repository.clone() }),
        }
    }
}

/// The `Link` header that leads from `path`, as the client wrote it, to the upstream's next page. Relative, so that the
/// client stays with the mirror, and in the form in which it addresses it.
pub fn next_link(path: &str, namespace: Option<&str>, query: &str) -> String {
    let namespace = namespace.map_or_else(String::new, |ns| {
        format!("&ns={}", url::form_urlencoded::byte_serialize(ns.as_bytes()).collect::<String>())
    });
    format!("<{path}?{query}{namespace}>; rel=\"next\"")
}

/// Splits `/v2/rest` and `/prefix/v2/rest`.
fn split_base(path: &str) -> Option<(Option<&str>, &str)> {
    let after = |path: &str| matches!(path.as_bytes().first(), None | Some(b'/'));
    if let Some(rest) = path.strip_prefix("/v2").filter(|rest| after(rest)) {
        return Some((None, rest.strip_prefix('/').unwrap_or_default()));
    }
    let (prefix, rest) = path.strip_prefix('/')?.split_once('/')?;
    let rest = rest.strip_prefix("v2").filter(|rest| after(rest))?;
    Some((Some(prefix), rest.strip_prefix('/').unwrap_or_default()))
}

/// Decodes `%`-escapes once. What would change the shape of the path is refused.
fn decode(path: &str) -> Result<Cow<'_, str>, String> {
    if path.contains('\\') || path.bytes().any(|c| c.is_ascii_control()) {
        return Err("a path has no backslashes and no control characters".into());
    }
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| "the path is not UTF-8".to_owned())?;
    let slashes = |text: &str| text.matches('/').count();
    if slashes(&decoded) != slashes(path) || decoded.contains('\\') || decoded.bytes().any(|c| c.is_ascii_control()) {
        return Err("a path has no encoded slashes, backslashes or control characters".into());
    }
    Ok(decoded)
}

/// `docker.io/library/alpine/…`: a first component that names an upstream.
fn first_component<'a, 'd>(rest: &'a str, directory: &'d Directory) -> Option<(&'d UpstreamName, &'a str)> {
    let (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    is_host.then(|| directory.find(first)).flatten().map(|upstream| (upstream, rest))
}

type Refusal = (ErrorCode, String);

/// The last two segments tell what is asked for; what stands before them is the repository, which may itself have
/// components named `manifests` or `blobs`.
fn target(rest: &str, upstream: &UpstreamName, query: &Query) -> (Kind, Result<Target, Refusal>) {
    if rest.is_empty() {
        return (Kind::Other, Ok(Target::Base));
    }
    let mut parts = rest.rsplitn(3, '/');
    let (last, section, name) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
    let content = |wanted: Result<Wanted, Refusal>| {
        let repository: Repository =
            name.parse().map_err(|error: NameError| (ErrorCode::NameInvalid, format!("{name:?}: {error}")))?;
        let repository = if upstream.as_str() == DOCKER_HUB { repository.with_library() } else { repository };
        Ok(Target::Content(repository, wanted?))
    };
    let digest = || last.parse().map_err(|error: DigestError| (ErrorCode::DigestInvalid, format!("{last:?}: {error}")));
    match section {
        Some("manifests") => {
            let reference = if last.contains(':') {
                digest().map(Reference::Digest)
            } else {
                // A tag that cannot exist does not exist.
                last.parse()
                    .map(Reference::Tag)
                    .map_err(|error: NameError| (ErrorCode::ManifestUnknown, format!("{last:?}: {error}")))
            };
            (Kind::Manifest, content(reference.map(Wanted::Manifest)))
        }
        Some("blobs") => (Kind::Blob, content(digest().map(Wanted::Blob))),
        Some("referrers") => (Kind::Referrers, content(digest().map(|digest| Wanted::Referrers(digest, query.referrers())))),
        Some("tags") if last == "list" => (Kind::Tags, content(query.page().map(Wanted::Tags))),
        _ => {
            let (code, what) = match rest {
                "_catalog" => (ErrorCode::Unsupported, "a mirror does not list repositories".to_owned()),
                _ => (ErrorCode::NameUnknown, format!("/v2/{rest} names no manifest, blob, tag list or referrers")),
            };
            (Kind::Other, Err((code, what)))
        }
    }
}

/// The parameters of a query that mean something here.
#[derive(Debug, Default)]
struct Query {
    ns: Option<String>,
    n: Option<String>,
    last: Option<String>,
    artifact_type: Option<String>,
    rest: String,
}

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let mut parsed = Self::default();
        let Some(query) = query else { return parsed };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "ns" => parsed.ns = Some(value.into_owned()),
                "n" => parsed.n = Some(value.into_owned()),
                "last" => parsed.last = Some(value.into_owned()),
                "artifactType" => parsed.artifact_type = Some(value.into_owned()),
                _ => {
                    let pair = url::form_urlencoded::Serializer::new(String::new()).append_pair(&key, &value).finish();
                    parsed.rest.extend([if parsed.rest.is_empty() { "" } else { "&" }, &pair]);
                }
            }
        }
        parsed
    }

    fn page(&self) -> Result<Page, Refusal> {
        let n = match &self.n {
            Some(n) => {
                Some(n.parse().map_err(|_| (ErrorCode::PaginationNumberInvalid, format!("n is a number of tags, not {n:?}")))?)
            }
            None => None,
        };
        Ok(Page { n, last: self.last.clone(), rest: self.rest.clone() })
    }

    fn referrers(&self) -> ReferrersQuery {
        // `n` and `last` may be an upstream's way of paging here.
        let mut rest = url::form_urlencoded::Serializer::new(self.rest.clone());
        for (key, value) in [("n", &self.n), ("last", &self.last)] {
            if let Some(value) = value {
                rest.append_pair(key, value);
            }
        }
        ReferrersQuery { artifact_type: self.artifact_type.clone(), rest: rest.finish() }
    }
}

#[cfg(test)]
mod tests;

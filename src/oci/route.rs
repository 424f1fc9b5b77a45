//! What a URL asks for: every form in which clients address a mirror, parsed into one validated value.
//!
//! Which upstream is meant, first that applies: `?ns=` (containerd, buildkit); an upstream's name as path before
//! `/v2/`, or as the first component after it; the Host header, where an upstream lists it; the default upstream.
//! A name that is no configured upstream leads nowhere: the mirror is no open proxy.

mod query;

use std::borrow::Cow;
use std::collections::HashMap;

pub use query::{Page, ReferrersQuery, next_link};

use super::digest::Digest;
use super::error::ErrorCode;
use super::name::{Reference, Repository, Scope, Tag, UpstreamName, is_host};
use crate::metrics::Kind;
use query::Parameters;

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

    /// An upstream by its name, or by another name it is known under (`index.docker.io`). Hosts have no case (RFC 9110
    /// § 4.2.3).
    fn find(&self, name: &str) -> Option<&UpstreamName> {
        let name = lower(name);
        self.names.get(&*name).or_else(|| self.hosts.get(&*name))
    }

    fn by_host(&self, host: &str) -> Option<&UpstreamName> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = lower(host);
        self.hosts.get(&*host).or_else(|| self.hosts.get(host.rsplit_once(':')?.0))
    }
}

/// Without a copy where it is in lower case, as it is nearly always.
fn lower(host: &str) -> Cow<'_, str> {
    match host.bytes().any(|c| c.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
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

impl Wanted {
    /// The label under which it is counted.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Manifest(_) => Kind::Manifest,
            Self::Blob(_) => Kind::Blob,
            Self::Tags(_) => Kind::Tags,
            Self::Referrers(..) => Kind::Referrers,
        }
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
        let path = decode(path);
        let Some((prefix, rest)) = split_base(&path) else {
            let message = format!("{} is not a path of a registry; its API is under /v2/", clip(&path));
            return Err(RouteError { code: ErrorCode::NameUnknown, message, kind: Kind::Other, upstream: None });
        };
        let parameters = Parameters(query.unwrap_or_default());
        let fail = |(code, message), upstream| RouteError { code, message, kind: Endpoint::of(rest).kind(), upstream };
        let Address { upstream, namespace, rest } =
            address(prefix, rest, parameters, host, directory).map_err(|refusal| fail(refusal, None))?;
        match Endpoint::of(rest).target(upstream, parameters) {
            Ok(target) => Ok(Self { upstream: upstream.clone(), namespace, target }),
            Err(refusal) => Err(fail(refusal, Some(upstream.clone()))),
        }
    }

    /// The label under which the request is counted.
    pub fn kind(&self) -> Kind {
        match &self.target {
            Target::Base => Kind::Other,
            Target::Content(_, wanted) => wanted.kind(),
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

type Refusal = (ErrorCode, String);

/// What an error says of a URL: quoted, escaped, and not much of it.
fn clip(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

/// Whose a request is.
struct Address<'a, 'd> {
    upstream: &'d UpstreamName,
    /// `ns` as it was given.
    namespace: Option<String>,
    /// What stands behind `/v2/` and an upstream's name.
    rest: &'a str,
}

fn address<'a, 'd>(
    prefix: Option<&str>,
    rest: &'a str,
    parameters: Parameters<'_>,
    host: Option<&str>,
    directory: &'d Directory,
) -> Result<Address<'a, 'd>, Refusal> {
    let find = |name: &str| {
        let add = "is not an upstream of this mirror; add it to the [upstream] tables of its configuration";
        directory.find(name).ok_or_else(|| (ErrorCode::NameUnknown, format!("{} {add}", clip(name))))
    };
    let namespace = parameters.namespace()?;
    let by_ns = namespace.as_deref().map(find).transpose()?;
    let before = prefix.map(find).transpose()?;
    let mut after = if prefix.is_none() { first_component(rest, directory) } else { None };
    if let (Some(ns), Some(path)) = (by_ns, before.or(after.map(|(upstream, _)| upstream)))
        && ns != path
    {
        // Registries other than Docker Hub have repositories whose first component is a host: Harbor names its caches so.
        if before.is_some() || ns.is_docker_hub() {
            return Err((ErrorCode::NameInvalid, format!("ns says {ns}, the path says {path}")));
        }
        after = None;
    }
    let (after, rest) = after.map_or((None, rest), |(upstream, rest)| (Some(upstream), rest));
    let upstream = by_ns.or(before).or(after).or_else(|| directory.by_host(host?)).unwrap_or(&directory.default);
    Ok(Address { upstream, namespace: namespace.map(Cow::into_owned), rest })
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

/// A path with its escapes decoded once. An encoded slash stays encoded: it separates nothing, and as a `%` is in no grammar it
/// is refused as part of whatever it stands in. So is everything else that changes the shape of a path.
fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte != b'/' => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            Some(_) | None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// `docker.io/library/alpine/…`: a first component that names an upstream.
fn first_component<'a, 'd>(rest: &'a str, directory: &'d Directory) -> Option<(&'d UpstreamName, &'a str)> {
    let (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
    is_host(first).then(|| directory.find(first)).flatten().map(|upstream| (upstream, rest))
}

/// A path taken apart, and nothing checked: the last two segments tell what is asked for. What stands before them is the
/// repository, which may itself have components named `manifests` or `blobs`.
enum Endpoint<'a> {
    Base,
    /// Repository and reference.
    Manifest(&'a str, &'a str),
    /// Repository and digest.
    Blob(&'a str, &'a str),
    /// Repository and digest.
    Referrers(&'a str, &'a str),
    Tags(&'a str),
    Catalog,
    /// All of the path.
    Unknown(&'a str),
}

impl<'a> Endpoint<'a> {
    fn of(rest: &'a str) -> Self {
        let mut parts = rest.rsplitn(3, '/');
        let (last, section, name) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
        match (section, last) {
            (None, "") => Self::Base,
            (None, "_catalog") => Self::Catalog,
            (Some("manifests"), reference) => Self::Manifest(name, reference),
            (Some("blobs"), digest) => Self::Blob(name, digest),
            (Some("referrers"), digest) => Self::Referrers(name, digest),
            (Some("tags"), "list") => Self::Tags(name),
            _ => Self::Unknown(rest),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Manifest(..) => Kind::Manifest,
            Self::Blob(..) => Kind::Blob,
            Self::Referrers(..) => Kind::Referrers,
            Self::Tags(_) => Kind::Tags,
            Self::Base | Self::Catalog | Self::Unknown(_) => Kind::Other,
        }
    }

    /// Checks every part of what is asked, the repository first.
    fn target(self, upstream: &UpstreamName, parameters: Parameters<'_>) -> Result<Target, Refusal> {
        let repository =
            |name: &str| upstream.repository(name).map_err(|error| (ErrorCode::NameInvalid, format!("{}: {error}", clip(name))));
        let digest =
            |text: &str| text.parse::<Digest>().map_err(|error| (ErrorCode::DigestInvalid, format!("{}: {error}", clip(text))));
        // A tag that cannot exist does not exist.
        let tag =
            |text: &str| text.parse::<Tag>().map_err(|error| (ErrorCode::ManifestUnknown, format!("{}: {error}", clip(text))));
        let (repository, wanted) = match self {
            Self::Base => return Ok(Target::Base),
            Self::Manifest(name, text) if text.contains(':') => {
                (repository(name)?, Wanted::Manifest(Reference::Digest(digest(text)?)))
            }
            Self::Manifest(name, text) => (repository(name)?, Wanted::Manifest(Reference::Tag(tag(text)?))),
            Self::Blob(name, text) => (repository(name)?, Wanted::Blob(digest(text)?)),
            Self::Referrers(name, text) => (repository(name)?, Wanted::Referrers(digest(text)?, parameters.referrers())),
            Self::Tags(name) => (repository(name)?, Wanted::Tags(parameters.page()?)),
            Self::Catalog => return Err((ErrorCode::Unsupported, "a mirror does not list repositories".to_owned())),
            Self::Unknown(rest) => {
                let message = format!("{} behind /v2/ names no manifest, blob, tag list or referrers", clip(rest));
                return Err((ErrorCode::NameUnknown, message));
            }
        };
        Ok(Target::Content(repository, wanted))
    }
}

#[cfg(test)]
mod tests;

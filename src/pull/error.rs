//! Why a pull gets no content, and what the client is told: the one place where errors become answers.
//!
//! Statuses by protocol notes A10: what the upstream denies with authority is a 404 or 403, what may succeed later a
//! 503 with Retry-After, so that clients go on to their next source at once. An upstream's challenge is never relayed;
//! a 401 is the mirror's own, where it wants the client's login.

use std::fmt;
use std::time::Duration;

use super::cache_status::Stale;
use super::what::What;
use crate::config::BlobOutage;
use crate::fill::FillError;
use crate::metrics::{Kind, Outcome};
use crate::oci::{Digest, ErrorCode, Scope, UpstreamName};
use crate::policy::TooManyFills;
use crate::upstream::{Class, Reason, UpstreamError};

/// How long a client should wait where the upstream did not say.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The shortest and the longest time that a client is told to wait: podman does wait as long as it is told.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a pull failed before the status line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The upstream says that it is not there.
    #[error("{scope} has no {what}{said}")]
    NotFound {
        /// Where it was looked for.
        scope: Scope,
        /// What.
        what: What,
        /// When the upstream said so.
        said: Said,
    },
    /// The upstream was taken out of the configuration while this request was under way.
    #[error("this mirror has no upstream {upstream} any more: it was taken out of the configuration a moment ago", upstream = .0.upstream)]
    Removed(Scope),
    /// The mirror is offline, and it is not cached.
    #[error("{what} of {scope} is not in the cache, and the mirror is offline for {upstream} (cache.offline, upstream.*.offline or /api/v1/offline){}", fetch_it(.scope, .what), upstream = .scope.upstream)]
    Offline {
        /// Where it would be looked for.
        scope: Scope,
        /// What.
        what: What,
    },
    /// The upstream's content is for those who sign in with a login of their own, and this request has none.
    #[error("{upstream} is read through this mirror with a login of your own for it: sign in to the mirror with that", upstream = .scope.upstream)]
    LoginNeeded {
        /// What was asked for.
        scope: Scope,
    },
    /// Whether this login may read the repository is not known, and cannot be asked.
    #[error("whether this login may read {scope} cannot be asked now: {cause}")]
    Unverified {
        /// What was asked for.
        scope: Scope,
        /// Why not.
        cause: Box<PullError>,
    },
    /// So many logins from this address were refused that no further one is tried for a while.
    #[error("{upstream} has refused too many logins from this address; try again in {} s", .wait.as_secs().max(1))]
    TooManyRefusals {
        /// Which one refused them.
        upstream: UpstreamName,
        /// Until the next one is tried.
        wait: Duration,
    },
    /// The upstream failed.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The fill failed before it began to stream.
    #[error(transparent)]
    Fill(FillError),
    /// What the upstream sent is not what was asked for.
    #[error("upstream {upstream} sent something else for {what}: {problem}", upstream = .scope.upstream)]
    Invalid {
        /// From where.
        scope: Scope,
        /// What.
        what: What,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// It is what was asked for, by its digest, and the mirror passes on no such thing.
    #[error("{scope} has {what}, which this mirror does not take: {problem}")]
    Refused {
        /// From where.
        scope: Scope,
        /// What.
        what: What,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// It can only be passed through, and this client would not see it break off.
    #[error(
        "nobody tells the length of {digest} of {scope}, which the cache cannot take, and HTTP/1.0 has no other way to show that an answer is whole: ask by HTTP/1.1 (nginx: proxy_http_version 1.1)"
    )]
    NoLength {
        /// Where it is from.
        scope: Scope,
        /// Of what.
        digest: Digest,
    },
    /// The client has begun as many downloads as it may.
    #[error(transparent)]
    TooManyFills(#[from] TooManyFills),
    /// An outage, told in other words because the operator wants it so (`blob_outage_status`).
    #[error("{0}")]
    Instead(Box<PullError>, ErrorCode),
    /// A task of the mirror panicked. Logged where it happened.
    #[error("the mirror failed at this request")]
    Internal,
}

/// When an upstream said that it has not got something.
#[derive(Clone, Debug)]
pub enum Said {
    /// When it was asked for this request.
    Now,
    /// A moment ago; it was not asked again.
    Before,
    /// When it was last asked. Now it cannot be.
    Stale(Box<Stale>),
}

impl fmt::Display for Said {
    /// What is to be added to the fact itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now | Self::Before => Ok(()),
            Self::Stale(stale) => write!(f, ", as its upstream said when it was last asked ({})", stale.why),
        }
    }
}

/// The command that would fetch it, where it can be named.
fn fetch_it(scope: &Scope, what: &What) -> String {
    let image = match what {
        What::Tag(tag) => scope.image(tag.clone()),
        What::Manifest(digest) => scope.image(*digest),
        What::Blob(_) | What::Tags | What::Referrers(_) => return String::new(),
    };
    format!("; fetch it where there is a connection with: roadstead prefetch {image}")
}

impl From<FillError> for PullError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Upstream(error) => Self::Upstream(error),
            error => Self::Fill(error),
        }
    }
}

impl PullError {
    /// The upstream has no such thing.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Upstream(error) => error.class() == Class::NotFound,
            _ => false,
        }
    }

    /// The upstream does not let this caller, or the mirror, have it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Upstream(error) | Self::Fill(FillError::Upstream(error)) if error.class() == Class::Denied)
    }

    /// It says nothing about the content: a cached tag may stand in.
    pub fn is_outage(&self) -> bool {
        match self {
            _ if self.is_refused() => false,
            Self::Upstream(error) => !matches!(error.class(), Class::NotFound | Class::Denied),
            Self::Instead(error, _) => error.is_outage(),
            Self::Invalid { .. } | Self::Internal | Self::Fill(_) => true,
            Self::NotFound { .. }
            | Self::Offline { .. }
            | Self::Refused { .. }
            | Self::NoLength { .. }
            | Self::TooManyFills(_)
            | Self::Removed(_) => false,
            // Nothing that is cached stands in for permission.
            Self::LoginNeeded { .. } | Self::Unverified { .. } | Self::TooManyRefusals { .. } => false,
        }
    }

    /// Nobody has said anything about the content: an outage, or the mirror is offline.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Offline { .. }) || self.is_outage()
    }

    /// There is an answer, and it is wrong or cannot be used.
    pub fn is_invalid(&self) -> bool {
        match self {
            Self::Upstream(error) => error.class() == Class::Invalid,
            Self::Invalid { .. } => true,
            _ => self.is_refused(),
        }
    }

    /// There is an answer, it is what was asked for, and the mirror does not take it: nothing older stands in.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Upstream(error) => error.class() == Class::Refused,
            Self::Refused { .. } => true,
            _ => false,
        }
    }

    /// The same about something of which nobody has named the digest before: whoever sent it may be anybody.
    pub fn unnamed(self) -> Self {
        match self {
            Self::Refused { scope, what, problem } => Self::Invalid { scope, what, problem },
            other => other,
        }
    }

    /// In a word, for metrics and `Cache-Status`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Offline { .. } => "offline",
            Self::Removed(_) => "removed",
            Self::LoginNeeded { .. } => "login_needed",
            Self::Unverified { .. } => "unverified",
            Self::TooManyRefusals { .. } => "too_many_refusals",
            Self::Upstream(error) => error.label(),
            Self::Fill(error) => error.reason(),
            Self::Invalid { .. } => "invalid",
            Self::Refused { .. } => "refused",
            Self::NoLength { .. } => "no_length",
            Self::TooManyFills(_) => "too_many_fills",
            Self::Instead(error, _) => error.label(),
            Self::Internal => "internal",
        }
    }

    /// For how long a "not found" may be remembered: as the operator says, and never longer than the upstream.
    pub fn believe(&self, negative: Duration) -> Duration {
        match self {
            Self::Upstream(error) => error.believe().map_or(negative, |own| own.min(negative)),
            _ => negative,
        }
    }

    /// The same, told to a client in the way that the operator has chosen for blobs.
    pub fn instead(self, choice: BlobOutage) -> Self {
        let code = match choice {
            BlobOutage::Unavailable => return self,
            BlobOutage::TooManyRequests => ErrorCode::TooManyRequests,
            BlobOutage::NotFound => ErrorCode::BlobUnknown,
        };
        // A full disk or a wrong digest is not the upstream's absence.
        match self {
            Self::Upstream(_) if self.is_outage() && self.outcome() != Outcome::Offline => Self::Instead(Box::new(self), code),
            other => other,
        }
    }

    /// How it is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotFound { said: Said::Stale(_), .. } => Outcome::Stale,
            Self::NotFound { .. } => Outcome::Negative,
            Self::Offline { .. } => Outcome::Offline,
            Self::Removed(_) => Outcome::Invalid,
            Self::LoginNeeded { .. } | Self::TooManyRefusals { .. } | Self::TooManyFills(_) => Outcome::Denied,
            Self::Unverified { cause, .. } => cause.outcome(),
            Self::Upstream(error) if matches!(error.reason(), Reason::NoPage(_) | Reason::NoList(_)) => Outcome::Invalid,
            Self::Upstream(error) => match error.class() {
                Class::NotFound => Outcome::Negative,
                Class::Denied => Outcome::Denied,
                Class::Offline => Outcome::Offline,
                _ => Outcome::Error,
            },
            Self::Instead(error, _) => error.outcome(),
            Self::Fill(_) | Self::Invalid { .. } | Self::Refused { .. } | Self::NoLength { .. } | Self::Internal => {
                Outcome::Error
            }
        }
    }

    /// What the client is told, for a request of `kind`.
    pub fn code(&self, kind: Kind) -> ErrorCode {
        let unknown = match kind {
            Kind::Blob => ErrorCode::BlobUnknown,
            Kind::Tags => ErrorCode::NameUnknown,
            _ => ErrorCode::ManifestUnknown,
        };
        match self {
            // An empty list would be a lie, and there is no 404 for referrers.
            Self::Offline { .. } if kind == Kind::Referrers => ErrorCode::Unavailable,
            Self::NotFound { .. } | Self::Offline { .. } => unknown,
            Self::Removed(_) => ErrorCode::NameUnknown,
            Self::LoginNeeded { .. } => ErrorCode::Unauthorized,
            Self::Upstream(error) if error.refuses_login() => ErrorCode::Unauthorized,
            Self::Unverified { .. } => ErrorCode::Unavailable,
            Self::TooManyRefusals { .. } => ErrorCode::TooManyRequests,
            Self::Upstream(error) if matches!(error.reason(), Reason::NoPage(_)) => ErrorCode::PaginationNumberInvalid,
            Self::Upstream(error) if matches!(error.reason(), Reason::NoList(_)) => ErrorCode::Unsupported,
            Self::Upstream(error) => match error.class() {
                Class::NotFound => unknown,
                Class::Offline if kind != Kind::Referrers => unknown,
                Class::Denied => ErrorCode::Denied,
                // dockerd sleeps 50 s over a 503 of a blob, and falls back at once over this.
                Class::RateLimited { .. } if kind == Kind::Blob => ErrorCode::TooManyRequests,
                _ => ErrorCode::Unavailable,
            },
            Self::TooManyFills(_) => ErrorCode::TooManyRequests,
            Self::Instead(_, code) => *code,
            Self::Fill(_) | Self::Invalid { .. } | Self::Refused { .. } | Self::NoLength { .. } => ErrorCode::Unavailable,
            Self::Internal => ErrorCode::Unknown,
        }
    }

    /// When the client may try again, for answers that say so.
    pub fn retry_after(&self, kind: Kind) -> Option<Duration> {
        let waits = matches!(self.code(kind), ErrorCode::Unavailable | ErrorCode::TooManyRequests);
        let told = match self {
            Self::Upstream(error) => error.retry_in().map(|wait| wait.clamp(WAIT.0, WAIT.1)),
            Self::Instead(error, _) => error.retry_after(kind),
            Self::Unverified { cause, .. } => cause.retry_after(kind),
            Self::TooManyRefusals { wait, .. } => Some((*wait).clamp(WAIT.0, WAIT.1)),
            _ => None,
        };
        waits.then(|| told.unwrap_or(RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn offline_says_how_to_fetch_what_can_be_fetched() {
        let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "team/a".parse().unwrap() };
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (what, begins, fetched) in [
            (
                What::Tag("v1".parse().unwrap()),
                "tag v1 of docker.io/team/a is".to_owned(),
                Some("docker.io/team/a:v1".to_owned()),
            ),
            (What::Manifest(digest), format!("manifest {digest} of"), Some(format!("docker.io/team/a@{digest}"))),
            (What::Blob(digest), format!("blob {digest} of"), None),
            (What::Tags, "the list of tags of docker.io/team/a".to_owned(), None),
            (What::Referrers(digest), format!("the list of referrers of {digest} of"), None),
        ] {
            let text = PullError::Offline { scope: scope.clone(), what }.to_string();
            assert!(text.starts_with(&begins), "{text}");
            assert_eq!(text.split_once("roadstead prefetch ").map(|(_, reference)| reference.to_owned()), fetched, "{text}");
        }
    }
}

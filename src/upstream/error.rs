//! What can go wrong between the mirror and an upstream, and what follows from it.
//!
//! One error for the layer: it knows where it comes from (upstream and host), of which [`Class`] it is and whether
//! asking again makes sense. Its text never holds a secret: no header, no query string, no body of an answer (I9).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::accounts::{Account, EndedAt};
use super::breaker::Fault;
use super::credentials::CredentialError;
use super::flow::Stall;
use super::holdback::BRIEF;
use super::redirect::RedirectError;
use crate::oci::UpstreamName;

/// A failed request to an upstream. Cheap to clone: all who wait for one request share it.
#[derive(Clone, Debug)]
pub struct UpstreamError(Arc<Failure>, EndedAt);

#[derive(Debug)]
struct Failure {
    upstream: UpstreamName,
    host: String,
    reason: Reason,
}

/// What follows from an error, which is what callers decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The upstream says, with authority, that it does not have this.
    NotFound,
    /// The upstream does not let the mirror's account (or anonymous callers) read this.
    Denied,
    /// The operator does not want it to be asked.
    Offline,
    /// Too many requests; not before `retry_after`, where the upstream said it (a minute at most).
    RateLimited {
        /// The upstream's wish.
        retry_after: Option<Duration>,
    },
    /// It could not be asked: no connection, no answer in time, a server error, credentials that are not good.
    Unavailable,
    /// A body ended early, was reset or stalled. What arrived is good and can be continued by Range.
    Broken,
    /// The answer breaks the protocol or the rules of this mirror; the same question will get the same answer. It may be
    /// anybody's who stands between.
    Invalid,
    /// It is what was asked for, by all that can be known, and this mirror does not take it. Nothing older is an answer then.
    Refused,
}

/// Why a request to an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// 404 or 410.
    #[error("it does not have this")]
    NotFound {
        /// For how long it wants that believed at most (`Cache-Control`).
        believe: Option<Duration>,
    },
    /// 401, 403 or 451 although everything that could be presented was.
    #[error("it refuses access ({0}): this does not exist there, or the account may not read it")]
    Denied(StatusCode),
    /// A challenge, and nothing to answer it with.
    #[error("it asks for credentials and the mirror has none for it: set `credentials` of this upstream")]
    CredentialsMissing,
    /// 429.
    #[error("it has had too many requests from here (429)")]
    RateLimited {
        /// What `Retry-After`, or the body, asks for.
        retry_after: Option<Duration>,
    },
    /// Not asked, because of an earlier 429.
    #[error("it has had too many requests from here (429); it is asked again in {}", shown(*.wait))]
    HeldBack {
        /// Until the next attempt.
        wait: Duration,
        /// Then all may ask that have waited for it.
        brief: bool,
    },
    /// Not asked, because it failed before.
    #[error("it is not asked for this, because that failed a moment ago ({why}); tried again in {}", shown(*.retry_in))]
    Resting {
        /// The last failure.
        why: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// Not asked, because too many requests wait already, or for too long.
    #[error("too many requests wait for it (max_connections, max_queue)")]
    Busy,
    /// Not asked, because that is switched off.
    #[error("the mirror is offline for it (cache.offline, upstream.*.offline or /api/v1/offline)")]
    Offline,
    /// Name resolution, TCP, a proxy or TLS failed.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No head of an answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The connection ended before an answer began.
    #[error("the connection ended without an answer: {0}")]
    NoAnswer(String),
    /// 5xx or 408.
    #[error("it cannot answer now ({0})")]
    Failing(StatusCode),
    /// The upstream, or its token service, did not take the mirror's credentials.
    #[error("it did not accept the mirror's credentials ({0}): check `credentials` of this upstream")]
    CredentialsRefused(StatusCode),
    /// The upstream, or its token service, did not take the login of the caller who is asked for.
    #[error("it did not accept the caller's login ({0})")]
    LoginRefused(StatusCode),
    /// The credentials could not be read.
    #[error("no credentials for it: {0}")]
    Credentials(#[from] CredentialError),
    /// The body ended before its announced length, or the connection was reset.
    #[error("its answer broke off: {0}")]
    Broken(String),
    /// No byte of a body for too long, or next to none.
    #[error("its answer stalled: {0}")]
    Stalled(Stall),
    /// A redirect that is not followed.
    #[error("it sent a redirect that is not followed: {0}")]
    Redirect(#[from] RedirectError),
    /// A redirect or token realm that leads where it must not.
    #[error("it leads to {0}, a private or link-local address, which is not followed")]
    Forbidden(String),
    /// An answer that breaks the protocol.
    #[error("its answer is not valid: {0}")]
    Invalid(String),
    /// What was asked for, and more than the mirror takes, or nothing that it can pass on.
    #[error("this mirror does not take what it sent: {0}")]
    Refused(String),
    /// 400 to a page of a list.
    #[error("it does not give this page of the list ({0}): ask for fewer entries at once (n), or from the beginning")]
    NoPage(StatusCode),
    /// 405 or 501 to a list of tags.
    #[error("it does not list tags ({0})")]
    NoList(StatusCode),
    /// A status that no registry should give to this request.
    #[error("it gave an answer that makes no sense here ({0})")]
    Status(StatusCode),
}

impl UpstreamError {
    pub(super) fn new(upstream: &UpstreamName, host: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self(
            Arc::new(Failure { upstream: upstream.clone(), host: host.into(), reason: reason.into() }),
            EndedAt::Home(Account::Anonymous),
        )
    }

    /// The same, of a request that a redirect has led away from the upstream: which has answered.
    pub(super) fn elsewhere(self) -> Self {
        Self(self.0, EndedAt::Elsewhere)
    }

    /// The same, of a request to the upstream, or to its token service, that was made as `account`.
    pub(super) fn made_as(self, account: Account) -> Self {
        Self(self.0, EndedAt::Home(account))
    }

    /// Where it failed, and who asked.
    pub(super) fn ended_at(&self) -> EndedAt {
        self.1
    }

    /// Whether it failed where a redirect led, so that it says nothing against the upstream.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.1 == EndedAt::Elsewhere
    }

    /// What follows from it.
    pub fn class(&self) -> Class {
        match &self.0.reason {
            Reason::NotFound { .. } => Class::NotFound,
            Reason::Offline => Class::Offline,
            Reason::HeldBack { wait, .. } => Class::RateLimited { retry_after: Some(*wait) },
            Reason::Denied(_) | Reason::CredentialsMissing | Reason::LoginRefused(_) => Class::Denied,
            Reason::RateLimited { retry_after } => Class::RateLimited { retry_after: *retry_after },
            Reason::Connect(_)
            | Reason::Timeout(_)
            | Reason::NoAnswer(_)
            | Reason::Failing(_)
            | Reason::Resting { .. }
            | Reason::Busy
            | Reason::CredentialsRefused(_)
            | Reason::Credentials(_) => Class::Unavailable,
            Reason::Broken(_) | Reason::Stalled(_) => Class::Broken,
            Reason::Refused(_) => Class::Refused,
            Reason::Redirect(_)
            | Reason::Forbidden(_)
            | Reason::Invalid(_)
            | Reason::NoPage(_)
            | Reason::NoList(_)
            | Reason::Status(_) => Class::Invalid,
        }
    }

    /// Whether the same request may succeed later. When to try is the caller's decision.
    pub fn retry(&self) -> bool {
        match &self.0.reason {
            // Nothing changes these but an operator.
            Reason::CredentialsRefused(_) | Reason::Credentials(_) => false,
            _ => matches!(self.class(), Class::RateLimited { .. } | Class::Unavailable | Class::Broken),
        }
    }

    /// The reason, for whoever needs more than the class.
    pub fn reason(&self) -> &Reason {
        &self.0.reason
    }

    /// The host that failed: the upstream's, its token service's or that of a redirect's target.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// In a word, for metrics and `Cache-Status`.
    pub fn label(&self) -> &'static str {
        match &self.0.reason {
            Reason::NotFound { .. } => "not_found",
            Reason::Denied(_) | Reason::CredentialsMissing | Reason::LoginRefused(_) => "denied",
            Reason::RateLimited { .. } => "rate_limited",
            Reason::HeldBack { .. } => "held_back",
            Reason::Resting { .. } => "breaker",
            Reason::Busy => "busy",
            Reason::Offline => "offline",
            Reason::Connect(_) => "connect",
            Reason::Timeout(_) => "timeout",
            Reason::NoAnswer(_) => "no_answer",
            Reason::Failing(_) => "failing",
            Reason::CredentialsRefused(_) | Reason::Credentials(_) => "credentials",
            Reason::Broken(_) | Reason::Stalled(_) => "broken",
            Reason::Redirect(_)
            | Reason::Forbidden(_)
            | Reason::Invalid(_)
            | Reason::Refused(_)
            | Reason::NoPage(_)
            | Reason::NoList(_)
            | Reason::Status(_) => "invalid",
        }
    }

    /// When it makes sense to ask again, where that is known.
    pub fn retry_in(&self) -> Option<Duration> {
        match &self.0.reason {
            Reason::HeldBack { wait, .. } | Reason::Resting { retry_in: wait, .. } => Some(*wait),
            Reason::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }

    /// For how long a "not found" may be believed, if the upstream said so.
    pub fn believe(&self) -> Option<Duration> {
        match &self.0.reason {
            Reason::NotFound { believe } => *believe,
            _ => None,
        }
    }

    /// It was the caller's own login that was not accepted.
    pub fn refuses_login(&self) -> bool {
        matches!(self.0.reason, Reason::LoginRefused(_))
    }

    /// No packet went out for it.
    pub fn was_not_asked(&self) -> bool {
        matches!(self.0.reason, Reason::HeldBack { .. } | Reason::Resting { .. } | Reason::Busy | Reason::Offline)
    }

    /// What it says about the health of who was asked, the address or whatever that led to: `None` where it answered as it
    /// should, or was not asked.
    pub(super) fn fault(&self) -> Option<Fault> {
        match &self.0.reason {
            Reason::Connect(_) | Reason::Timeout(_) | Reason::NoAnswer(_) => Some(Fault::Unreachable),
            Reason::Failing(_) => Some(Fault::Failing),
            Reason::Broken(_) | Reason::Stalled(_) => Some(Fault::Broken),
            _ => None,
        }
    }

    /// Whether asking again within a second may help.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.0.reason, Reason::Connect(_) | Reason::NoAnswer(_) | Reason::Failing(_))
    }

    /// When to ask again after a 429 whose silence is so brief that nobody need be told of it.
    pub(super) fn moment(&self) -> Option<Duration> {
        match &self.0.reason {
            Reason::RateLimited { retry_after } => retry_after.filter(|wait| *wait <= BRIEF),
            Reason::HeldBack { wait, brief } => brief.then_some(*wait),
            _ => None,
        }
    }

    /// Of several addresses' errors the least decisive one counts: an address that is down may have what another one says
    /// is not found.
    pub(super) fn or(self, other: Self) -> Self {
        let doubt = |error: &Self| match error.class() {
            Class::NotFound => 0,
            Class::Denied => 1,
            Class::RateLimited { .. } => 2,
            Class::Offline | Class::Unavailable | Class::Broken | Class::Invalid | Class::Refused => 3,
        };
        if doubt(&other) > doubt(&self) { other } else { self }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream {} ({}): {}", self.0.upstream, self.0.host, self.0.reason)
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.reason.source()
    }
}

/// A time as people read it: no nanoseconds.
fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(time.as_millis().div_ceil(100) as u64 * 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(reason: Reason) -> UpstreamError {
        UpstreamError::new(&"docker.io".parse().unwrap(), "registry-1.docker.io", reason)
    }

    #[test]
    fn it_names_upstream_host_and_what_to_do() {
        assert_eq!(
            error(Reason::CredentialsRefused(StatusCode::UNAUTHORIZED)).to_string(),
            "upstream docker.io (registry-1.docker.io): it did not accept the mirror's credentials (401 Unauthorized): \
             check `credentials` of this upstream"
        );
        assert!(error(Reason::Timeout(Duration::from_secs(15))).to_string().ends_with("no answer within 15s"));
    }

    #[test]
    fn retry_follows_from_the_reason() {
        assert!(error(Reason::Broken(String::new())).retry());
        assert!(error(Reason::Failing(StatusCode::BAD_GATEWAY)).retry());
        assert!(error(Reason::RateLimited { retry_after: None }).retry());
        assert!(!error(Reason::CredentialsRefused(StatusCode::UNAUTHORIZED)).retry());
        assert!(!error(Reason::NotFound { believe: None }).retry());
        assert!(!error(Reason::Invalid(String::new())).retry());
    }

    #[test]
    fn not_found_needs_all_addresses() {
        let down = || error(Reason::Connect(String::new()));
        assert_eq!(
            error(Reason::NotFound { believe: None }).or(error(Reason::NotFound { believe: None })).class(),
            Class::NotFound
        );
        assert_eq!(error(Reason::NotFound { believe: None }).or(down()).class(), Class::Unavailable);
        assert_eq!(down().or(error(Reason::NotFound { believe: None })).class(), Class::Unavailable);
    }
}

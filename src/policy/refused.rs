//! What the rules say instead of yes. Each becomes a status in `server`, and a label of a metric.

use std::time::Duration;

use crate::oci::Scope;

/// A client has begun as many downloads as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("you have begun {limit} downloads that still run, and may not begin another (access.max_fills_per_client)")]
pub struct TooManyFills {
    pub(super) limit: usize,
}

/// The rules say no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 401: somebody who signs in might.
    #[error("{0}")]
    SignIn(Why),
    /// 403: whoever asks, for this repository.
    #[error("{0} may not be pulled through this mirror: see allow and deny under [upstream.\"{upstream}\"]", upstream = .0.upstream)]
    Denied(Scope),
    /// 403: this caller.
    #[error("{who} may not pull {scope} through this mirror: see [[access.rule]]")]
    Forbidden {
        /// The caller, as it knows itself.
        who: String,
        /// What was asked for.
        scope: Scope,
    },
    /// 403: this caller, whatever it asks for.
    #[error("{0} may not pull anything through this mirror: see [[access.rule]]")]
    Nothing(String),
    /// 429
    #[error("{why}; try again in {} s", .wait.as_secs().max(1))]
    TooMany {
        /// For how long there is no use in trying.
        wait: Duration,
        /// Of what.
        why: &'static str,
    },
}

/// Why somebody has to sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nobody did.
    #[error("this needs a user of this mirror: sign in")]
    Needed,
    /// User or password is wrong. Which, nobody is told.
    #[error("the mirror has no such user with this password")]
    WrongPassword,
    /// A token that is over, was changed, or is not of this mirror.
    #[error("the token is no longer good, or not of this mirror; get another one")]
    Token,
}

impl Refused {
    /// The label of `roadstead_access_refusals_total`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SignIn(Why::Needed) => "sign_in",
            Self::SignIn(Why::WrongPassword) => "wrong_password",
            Self::SignIn(Why::Token) => "bad_token",
            Self::Denied(_) | Self::Forbidden { .. } | Self::Nothing(_) => "denied",
            Self::TooMany { .. } => "too_many",
        }
    }
}

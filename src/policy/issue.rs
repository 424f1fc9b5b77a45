//! `/token`: whom the mirror gives a token of its own, and how a client is told that there are some.
//!
//! Decides who gets one; what it looks like is [`super::token`]'s, and how it is asked for `server`'s.

use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::token::{self, Claims};
use super::{Login, Peer, Policy, Refused, Why, rules};
use crate::oci::{Scope, UpstreamName};

/// Where tokens are to be had.
pub const TOKEN_PATH: &str = "/token";

/// What the mirror calls itself in challenges.
const SERVICE: &str = "roadstead";

/// What `/token` gives.
#[derive(Debug)]
pub struct Issued {
    /// Whose it is.
    pub identity: Identity,
    /// Opaque to whoever gets it.
    pub token: String,
    /// For how long it is good.
    pub lifetime: Duration,
}

/// What is wrong with a token (RFC 6750 § 3.1). A client that is told knows that it need not show it again: containerd, which
/// sends a request six times otherwise, says "pull access denied" at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is over, was changed, or is another mirror's.
    Invalid,
    /// Its owner may not have this.
    Insufficient,
}

impl Policy {
    /// A token for whoever signs in by `login`; without one, for a caller without a name, if anything is left to them.
    /// `upstream`: what it is wanted for, where that is clear.
    pub async fn issue(&self, peer: &Peer, login: Option<Login>, upstream: Option<&UpstreamName>) -> Result<Issued, Refused> {
        self.issued(peer, login, upstream).await.inspect_err(|refused| self.count(refused))
    }

    async fn issued(&self, peer: &Peer, login: Option<Login>, upstream: Option<&UpstreamName>) -> Result<Issued, Refused> {
        let rules = self.rules.load_full();
        let mut identity = Identity::of(peer);
        self.pace(&rules, || identity.key())?;
        if let Some(login) = login {
            if rules.access.rules.is_empty() {
                identity.login = Some(login).filter(|_| upstream.is_some_and(|upstream| rules.takes_logins(upstream)));
            } else {
                self.sign_in(&rules, &mut identity, peer, login, upstream).await?;
            }
        }
        let stranger = identity.user.is_none() && identity.login.is_none();
        if stranger && !rules::leaves_something(&rules.access, &identity) {
            return Err(Refused::SignIn(Why::Needed));
        }
        let hash = |user: &Arc<str>| rules.access.htpasswd.as_ref().and_then(|file| file.hash(user));
        let user = identity.user.as_ref().and_then(|user| Some((user.to_string(), token::mark(hash(user)?))));
        let lifetime = rules.access.token_lifetime;
        let claims = Claims { user, login: identity.login.clone(), expires: self.clock.wall().after(lifetime) };
        let why = "the system gives no random numbers";
        let wait = Duration::from_secs(1);
        let token = rules.tokens.seal(&claims).map_err(|_| Refused::TooMany { wait, why })?;
        Ok(Issued { identity, token, lifetime })
    }

    /// The challenge of a 401 (RFC 6750; distribution's token specification). `host`: as the client called the mirror.
    /// `scope`: what it asked for. `error`: what is wrong with the token that it showed. `None` if the mirror cannot say where
    /// tokens are.
    pub fn challenge(&self, peer: &Peer, host: Option<&str>, scope: Option<&Scope>, error: Option<TokenError>) -> Option<String> {
        let rules = self.rules.load();
        let realm = match &rules.access.token_url {
            Some(url) => url.to_string(),
            None => {
                // It goes back to who sent it, and must not end the quoted text.
                let host = host?.parse::<http::uri::Authority>().ok().filter(|host| !host.as_str().contains(['@', '"', '\\']))?;
                format!("{}://{host}{TOKEN_PATH}", peer.scheme())
            }
        };
        let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"");
        if let Some(scope) = scope {
            challenge.push_str(&format!(",scope=\"repository:{scope}:pull\""));
        }
        match error {
            None => {}
            Some(TokenError::Invalid) => challenge.push_str(",error=\"invalid_token\""),
            Some(TokenError::Insufficient) => challenge.push_str(",error=\"insufficient_scope\""),
        }
        Some(challenge)
    }
}

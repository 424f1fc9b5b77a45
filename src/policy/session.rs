//! What the rules say to one request: who sends it, and whether they may have what they ask for.
//!
//! Looks at the rules once. If each question had a look of its own, a reload between two of them could answer a right
//! password, which rules that were open had no reason to check, as if nobody had signed in.

use std::sync::Arc;

use arc_swap::Guard;

use super::identity::Key;
use super::limits::FillLimit;
use super::{Authorization, Caller, Identity, Permit, Policy, Refused, Rules, Why, rules, token};
use crate::oci::{Repository, Scope, UpstreamName};

/// A request and the rules that were in force when it began. Made by [`Policy::look`]; ends with [`Self::greet`] or
/// [`Self::admit`].
#[derive(Debug)]
pub struct Session<'p> {
    policy: &'p Policy,
    rules: Guard<Arc<Rules>>,
}

impl Policy {
    /// Begins a request: whatever is asked of the session is answered by the rules that are in force now.
    pub fn look(&self) -> Session<'_> {
        Session { policy: self, rules: self.rules.load() }
    }
}

impl Session<'_> {
    /// Who asks. Counts the request against the caller's limits. `upstream`: which one is asked about, where that is clear.
    pub async fn identify(&mut self, caller: &Caller<'_>, upstream: Option<&UpstreamName>) -> Result<Identity, Refused> {
        let identity = if self.rules.access.rules.is_empty() {
            // Whoever asks may: nobody has to be anybody, and a login can only be one for the upstream.
            Ok(self.unchecked(caller))
        } else {
            // There are few places for what is looked at, and these rules are held across a wait.
            self.rules = Guard::from_inner(Arc::clone(&self.rules));
            // Boxed: whoever needs nothing of it does not carry it about.
            Box::pin(self.checked(caller, upstream)).await
        };
        let identity = match identity {
            Ok(identity) => self.policy.pace(&self.rules, || identity.key()).map(|()| identity),
            // Not anybody, so the address counts.
            Err(refused) => Err(self.policy.pace(&self.rules, || Key::place(caller.peer)).err().unwrap_or(refused)),
        };
        identity.inspect_err(|refused| self.policy.count(refused))
    }

    fn unchecked(&self, caller: &Caller<'_>) -> Identity {
        let mut identity = Identity::of(caller.peer);
        match Authorization::of(caller.headers) {
            Authorization::Basic(login) => identity.login = Some(login),
            Authorization::Bearer(token) => {
                if let Some(claims) = self.rules.tokens.open(token, self.policy.clock.wall()) {
                    (identity.token, identity.login) = (true, claims.login);
                }
            }
            Authorization::None => {}
        }
        identity
    }

    async fn checked(&self, caller: &Caller<'_>, upstream: Option<&UpstreamName>) -> Result<Identity, Refused> {
        let mut identity = Identity::of(caller.peer);
        match Authorization::of(caller.headers) {
            Authorization::None => {}
            Authorization::Basic(login) => self.policy.sign_in(&self.rules, &mut identity, caller.peer, login, upstream).await?,
            Authorization::Bearer(token) => {
                let bad = || Refused::SignIn(Why::Token);
                let claims = self.rules.tokens.open(token, self.policy.clock.wall()).ok_or_else(bad)?;
                if let Some((user, mark)) = claims.user {
                    // Taken out of the file, or with a new password: the token is not theirs any more.
                    let hash = self.rules.access.htpasswd.as_ref().and_then(|file| file.hash(&user)).ok_or_else(bad)?;
                    if token::mark(hash) != mark {
                        return Err(bad());
                    }
                    identity.user = Some(user.into());
                }
                (identity.token, identity.login) = (true, claims.login);
            }
        }
        Ok(identity)
    }

    /// Whether there is anything for the caller here: the answer to `/v2/`.
    pub fn greet(self, identity: &Identity) -> Result<(), Refused> {
        let access = &self.rules.access;
        let can_sign_in = access.htpasswd.is_some() && identity.user.is_none();
        let has_login = identity.user.is_some() || identity.login.is_some() || identity.token;
        let could = access.htpasswd.is_some() || !self.rules.callers.is_empty();
        let refused = if could && access.challenge_everybody && !has_login {
            Refused::SignIn(Why::Needed)
        } else if identity.user.is_some() || rules::leaves_something(access, identity) {
            return Ok(());
        } else if can_sign_in {
            Refused::SignIn(Why::Needed)
        } else {
            Refused::Nothing(identity.to_string())
        };
        self.policy.count(&refused);
        Err(refused)
    }

    /// Whether the caller may pull from the repository.
    pub fn admit(self, identity: &Identity, upstream: &UpstreamName, repository: &Repository) -> Result<Permit, Refused> {
        let (policy, rules) = (self.policy, &self.rules);
        let scope = Scope { upstream: upstream.clone(), repository: repository.clone() };
        let refused = match rules.refusal(identity, &scope) {
            None => {
                let limit = rules.access.max_fills_per_client;
                let fills = limit.map(|limit| FillLimit { fills: policy.fills.clone(), key: identity.key(), limit });
                return Ok(Permit { scope, login: identity.login.clone(), address: identity.address, fills });
            }
            Some(refused) => refused,
        };
        policy.count(&refused);
        Err(refused)
    }
}

//! Who may pull what. Gives the [`Permit`] without which nothing in `pull` begins.
//!
//! Owns the operator's rules, the mirror's users and tokens, and the limits of one identity. Never looks into the cache or
//! asks an upstream, so that a refusal says nothing of what there is. Called by `server` for every request, which has one
//! [`Session`] with it: first [`Session::identify`], then [`Session::admit`].

mod caller;
mod certificate;
mod identity;
mod issue;
mod keyed;
mod limits;
mod passwords;
mod refused;
mod rules;
mod session;
mod token;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::config::{Access, Config, RepositoryRule, Visibility};
use crate::metrics::Metrics;
use crate::oci::{Scope, UpstreamName};

pub use caller::{Authorization, Caller, Login, Peer};
pub use certificate::ClientCertificate;
pub use identity::Identity;
use identity::Key;
pub use identity::network;
pub use issue::{Issued, TOKEN_PATH, TokenError};
pub use keyed::Keyed;
use limits::FillLimit;
pub use limits::FillSlot;
pub use refused::{Refused, TooManyFills, Why};
pub use rules::Verdict;
pub use session::Session;
pub use token::NoKey;
use token::Tokens;

/// How long a client waits to begin a download when it has begun as many as it may.
const FILL_PATIENCE: Duration = Duration::from_secs(10);

/// The rules of one mirror. They change while it runs ([`Policy::take`], [`Policy::watch`]): a request sees the old
/// ones or the new ones, since it looks at them once ([`Policy::look`]).
#[derive(Debug)]
pub struct Policy {
    rules: ArcSwap<Rules>,
    passwords: passwords::Passwords,
    meter: limits::Meter,
    fills: Arc<limits::Fills>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Rules that are not in force yet.
#[derive(Debug)]
pub struct Prepared(Arc<Rules>);

/// What can be replaced.
#[derive(Clone, Debug)]
struct Rules {
    repositories: BTreeMap<UpstreamName, RepositoryRule>,
    /// Upstreams for which callers have logins of their own.
    callers: BTreeSet<UpstreamName>,
    access: Access,
    tokens: Arc<Tokens>,
}

/// Proof that the caller may pull from a repository. Only [`Session::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    scope: Scope,
    login: Option<Login>,
    /// `None`: their number is not limited.
    fills: Option<FillLimit>,
    address: Option<IpAddr>,
}

impl Permit {
    /// What may be pulled from.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The caller's own login at the upstream, where the request or its token brought one. Not checked by anybody yet,
    /// and never one of the mirror's users.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// The right to begin a download, to be held while it runs: `None` where their number is not limited. Waits for
    /// some seconds; then fails. Cancel-safe.
    pub async fn fill_slot(&self) -> Result<Option<FillSlot>, TooManyFills> {
        match &self.fills {
            Some(fills) => fills.slot(FILL_PATIENCE).await.map(Some),
            None => Ok(None),
        }
    }

    /// From where it was asked for; `None` for a unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Policy {
    /// The rules that the configuration holds.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Self, NoKey> {
        let tokens = Arc::new(Tokens::new(config.access.token_key.as_ref())?);
        Ok(Self {
            rules: ArcSwap::from_pointee(Rules::of(config, tokens)),
            passwords: passwords::Passwords::new(metrics.clone()),
            meter: limits::Meter::new(),
            fills: Arc::default(),
            clock: Clock::new(),
            metrics,
        })
    }

    /// Makes other rules, for [`Self::take`]. Tokens stay good while the key is the same. `config` has every upstream that is
    /// served, as it is served: one that it has not is refused.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, NoKey> {
        let now = self.rules.load();
        let tokens = match now.access.token_key == config.access.token_key {
            true => now.tokens.clone(),
            false => Arc::new(Tokens::new(config.access.token_key.as_ref())?),
        };
        Ok(Prepared(Arc::new(Rules::of(config, tokens))))
    }

    /// Puts other rules into force, for requests that begin from now on.
    pub fn take(&self, Prepared(rules): Prepared) {
        self.rules.store(rules);
    }

    /// Counts a request against the limits of whoever sends it.
    fn pace(&self, rules: &Rules, key: impl FnOnce() -> Key) -> Result<(), Refused> {
        let Some(pace) = rules.access.pace else { return Ok(()) };
        let why = "you send more requests than one client may (access.requests_per_second)";
        self.meter.take(key(), pace).map_err(|wait| Refused::TooMany { wait, why })
    }

    /// Finds out whose the login is: one of the mirror's users, or for the upstream.
    async fn sign_in(
        &self,
        rules: &Rules,
        identity: &mut Identity,
        peer: &Peer,
        login: Login,
        upstream: Option<&UpstreamName>,
    ) -> Result<(), Refused> {
        let known = rules.access.htpasswd.as_ref().filter(|file| file.hash(login.username()).is_some());
        if known.is_none() && upstream.is_some_and(|upstream| rules.takes_logins(upstream)) {
            identity.login = Some(login);
            return Ok(());
        }
        // Without users of its own, the mirror has nothing to hold it against.
        let Some(file) = &rules.access.htpasswd else { return Ok(()) };
        self.passwords.check(file, &login, Key::place(peer)).await?;
        // A mirror's password goes to no upstream (I9).
        identity.user = Some(login.username().into());
        Ok(())
    }

    fn count(&self, refused: &Refused) {
        self.metrics.access_refusals_total.with_label_values(&[refused.label()]).inc();
    }
}

impl Rules {
    fn of(config: &Config, tokens: Arc<Tokens>) -> Self {
        let repositories =
            config.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.repositories.clone())).collect();
        let callers = config.upstreams.iter().filter(|(_, upstream)| upstream.visibility == Visibility::Caller);
        let callers = callers.map(|(name, _)| name.clone()).collect();
        Self { repositories, callers, access: config.access.clone(), tokens }
    }

    /// Whether callers' own logins are for this upstream.
    fn takes_logins(&self, upstream: &UpstreamName) -> bool {
        self.callers.contains(upstream)
    }

    /// What keeps the caller from the repository.
    fn refusal(&self, identity: &Identity, scope: &Scope) -> Option<Refused> {
        if !self.access.rules.is_empty() {
            let name = scope.to_string();
            if !rules::decide(&self.access, identity, &name).allowed {
                return Some(if rules::could_sign_in(&self.access, identity, &name) {
                    Refused::SignIn(Why::Needed)
                } else {
                    Refused::Forbidden { who: identity.to_string(), scope: scope.clone() }
                });
            }
        }
        let allowed = self.repositories.get(&scope.upstream).is_some_and(|rule| rule.permits(&scope.repository));
        (!allowed).then(|| Refused::Denied(scope.clone()))
    }
}

/// What `[access]` says of somebody, without anybody asking: for `roadstead check --as`. `who` is an entry as in a rule,
/// without patterns.
pub fn explain(access: &Access, who: &str, scope: &Scope) -> Result<Verdict, String> {
    let mut identity = Identity::default();
    match who.split_once(':') {
        Some(("user", name)) if !name.is_empty() => identity.user = Some(name.into()),
        Some(("cert", name)) if !name.is_empty() => identity.certificate = vec![name.to_owned()],
        Some(("address", address)) => {
            identity.address = Some(address.parse().map_err(|_| format!("{address:?} is no IP address"))?)
        }
        None if who == "anyone" => {}
        _ => return Err(format!("{who:?} is nobody: write user:NAME, cert:NAME, address:IP or anyone")),
    }
    Ok(rules::decide(access, &identity, &scope.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that a reload puts in between do not make a login that nobody looked at out to be a stranger's.
    #[tokio::test]
    async fn a_request_sees_the_old_rules_or_the_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        std::fs::write(&users, format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
        let open = Config::default();
        let rules = format!("[access]\nhtpasswd = {users:?}\n[[access.rule]]\nwho = \"user:alice\"\n");
        let closed = Config::parse(&rules, "test").unwrap();
        let policy = Policy::new(&open, Arc::new(Metrics::new())).unwrap();
        let (upstream, repository) = ("docker.io".parse().unwrap(), "library/alpine".parse().unwrap());
        let peer = Peer::new(None);
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, "Basic YWxpY2U6c2VjcmV0".parse().unwrap())]);
        let caller = Caller { peer: &peer, headers: &headers };
        for (before, after) in [(&open, &closed), (&closed, &closed), (&closed, &open)] {
            policy.take(policy.prepare(before).unwrap());
            let (mut first, mut second) = (policy.look(), policy.look());
            policy.take(policy.prepare(after).unwrap());
            let identity = first.identify(&caller, Some(&upstream)).await.unwrap();
            assert_eq!(first.greet(&identity), Ok(()));
            policy.take(policy.prepare(before).unwrap());
            let identity = second.identify(&caller, Some(&upstream)).await.unwrap();
            policy.take(policy.prepare(after).unwrap());
            assert!(second.admit(&identity, &upstream, &repository).is_ok());
        }
    }
}

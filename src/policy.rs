//! Who may pull what. Gives the [`Permit`] without which nothing in `pull` begins.
//!
//! Owns the operator's rules, the mirror's users and tokens, and the limits of one identity. Never looks into the cache or
//! asks an upstream, so that a refusal says nothing of what there is. Called by `server` for every request: first
//! [`Policy::identify`], then [`Policy::admit`].

mod caller;
mod certificate;
mod identity;
mod issue;
mod keyed;
mod limits;
mod passwords;
mod refused;
mod rules;
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
use crate::oci::{Repository, Scope, UpstreamName};

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
pub use token::NoKey;
use token::Tokens;

/// How long a client waits to begin a download when it has begun as many as it may.
const FILL_PATIENCE: Duration = Duration::from_secs(10);

/// The rules of one mirror. They change while it runs ([`Policy::take`], [`Policy::watch`]): a request sees the old
/// ones or the new ones.
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
pub struct Ready(Arc<Rules>);

/// What can be replaced.
#[derive(Clone, Debug)]
struct Rules {
    repositories: BTreeMap<UpstreamName, RepositoryRule>,
    /// Upstreams for which callers have logins of their own.
    callers: BTreeSet<UpstreamName>,
    access: Access,
    tokens: Arc<Tokens>,
}

/// Proof that the caller may pull from a repository. Only [`Policy::admit`] makes one.
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
    pub fn ready(&self, config: &Config) -> Result<Ready, NoKey> {
        let now = self.rules.load();
        let tokens = match now.access.token_key == config.access.token_key {
            true => now.tokens.clone(),
            false => Arc::new(Tokens::new(config.access.token_key.as_ref())?),
        };
        Ok(Ready(Arc::new(Rules::of(config, tokens))))
    }

    /// Puts other rules into force, for requests that begin from now on.
    pub fn take(&self, Ready(rules): Ready) {
        self.rules.store(rules);
    }

    /// Who asks. Counts the request against the caller's limits. `upstream`: which one is asked about, where that is clear.
    pub async fn identify(&self, caller: &Caller<'_>, upstream: Option<&UpstreamName>) -> Result<Identity, Refused> {
        let easy = {
            let rules = self.rules.load();
            // Whoever asks may: nobody has to be anybody, and a login can only be one for the upstream.
            rules.access.rules.is_empty().then(|| self.unchecked(&rules, caller))
        };
        let identity = match easy {
            Some(identity) => Ok(identity),
            // The rules are held across a wait. Boxed: whoever needs nothing of it does not carry it about.
            None => Box::pin(self.checked(&self.rules.load_full(), caller, upstream)).await,
        };
        let identity = match identity {
            Ok(identity) => self.pace(|| identity.key()).map(|()| identity),
            // Not anybody, so the address counts.
            Err(refused) => Err(self.pace(|| Key::place(caller.peer)).err().unwrap_or(refused)),
        };
        identity.inspect_err(|refused| self.count(refused))
    }

    fn pace(&self, key: impl FnOnce() -> Key) -> Result<(), Refused> {
        let Some(pace) = self.rules.load().access.pace else { return Ok(()) };
        let why = "you send more requests than one client may (access.requests_per_second)";
        self.meter.take(key(), pace).map_err(|wait| Refused::TooMany { wait, why })
    }

    fn unchecked(&self, rules: &Rules, caller: &Caller<'_>) -> Identity {
        let mut identity = Identity::of(caller.peer);
        match Authorization::of(caller.headers) {
            Authorization::Basic(login) => identity.login = Some(login),
            Authorization::Bearer(token) => {
                if let Some(claims) = rules.tokens.open(token, self.clock.now()) {
                    (identity.token, identity.login) = (true, claims.login);
                }
            }
            Authorization::None => {}
        }
        identity
    }

    async fn checked(&self, rules: &Rules, caller: &Caller<'_>, upstream: Option<&UpstreamName>) -> Result<Identity, Refused> {
        let mut identity = Identity::of(caller.peer);
        match Authorization::of(caller.headers) {
            Authorization::None => {}
            Authorization::Basic(login) => self.sign_in(rules, &mut identity, caller.peer, login, upstream).await?,
            Authorization::Bearer(token) => {
                let bad = || Refused::SignIn(Why::Token);
                let claims = rules.tokens.open(token, self.clock.now()).ok_or_else(bad)?;
                if let Some((user, mark)) = claims.user {
                    // Taken out of the file, or with a new password: the token is not theirs any more.
                    let hash = rules.access.htpasswd.as_ref().and_then(|file| file.hash(&user)).ok_or_else(bad)?;
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

    /// Whether there is anything for the caller here: the answer to `/v2/`.
    pub fn greet(&self, identity: &Identity) -> Result<(), Refused> {
        let rules = self.rules.load();
        let access = &rules.access;
        let can_sign_in = access.htpasswd.is_some() && identity.user.is_none();
        let has_login = identity.user.is_some() || identity.login.is_some() || identity.token;
        let could = access.htpasswd.is_some() || !rules.callers.is_empty();
        let refused = if could && access.challenge_everybody && !has_login {
            Refused::SignIn(Why::Needed)
        } else if identity.user.is_some() || rules::leaves_something(access, identity) {
            return Ok(());
        } else if can_sign_in {
            Refused::SignIn(Why::Needed)
        } else {
            Refused::Nothing(identity.to_string())
        };
        self.count(&refused);
        Err(refused)
    }

    /// Whether the caller may pull from the repository.
    pub fn admit(&self, identity: &Identity, upstream: &UpstreamName, repository: &Repository) -> Result<Permit, Refused> {
        let rules = self.rules.load();
        let scope = Scope { upstream: upstream.clone(), repository: repository.clone() };
        let refused = match rules.refusal(identity, &scope) {
            None => {
                let limit = rules.access.max_fills_per_client;
                let fills = limit.map(|limit| FillLimit { fills: self.fills.clone(), key: identity.key(), limit });
                return Ok(Permit { scope, login: identity.login.clone(), address: identity.address, fills });
            }
            Some(refused) => refused,
        };
        self.count(&refused);
        Err(refused)
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

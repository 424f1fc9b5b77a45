//! Answering an upstream's challenges: which credential or token a request carries.
//!
//! The first request goes bare; its 401 teaches scheme, realm and scope, and later requests carry the right token at
//! once. A refused token is dropped and there is one more round, never a second. Decides by [`super::realm`] who sees
//! the credentials; whoever may not is asked for an anonymous token (I9). Called by [`super::request`] for requests to
//! the upstream's own address, and, without credentials, for those to a redirect's target.

mod asked;
mod scopes;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use url::Url;

use self::asked::{asked_for, asks_for_more, named_scopes, scopes};
use self::scopes::Scopes;
use super::accounts::Account;
use super::challenge::{self, Challenge};
use super::client::{Client, authority};
use super::credentials::{Credential, Credentials};
use super::error::{Class, Reason, UpstreamError};
use super::realm;
use super::token::{Token, Tokens, Wanted};
use crate::metrics::Kind;
use crate::oci::Repository;

/// How one upstream address wants to be signed in to, and with what that is done.
#[derive(Debug)]
pub(super) struct Auth {
    ways: Arc<Ways>,
    credentials: Credentials,
    tokens: Tokens,
    /// The login that is used instead of the mirror's credentials.
    guest: Option<Guest>,
    /// The account of that login.
    guest_account: Option<Account>,
}

/// What is known of one address's way of signing in, whoever signs in.
#[derive(Debug)]
struct Ways {
    url: Url,
    token_realms: Vec<String>,
    /// The tokens of logins that are not the mirror's own.
    guests: Tokens,
    known: Mutex<Known>,
    /// The operator has been told that a realm does not get the credentials.
    warned: AtomicBool,
    /// The key under which guests' logins are told apart.
    key: RandomState,
}

/// A login that is not the mirror's own, and how fresh its tokens must be.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    login: Arc<Credential>,
    not_before: Option<Instant>,
}

/// Which tokens of a login will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAge {
    /// Those that are kept, too.
    Any,
    /// None from before: whether the login is good is what is asked.
    New,
}

impl Guest {
    pub(super) fn new(login: Credential, tokens: TokenAge) -> Self {
        Self { login: Arc::new(login), not_before: (tokens == TokenAge::New).then(Instant::now) }
    }
}

/// What the last answered challenge taught.
#[derive(Clone, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
        scopes: Box<Scopes>,
    },
}

/// What a request carries.
#[derive(Debug)]
pub(super) enum Grant {
    /// Nothing.
    Bare,
    /// User and password.
    Basic(HeaderValue),
    /// A token, and what it was asked for with.
    Bearer(Token, Box<Wanted>),
}

impl Grant {
    /// The `Authorization` header.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Bare => None,
            Self::Basic(value) => Some(value.clone()),
            Self::Bearer(token, _) => Some(token.authorization.clone()),
        }
    }
}

impl Auth {
    pub(super) fn new(url: Url, credentials: Credentials, token_realms: Vec<String>) -> Self {
        let (known, warned, key) = Default::default();
        let ways = Arc::new(Ways { url, token_realms, guests: Tokens::new(), known, warned, key });
        Self { ways, credentials, tokens: Tokens::new(), guest: None, guest_account: None }
    }

    /// The same ways, with another login. What its challenges teach holds for all.
    pub(super) fn signed_in_as(&self, guest: &Guest) -> Self {
        Self {
            ways: Arc::clone(&self.ways),
            credentials: Credentials::fixed(Arc::clone(&guest.login)),
            tokens: self.ways.guests.clone(),
            guest: Some(guest.clone()),
            guest_account: Some(Account::Guest(self.ways.key.hash_one(guest.login.fingerprint()))),
        }
    }

    /// Who the next request for `repository` is made as, by what is known of the address: a login that it has not asked for,
    /// or that its token service may not see, is not sent.
    pub(super) fn account(&self, repository: &Repository) -> Account {
        if !self.signs_in() {
            return Account::Anonymous;
        }
        self.guest_account.or_else(|| self.credentials.place(repository).map(Account::Own)).unwrap_or(Account::Anonymous)
    }

    /// All accounts that a request may be made as, whatever the repository.
    pub(super) fn accounts(&self) -> Vec<Account> {
        if !self.signs_in() {
            return vec![Account::Anonymous];
        }
        if let Some(guest) = self.guest_account {
            return vec![guest];
        }
        let others = (!self.credentials.are_for_all()).then_some(Account::Anonymous);
        self.credentials.places().map(Account::Own).chain(others).collect()
    }

    fn signs_in(&self) -> bool {
        match &*self.ways.known.lock() {
            Known::Nothing => false,
            Known::Basic => true,
            Known::Bearer { realm, .. } => realm::may_receive(&self.ways.url, realm, &self.ways.token_realms),
        }
    }

    fn not_before(&self) -> Option<Instant> {
        self.guest.as_ref().and_then(|guest| guest.not_before)
    }

    /// The upstream does not take the credentials: the operator's to mend, or the guest's.
    fn refused(&self, client: &Client, status: StatusCode) -> UpstreamError {
        let reason = if self.guest.is_some() { Reason::LoginRefused(status) } else { Reason::CredentialsRefused(status) };
        client.error(&self.ways.url, reason)
    }

    /// What to carry before any challenge, by what earlier ones taught. May fetch a token.
    pub(super) async fn preemptive(&self, client: &Client, kind: Kind, repository: &Repository) -> Result<Grant, UpstreamError> {
        let known = self.ways.known.lock().clone();
        match known {
            Known::Nothing => Ok(Grant::Bare),
            Known::Basic => {
                Ok(self.credential(client, repository).await?.and_then(|held| held.basic()).map_or(Grant::Bare, Grant::Basic))
            }
            Known::Bearer { realm, service, scopes } => {
                let Some(scopes) = scopes.of(kind, repository) else { return Ok(Grant::Bare) };
                let credential = self.credential_for(client, &realm, repository).await?;
                let wanted = Wanted { realm, service, scopes, credential, not_before: self.not_before() };
                match self.token(client, &wanted, repository).await {
                    Ok(token) => Ok(Grant::Bearer(token, Box::new(wanted))),
                    Err(error) => {
                        // Perhaps the realm has moved; then the next request shall hear so from a new challenge. That a
                        // guest's login is wrong says nothing of it.
                        if !matches!(error.class(), Class::Denied | Class::RateLimited { .. }) {
                            *self.ways.known.lock() = Known::Nothing;
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    /// Takes in a 401 to a request that carried `grant` and was begun at `started`: what to carry next. `None` if there
    /// was no challenge, so that one has to be looked for at `/v2/`.
    pub(super) async fn challenged(
        &self,
        client: &Client,
        kind: Kind,
        repository: &Repository,
        grant: Grant,
        started: Instant,
        challenges: &[Challenge],
    ) -> Result<Option<Grant>, UpstreamError> {
        let refused = StatusCode::UNAUTHORIZED;
        let chosen = challenge::preferred(challenges);
        match &grant {
            Grant::Bare => {}
            // The upstream has changed its ways since it was asked last.
            Grant::Basic(_) if chosen.is_some_and(|challenge| challenge.scheme != "basic") => {}
            Grant::Basic(_) => {
                if let Some(newer) = self.renewed(client, repository, &grant).await? {
                    return Ok(Some(newer));
                }
                if self.guest.is_none() {
                    *self.ways.known.lock() = Known::Nothing;
                }
                return Err(self.refused(client, refused));
            }
            // Made for this very request, with what the challenge asks for, and still refused: this account may not.
            Grant::Bearer(token, wanted)
                if token.received >= started && !chosen.is_some_and(|challenge| asks_for_more(challenge, wanted)) =>
            {
                return Err(client.error(&self.ways.url, Reason::Denied(refused)));
            }
            Grant::Bearer(token, wanted) => {
                self.tokens.drop(wanted, token).await;
                let same_realm = chosen
                    .and_then(|challenge| realm::parse(&self.ways.url, challenge.parameter("realm")?).ok())
                    .is_some_and(|realm| realm == wanted.realm);
                // nvcr.io names another realm in answers to an expired token, which gives none: ask again without.
                if !same_realm {
                    return Ok(Some(Grant::Bare));
                }
            }
        }
        let Some(challenge) = chosen else {
            return if challenges.is_empty() { Ok(None) } else { Err(client.error(&self.ways.url, Reason::Denied(refused))) };
        };
        self.answer(client, kind, repository, challenge).await.map(Some)
    }

    /// The credential in `grant` was refused, by 401 or 403: some registries say the latter of one that has expired. Perhaps
    /// it was remembered and its source has a newer one, of which a cloud or a helper can be asked.
    pub(super) async fn renewed(
        &self,
        client: &Client,
        repository: &Repository,
        grant: &Grant,
    ) -> Result<Option<Grant>, UpstreamError> {
        let Grant::Basic(sent) = grant else { return Ok(None) };
        self.credentials.forget(repository).await;
        let newer = self.credential(client, repository).await?.and_then(|credential| credential.basic());
        Ok(newer.filter(|newer| newer != sent).map(Grant::Basic))
    }

    /// What a challenge asks for.
    pub(super) async fn answer(
        &self,
        client: &Client,
        kind: Kind,
        repository: &Repository,
        challenge: &Challenge,
    ) -> Result<Grant, UpstreamError> {
        if challenge.scheme == "basic" {
            let basic = self.credential(client, repository).await?.and_then(|credential| credential.basic());
            let grant = basic.map(Grant::Basic).ok_or_else(|| client.error(&self.ways.url, Reason::CredentialsMissing))?;
            *self.ways.known.lock() = Known::Basic;
            return Ok(grant);
        }
        let wanted = asked_for(client, &self.ways.url, challenge, scopes(challenge, repository))?;
        let credential = self.credential_for(client, &wanted.realm, repository).await?;
        let wanted = Wanted { credential, not_before: self.not_before(), ..wanted };
        let token = self.token(client, &wanted, repository).await;
        // One that has had enough is a token service all the same, and this account is to leave it alone.
        if token.as_ref().err().is_none_or(|error| matches!(error.class(), Class::RateLimited { .. })) {
            self.learn(client, kind, repository, &wanted);
        }
        token.map(|token| Grant::Bearer(token, Box::new(wanted)))
    }

    /// What the challenge of `/v2/` asks of a guest, with a scope only if it names one. `None` where there is no guest, or
    /// its login may not go to the realm (I9): then there is nothing to try.
    pub(super) async fn login(&self, client: &Client, challenge: &Challenge) -> Result<Option<Grant>, UpstreamError> {
        let Some(guest) = &self.guest else { return Ok(None) };
        if challenge.scheme == "basic" {
            return Ok(guest.login.basic().map(Grant::Basic));
        }
        let wanted = asked_for(client, &self.ways.url, challenge, named_scopes(challenge))?;
        if !realm::may_receive(&self.ways.url, &wanted.realm, &self.ways.token_realms) {
            return Ok(None);
        }
        let wanted = Wanted { credential: Some(Arc::clone(&guest.login)), not_before: guest.not_before, ..wanted };
        match self.tokens.get(client, &wanted).await {
            Ok(token) => Ok(Some(Grant::Bearer(token, Box::new(wanted)))),
            Err(error) => match error.reason() {
                Reason::CredentialsRefused(status) => Err(self.refused(client, *status)),
                _ => Err(error),
            },
        }
    }

    fn learn(&self, client: &Client, kind: Kind, repository: &Repository, wanted: &Wanted) {
        let mut known = self.ways.known.lock();
        if let Known::Bearer { realm, service, scopes } = &mut *known
            && *realm == wanted.realm
            && *service == wanted.service
        {
            scopes.learn(kind, repository, &wanted.scopes);
            return;
        }
        if let Known::Bearer { realm, .. } = &*known
            && *realm != wanted.realm
        {
            let (old, new) = (authority(realm), authority(&wanted.realm));
            tracing::warn!(upstream = %client.name, old, new, "the upstream now names another token service");
        }
        let mut scopes = Box::<Scopes>::default();
        scopes.learn(kind, repository, &wanted.scopes);
        *known = Known::Bearer { realm: wanted.realm.clone(), service: wanted.service.clone(), scopes };
    }

    /// A token; credentials that the realm refuses are looked up again next time.
    async fn token(&self, client: &Client, wanted: &Wanted, repository: &Repository) -> Result<Token, UpstreamError> {
        let token = self.tokens.get(client, wanted).await;
        match token.as_ref().map_err(UpstreamError::reason) {
            Err(Reason::CredentialsRefused(status)) if self.guest.is_some() => Err(self.refused(client, *status)),
            Err(Reason::CredentialsRefused(_)) => {
                self.credentials.forget(repository).await;
                token
            }
            _ => token,
        }
    }

    async fn credential(&self, client: &Client, repository: &Repository) -> Result<Option<Arc<Credential>>, UpstreamError> {
        self.credentials.get(repository).await.map_err(|error| client.error(&self.ways.url, error))
    }

    /// The credential, if `realm` may see it (I9).
    async fn credential_for(
        &self,
        client: &Client,
        realm: &Url,
        repository: &Repository,
    ) -> Result<Option<Arc<Credential>>, UpstreamError> {
        if self.credentials.is_anonymous() || realm::may_receive(&self.ways.url, realm, &self.ways.token_realms) {
            return self.credential(client, repository).await;
        }
        if !self.ways.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream = %client.name,
                realm = %authority(realm),
                "the upstream names a token service on another host; it is asked anonymously. If it is trusted, add it to `token_realms`"
            );
        }
        Ok(None)
    }

    /// The credential that a challenge would be answered with, and whether its realm may have it.
    pub(super) async fn examine(
        &self,
        client: &Client,
        repository: &Repository,
        challenge: &Challenge,
    ) -> Result<(Option<Arc<Credential>>, Option<Url>), UpstreamError> {
        let realm = challenge.parameter("realm").filter(|_| challenge.scheme == "bearer");
        let realm = realm.and_then(|realm| realm::parse(&self.ways.url, realm).ok());
        let refused = realm.filter(|realm| !realm::may_receive(&self.ways.url, realm, &self.ways.token_realms));
        Ok((self.credential(client, repository).await?, refused))
    }

    /// A token for the target of a redirect that asks for one: always anonymous, whoever it is.
    pub(super) async fn foreign(
        &self,
        client: &Client,
        target: &Url,
        repository: &Repository,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let Some(challenge) = challenge::preferred(challenges).filter(|challenge| challenge.scheme == "bearer") else {
            return Ok(None);
        };
        let wanted = asked_for(client, target, challenge, scopes(challenge, repository))?;
        Ok(Some(self.tokens.get(client, &wanted).await?.authorization))
    }
}

//! On whose behalf something is done.
//!
//! Owns the caller's login while work is done with it, and the keyed hash by which it is remembered beyond that. Asks nobody
//! and decides nothing: [`super::verdicts`] makes an [`Asker`] of a request, and everything in `pull` takes one along.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::oci::{Scope, UpstreamName};
use crate::policy::{Keyed, Login};
use crate::upstream::{TokenAge, Upstream};

/// Tells logins at a repository apart without keeping them: a keyed hash, of no use outside this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::pull) struct Key([u8; 32]);

impl fmt::Debug for Key {
    /// Nothing of it: a login can be guessed by it as long as the process lives.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Makes keys.
#[derive(Debug, Default)]
pub(super) struct Secrecy(Keyed);

impl Secrecy {
    /// The key of a login at a repository.
    pub fn key(&self, scope: &Scope, login: &Login) -> Key {
        self.keyed(&scope.upstream, scope.repository.as_str(), login)
    }

    /// The key of a login at an upstream, whatever it may read there. It is no repository's, since none has an empty name.
    pub fn login_key(&self, upstream: &UpstreamName, login: &Login) -> Key {
        self.keyed(upstream, "", login)
    }

    fn keyed(&self, upstream: &UpstreamName, repository: &str, login: &Login) -> Key {
        Key(self.0.hash([upstream.as_str(), repository, login.username(), login.password().expose()]))
    }
}

/// A caller with a login of their own.
#[derive(Debug)]
pub(in crate::pull) struct Guest {
    pub key: Key,
    pub login: Login,
    /// From where they ask; `None` from this machine by a socket without addresses.
    pub from: Option<IpAddr>,
    /// The upstream as it is asked with this login.
    view: OnceLock<Arc<Upstream>>,
}

impl Guest {
    pub fn new(key: Key, login: Login, from: Option<IpAddr>) -> Self {
        Self { key, login, from, view: OnceLock::new() }
    }

    /// The upstream, asked with this login and whatever tokens it has by now.
    pub fn view(&self, upstream: &Upstream) -> Arc<Upstream> {
        self.view
            .get_or_init(|| Arc::new(upstream.signed_in_as(self.login.username(), self.login.password(), TokenAge::Any)))
            .clone()
    }
}

/// On whose behalf an upstream is asked, and what is here of it is looked at. Cheap to clone; lives as long as the work.
#[derive(Clone, Debug)]
pub(in crate::pull) enum Asker {
    /// The mirror itself, with the operator's credentials: for all that the operator's rules let in.
    Mirror,
    /// A caller of whom it is known that they may see what is here of the repository.
    Verified(Arc<Guest>),
    /// One of whom that is not known: all they may do is to ask the upstream themselves.
    Unverified(Arc<Guest>),
}

impl Asker {
    /// Whoever signs in with a login of their own.
    pub(super) fn guest(&self) -> Option<&Arc<Guest>> {
        match self {
            Self::Mirror => None,
            Self::Verified(guest) | Self::Unverified(guest) => Some(guest),
        }
    }

    /// What tells it apart from others in a key; `None` for all that the operator's rules let in.
    pub fn key(&self) -> Option<Key> {
        self.guest().map(|guest| guest.key)
    }

    /// Whether it may see what is here of the repository.
    pub fn is_verified(&self) -> bool {
        !matches!(self, Self::Unverified(_))
    }
}

//! The mirror's own tokens: who somebody is and until when, sealed, so that a request need not carry a password.
//!
//! AES-256-GCM-SIV: nobody but the holder of the key can read or make one, and a nonce that comes twice under a key that
//! many mirrors share for years gives nothing away. A token stands for its owner, not for a repository: the rules are
//! asked with every request. Nothing is kept here of the tokens that were given.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Login;
use crate::clock::Timestamp;
use crate::config::{LONGEST_TOKEN, Secret};

/// What a token is for and in which form: one of another form opens nothing.
const PURPOSE: &[u8] = b"roadstead token 1";

/// Longer ones are not looked at: a header has no more room.
const MAX_TOKEN: usize = 48 << 10;

/// Seals and opens tokens.
pub(super) struct Tokens {
    key: RandomizedNonceKey,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// What a token says.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    /// The user, with the mark of the password it signed in by.
    pub user: Option<(String, Mark)>,
    /// The caller's own login for an upstream.
    pub login: Option<Login>,
    /// Until when.
    pub expires: Timestamp,
}

/// Which password somebody signed in by: a new one ends the tokens of the old one.
pub(super) type Mark = [u8; 8];

/// The mark of a password's hash.
pub(super) fn mark(hash: &Secret) -> Mark {
    let digest = Sha256::digest(hash.expose().as_bytes());
    let mut mark = Mark::default();
    mark.copy_from_slice(&digest[..8]);
    mark
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    user: Option<(String, Mark)>,
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    login: Option<(String, String)>,
    #[serde(rename = "e")]
    expires: Timestamp,
}

/// The system has no random bytes, or the library refuses the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mirror cannot make tokens: the system gives no random numbers")]
pub struct NoKey;

impl Tokens {
    /// With the key that `secret` stands for, or one that nobody else has.
    pub fn new(secret: Option<&Secret>) -> Result<Self, NoKey> {
        let mut bytes = [0; 32];
        match secret {
            // Long and random (a test of the configuration): a hash is as good a key as it is.
            Some(secret) => {
                bytes.copy_from_slice(&Sha256::new().chain_update(PURPOSE).chain_update(secret.expose()).finalize());
            }
            None => rand::fill(&mut bytes).map_err(|_| NoKey)?,
        }
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &bytes).map(|key| Self { key }).map_err(|_| NoKey)
    }

    /// A token.
    pub fn seal(&self, claims: &Claims) -> Result<String, NoKey> {
        let login = claims.login.as_ref().map(|login| (login.username().to_owned(), login.password().expose().to_owned()));
        let sealed = Sealed { user: claims.user.clone(), login, expires: claims.expires };
        let mut bytes = serde_json::to_vec(&sealed).map_err(|_| NoKey)?;
        let nonce = self.key.seal_in_place_append_tag(Aad::from(PURPOSE), &mut bytes).map_err(|_| NoKey)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// What a token says; `None` if it was not made with this key, was changed, or is over.
    pub fn open(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(PURPOSE), sealed).ok()?;
        let Sealed { user, login, expires } = serde_json::from_slice(opened).ok()?;
        let left = expires.since(now).unwrap_or(Duration::ZERO);
        let login = login.and_then(|(username, password)| Login::new(username, Secret::new(password)));
        // One that is good for longer was made under a clock that was ahead. Twice: other mirrors' clocks may differ.
        (!left.is_zero() && left <= 2 * LONGEST_TOKEN).then_some(Claims { user, login, expires })
    }
}

#[cfg(test)]
mod tests;

//! Telling logins apart without keeping them: hashes under a key that never leaves the process.
//!
//! What is remembered of a login lies under such a hash, which is of no use to whoever reads it elsewhere. Used by
//! [`super::passwords`] and by `pull`.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

/// A key of its own, and the hashes that it makes.
pub struct Keyed(hmac::Key);

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed(…)")
    }
}

impl Keyed {
    /// A new key.
    pub fn new() -> Self {
        // This fails only on a system without random numbers; then the key is made of those of std's hash maps.
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).unwrap_or_else(|_| {
            use std::hash::{BuildHasher as _, RandomState};
            let words: Vec<u8> = (0..4_u8).flat_map(|n| RandomState::new().hash_one(n).to_le_bytes()).collect();
            hmac::Key::new(hmac::HMAC_SHA256, &words)
        });
        Self(key)
    }

    /// The hash of these texts in this order.
    pub fn hash<const N: usize>(&self, parts: [&str; N]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            // With its length, so that no others make the same text.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

impl Default for Keyed {
    fn default() -> Self {
        Self::new()
    }
}

//! Which digests' names in the cache folder are being changed, each by one at a time.
//!
//! A file is chosen, hashed or found missing first, and unlinked, set apart or forgotten a moment later; in between the
//! same digest may be published anew, or its leftover be resumed. So whoever changes what a digest's name means, on disk
//! and in the account, holds the name meanwhile, and looks again once it is held. Nobody holds two. Never held while
//! something is downloaded or hashed, nor on the way of a hit. Blocks (I11); used by [`super::room`],
//! [`super::leftover`], [`super::lookup`] and [`super::apart`].

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::oci::Digest;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    held: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// A name that nobody else changes; until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Held<'a> {
    names: &'a Names,
    digest: Digest,
}

impl Names {
    /// Blocks until nobody else holds the name.
    pub fn hold(&self, digest: &Digest) -> Held<'_> {
        let mut held = self.held.lock();
        self.freed.wait_while(&mut held, |held| held.contains(digest));
        held.insert(*digest);
        Held { names: self, digest: *digest }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.names.held.lock().remove(&self.digest);
        self.names.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn one_holds_a_name_and_others_are_free() {
        let (names, inside) = (Names::default(), AtomicBool::new(false));
        let digest = |n: u8| Digest::of(Algorithm::Sha256, &[n]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _name = names.hold(&digest(1));
                        assert!(!inside.swap(true, Ordering::SeqCst), "two at one time");
                        drop(names.hold(&digest(2)));
                        std::thread::sleep(Duration::from_micros(50));
                        inside.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(names.held.lock().is_empty());
    }
}

//! Passwords: who is who by the password file, without a bcrypt for each request and without telling who exists.
//!
//! A check runs on the blocking pool (I11), few at one time; a good one is remembered by a keyed hash for some minutes, so
//! that a pull costs one. A wrong one is not remembered: it is counted against the address that sent it. Nobody is
//! told sooner that a user does not exist than that the password is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moka::future::Cache;
use moka::sync;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::identity::Key;
use super::keyed::Keyed;
use super::{Login, Refused};
use crate::config::{Htpasswd, Secret};
use crate::metrics::Metrics;

/// How long a good password is taken without another check. A new password is asked for at once, whatever this is.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Logins remembered.
const LOGINS: u64 = 10_000;
/// Wrong passwords that an address may send within [`WINDOW`].
const FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered.
const ADDRESSES: u64 = 100_000;
/// Checks that may wait for their turn, beyond which somebody is attacking.
const WAITING: usize = 64;

/// Checks passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    key: Keyed,
    good: Cache<[u8; 32], ()>,
    failures: sync::Cache<Key, Failures>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Wrong passwords of one address.
#[derive(Clone, Copy, Debug)]
struct Failures {
    number: u32,
    since: Instant,
}

/// Why a check says no. Shared by all who waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum No {
    Wrong,
    Busy,
    LockedOut(Duration),
}

impl Passwords {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        // bcrypt takes a core; pulls need the others.
        let turns = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self {
            key: Keyed::new(),
            good: Cache::builder().max_capacity(LOGINS).time_to_live(REMEMBERED).build(),
            failures: sync::Cache::builder().max_capacity(ADDRESSES).time_to_live(WINDOW).build(),
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Whether the login is one of the file's. Cancel-safe; all who bring the same one at one time wait for one check.
    pub async fn check(&self, file: &Htpasswd, login: &Login, place: Key) -> Result<(), Refused> {
        let hash = file.hash(login.username());
        let remembered = self.keyed(login, hash);
        if self.good.get(&remembered).await.is_some() {
            return Ok(());
        }
        let check = async {
            let right = self.bcrypt(hash.cloned(), file.cost(), login.password().clone(), &place).await?;
            if right { Ok(()) } else { Err(No::Wrong) }
        };
        // Those who have signed in from there go on; others could be guessing.
        let checked = match self.look(&place) {
            Ok(()) => self.good.try_get_with(remembered, check).await.map_err(|no| *no),
            Err(no) => Err(no),
        };
        match checked {
            Ok(()) => Ok(()),
            Err(No::Wrong) => Err(Refused::SignIn(super::Why::WrongPassword)),
            Err(No::LockedOut(wait)) => {
                self.metrics.password_checks_total.with_label_values(&["locked_out"]).inc();
                Err(Refused::TooMany { wait, why: "too many wrong passwords came from your address" })
            }
            Err(No::Busy) => Err(Refused::TooMany { wait: Duration::from_secs(1), why: "too many passwords are being checked" }),
        }
    }

    /// One check, in turn. Without a hash it takes as long, and is wrong, which is counted before the next one's turn.
    async fn bcrypt(&self, hash: Option<Secret>, cost: u32, password: Secret, place: &Key) -> Result<bool, No> {
        let _waiting = Waiting::begin(&self.waiting)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| No::Busy)?;
        // Others of the same address may have been wrong while this one waited.
        self.look(place)?;
        let check = move || {
            let nobody = || Secret::new(format!("$2y${cost:02}$......................{}", ".".repeat(31)));
            let (exists, hash) = (hash.is_some(), hash.unwrap_or_else(nobody));
            (bcrypt::verify(password.expose(), hash.expose()).unwrap_or(false) && exists, turn)
        };
        // It runs to its end when nobody waits any more: one turn, no more.
        let (right, _turn) = spawn_blocking(check).await.map_err(|_| No::Busy)?;
        self.metrics.password_checks_total.with_label_values(&[if right { "right" } else { "wrong" }]).inc();
        if !right {
            self.failed(place.clone());
        }
        Ok(right)
    }

    fn look(&self, place: &Key) -> Result<(), No> {
        self.locked_out(place).map_or(Ok(()), |wait| Err(No::LockedOut(wait)))
    }

    /// A login without the login, and without a use once the user's password has changed.
    fn keyed(&self, login: &Login, hash: Option<&Secret>) -> [u8; 32] {
        self.key.hash([login.username(), hash.map_or("", Secret::expose), login.password().expose()])
    }

    /// For how long an address has to wait that has sent too many wrong passwords.
    fn locked_out(&self, place: &Key) -> Option<Duration> {
        let failures = self.failures.get(place).filter(|failures| failures.number >= FAILURES)?;
        Some(WINDOW.saturating_sub(failures.since.elapsed())).filter(|wait| !wait.is_zero())
    }

    fn failed(&self, place: Key) {
        let count = |entry: Option<moka::Entry<Key, Failures>>| {
            let running = entry.map(|entry| *entry.value()).filter(|failures| failures.since.elapsed() < WINDOW);
            match running {
                Some(failures) => Failures { number: failures.number + 1, ..failures },
                None => Failures { number: 1, since: Instant::now() },
            }
        };
        self.failures.entry(place).and_upsert_with(count);
    }
}

/// A place among those who wait for a check.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Result<Self, No> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < WAITING { Ok(place) } else { Err(No::Busy) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! What clients asked for and did not get while no upstream could be asked: tomorrow's shopping list.
//!
//! Images only, by the reference that a client named. Bounded; written to `wanted.json` in the cache folder by a task of
//! the mirror, read there by `roadstead wanted`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cache::store::Store;
use crate::clock::{Clock, Moment, Timestamp, seconds};
use crate::oci::{Reference, Scope};

/// References remembered, so that made-up names cannot fill the memory.
const REMEMBERED: usize = 10_000;
/// Where the list is, in the cache folder.
const FILE: &str = "wanted.json";
/// What was not asked for in so long is not wanted any more.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// One image that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Its full name.
    pub image: String,
    /// How often.
    pub times: u64,
    /// When last, in seconds since 1970.
    pub last: u64,
}

impl Want {
    fn is_forgotten(&self, now: u64) -> bool {
        now.saturating_sub(self.last) >= FORGOTTEN.as_secs()
    }
}

/// The list of one mirror.
#[derive(Debug)]
pub struct WantedList {
    path: PathBuf,
    clock: Clock,
    /// Their times are the clock's, so that none is forgotten because the wall clock jumps.
    wants: Mutex<HashMap<String, Want>>,
    changed: AtomicBool,
    /// It could not be written, the last time.
    failing: AtomicBool,
}

impl WantedList {
    /// Blocks. The list in a cache folder, as far as it is there. One that cannot be read is set apart, since the next one is
    /// written in its place.
    pub fn load(store: &Store, clock: &Clock) -> Self {
        let path = path(&store.repos());
        let wants = read(&path).unwrap_or_else(|error| {
            set_apart(&path, &error);
            Vec::new()
        });
        let moment = |last: u64| clock.moment(Timestamp(last.saturating_mul(1000))).0 / 1000;
        let wants = wants.into_iter().map(|want| (want.image.clone(), Want { last: moment(want.last), ..want }));
        let wants = Mutex::new(wants.collect());
        Self { path, clock: clock.clone(), wants, changed: AtomicBool::default(), failing: AtomicBool::default() }
    }

    fn now(&self) -> u64 {
        self.clock.now().0 / 1000
    }

    /// A client asked for this in vain.
    pub fn note(&self, scope: &Scope, reference: &Reference) {
        let image = scope.image(reference.clone()).to_string();
        let last = self.now();
        let mut wants = self.wants.lock();
        if wants.len() >= REMEMBERED && !wants.contains_key(&image) {
            return;
        }
        let want = wants.entry(image.clone()).or_insert(Want { image, times: 0, last });
        want.times += 1;
        want.last = last;
        self.changed.store(true, Ordering::Release);
    }

    /// Blocks. Writes the list down if it has changed, without what was not asked for in a long time.
    pub fn save(&self, store: &Store) {
        let wants: Vec<Want> = {
            let (now, mut wants) = (self.now(), self.wants.lock());
            let before = wants.len();
            wants.retain(|_, want| !want.is_forgotten(now));
            if !self.changed.swap(false, Ordering::AcqRel) && wants.len() == before {
                return;
            }
            let date = |last| self.clock.date(Moment(last * 1000)).seconds();
            wants.values().map(|want| Want { last: date(want.last), ..want.clone() }).collect()
        };
        let written =
            serde_json::to_vec(&wants).map_err(io::Error::from).and_then(|json| store.replace(&self.path, &json, false));
        match written {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) => {
                self.changed.store(true, Ordering::Release);
                // It is tried again every second: once is enough.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(path = %self.path.display(), %error, "cannot write down what clients want; tried again");
                }
            }
        }
    }
}

fn path(repos: &Path) -> PathBuf {
    repos.with_file_name(FILE)
}

fn set_apart(path: &Path, error: &io::Error) {
    let apart = path.with_extension("json.damaged");
    let (moved, path, to) = (std::fs::rename(path, &apart), path.display(), apart.display());
    match moved {
        Ok(()) => {
            tracing::warn!(%path, %to, %error, "the list of what clients want cannot be read; it is set apart, and a new one begins")
        }
        Err(failed) => {
            tracing::warn!(%path, %error, %failed, "the list of what clients want cannot be read nor set apart; a new one takes its place")
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Want>> {
    let wants: Vec<Want> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let now = seconds(SystemTime::now());
    // One from the future was written under a wrong clock, and would never be forgotten.
    let wants = wants.into_iter().map(|want| Want { last: want.last.min(now), ..want });
    Ok(wants.filter(|want| !want.is_forgotten(now)).collect())
}

/// The list in the cache folder `dir`, most wanted first.
pub fn read_list(dir: &Path) -> io::Result<Vec<Want>> {
    let mut wants = read(&dir.join(FILE))?;
    wants.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.image.cmp(&b.image)));
    Ok(wants)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may be somebody's only list, and the next save would overwrite it.
    #[test]
    fn a_damaged_list_is_set_apart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        std::fs::write(folder.path().join(FILE), "[{\"image\": \"docker.io/library/alpine:1\"").unwrap();
        let list = WantedList::load(&store, &Clock::new());
        let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/debian".parse().unwrap() };
        list.note(&scope, &Reference::Tag("13".parse().unwrap()));
        list.save(&store);
        assert_eq!(read_list(folder.path()).unwrap()[0].image, "docker.io/library/debian:13");
        let apart = std::fs::read_to_string(folder.path().join("wanted.json.damaged")).unwrap();
        assert!(apart.contains("alpine:1"), "{apart}");
    }
}

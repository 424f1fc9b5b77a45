//! Random operations, crashes, damage and disk faults against a simple model, tens of thousands of steps.
//!
//! What must hold after every step: bytes that are served are right; the account never says less than the disk holds,
//! and neither exceeds the limit (I8); what is pinned and undamaged is here; after a restart the account is the disk.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::*;
use crate::oci::Algorithm;

const LIMIT: u64 = 40_000;
const OBJECTS: u64 = 60;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

fn content(n: u64) -> (Digest, Bytes) {
    let bytes: Vec<u8> = (0..(n * 53) % 4000 + 1).map(|at| (at.wrapping_mul(n + 7) % 251) as u8 ^ n as u8).collect();
    let algorithm = if n.is_multiple_of(7) { Algorithm::Sha512 } else { Algorithm::Sha256 };
    (Digest::of(algorithm, &bytes), bytes.into())
}

/// As a process that starts: the tree is read, nothing runs in the background.
fn start(dir: &Path, eviction: config::Eviction) -> Arc<Cache> {
    let config = config::Cache {
        dir: dir.into(),
        max_size: Amount::Bytes(LIMIT),
        min_free: Amount::Bytes(0),
        memory: 0,
        eviction,
        ..config::Cache::default()
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    scan::scan(&cache.store, &cache.index).unwrap();
    cache.scanned.send_replace(Scan::Complete);
    cache
}

/// The files of the folders that count.
fn disk(dir: &Path) -> u64 {
    let folders = ["blobs/sha256", "blobs/sha512", "ingest", "quarantine"].map(|folder| dir.join(folder));
    let sizes = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.sum()
}

struct World {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
    random: Random,
    contents: HashMap<Digest, Bytes>,
    /// Files that were damaged behind the cache's back.
    damaged: HashSet<Digest>,
    pinned: HashSet<Digest>,
    /// Pinned ones that were here at some moment since.
    kept: HashSet<Digest>,
    eviction: config::Eviction,
    served: u64,
    faults: u64,
    damages: u64,
}

impl World {
    fn some(&mut self) -> (Digest, Bytes) {
        content(self.random.below(OBJECTS))
    }

    fn path(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.path().join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    async fn get(&mut self) {
        let (digest, right) = self.some();
        match self.cache.get(&digest).await {
            Some(hit) => {
                assert!(bytes(&hit) == right, "wrong bytes of {digest}");
                self.served += 1;
            }
            None => drop(self.damaged.remove(&digest)),
        }
    }

    /// A fill that is whole, or stops half way and is continued another time.
    fn fill(&mut self) {
        let (digest, bytes) = self.some();
        let cut = self.random.below(bytes.len() as u64 + 1) as usize;
        let cache = self.cache.clone();
        let Ok((mut ingest, mut reservation)) = cache.resume(&digest, 0) else { return };
        let at = ingest.len() as usize;
        if at > bytes.len() || ingest.is_complete() {
            return cache.discard(&digest, Some(ingest), reservation);
        }
        let wanted = (bytes.len() as u64).saturating_sub(reservation.bytes());
        match cache.make_room(wanted, 0) {
            Ok(more) => reservation.absorb(more),
            Err(_) => return cache.leave(&digest, Some(ingest), reservation),
        }
        let end = cut.max(at);
        if ingest.append(&[bytes.slice(at..end)]).is_err() || end < bytes.len() {
            return cache.leave(&digest, Some(ingest), reservation);
        }
        match ingest.proved() {
            Ok(verified) => {
                if cache.publish(verified, reservation).is_ok() {
                    self.damaged.remove(&digest);
                }
            }
            // A torn write of an earlier life stood where the content should.
            Err(refused) => cache.discard(&digest, Some(refused.ingest), reservation),
        }
    }

    fn damage(&mut self) {
        let (digest, _) = self.some();
        let path = self.path(&digest);
        let Ok(mut bytes) = std::fs::read(&path) else { return };
        match self.random.below(3) {
            0 => bytes[0] ^= 1,
            1 => bytes.truncate(bytes.len() / 2),
            _ => bytes.fill(0),
        }
        if Digest::of(digest.algorithm(), &bytes) != digest {
            std::fs::write(&path, bytes).unwrap();
            self.damaged.insert(digest);
            self.damages += 1;
        }
    }

    fn restart(&mut self) {
        let other = tempfile::tempdir().unwrap();
        // The old process must let go of the lock before the new one begins.
        let placeholder = start(other.path(), self.eviction);
        drop(std::mem::replace(&mut self.cache, placeholder));
        self.cache = start(self.dir.path(), self.eviction);
        self.cache.index.protect(self.pinned.clone());
        assert_eq!(self.cache.index.totals().0, disk(self.dir.path()), "after a restart the account is the disk");
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..25 => {
                let (digest, bytes) = self.some();
                if self.cache.put(digest, bytes).await.is_ok() {
                    self.damaged.remove(&digest);
                }
            }
            25..55 => self.get().await,
            55..75 => self.fill(),
            75..80 => self.damage(),
            80..83 => self.restart(),
            83..86 => {
                let (digest, _) = self.some();
                if !self.pinned.remove(&digest) && self.pinned.len() < 5 {
                    self.pinned.insert(digest);
                }
                self.kept.retain(|digest| self.pinned.contains(digest));
                self.cache.index.protect(self.pinned.clone());
            }
            86..88 => drop(self.cache.collect(self.random.below(4000), false).await),
            88..90 => {
                let (digest, _) = self.some();
                if self.cache.check(&digest) != verify::Verdict::Sound {
                    self.damaged.remove(&digest);
                }
            }
            90..92 => self.cache.flush().await,
            _ => self.fault().await,
        }
    }

    /// The disk fails at some call of the next operations: once, or from then on until the process is dead.
    async fn fault(&mut self) {
        let errno = [5, 28, 30][self.random.below(3) as usize];
        let dies = self.random.below(2) == 0;
        let faults = self.cache.store.faults().clone();
        faults.arm(self.random.below(8) as u32, errno, dies);
        for _ in 0..3 {
            match self.random.below(3) {
                0 => {
                    let (digest, bytes) = self.some();
                    if self.cache.put(digest, bytes).await.is_ok() {
                        self.damaged.remove(&digest);
                    }
                }
                1 => self.get().await,
                _ => self.fill(),
            }
        }
        faults.disarm();
        self.faults += 1;
        // A read that failed may have set a sound file apart, and a failed publication a pinned one aside.
        self.kept.clear();
        if dies {
            self.restart();
        }
    }

    fn invariants(&mut self, step: usize) {
        let (account, on_disk) = (self.cache.index.totals().0, disk(self.dir.path()));
        assert!(account <= LIMIT, "step {step}: the account has {account}");
        // Damage makes files shorter, never longer.
        assert!(on_disk <= account, "step {step}: {on_disk} bytes on disk, {account} accounted for");
        let pinned: Vec<Digest> = self.pinned.iter().filter(|digest| self.cache.index.contains(digest)).copied().collect();
        for digest in &self.kept {
            assert!(
                pinned.contains(digest) || self.damaged.contains(digest) || !self.path(digest).exists() && self.damages > 0,
                "step {step}: pinned {digest} has gone"
            );
        }
        self.kept = pinned.into_iter().filter(|digest| !self.damaged.contains(digest)).collect();
    }
}

#[tokio::test]
async fn i1_i8_random_operations_crashes_and_faults() {
    for (eviction, seed) in config::Eviction::ALL.into_iter().zip(1u64..) {
        let dir = tempfile::tempdir().unwrap();
        let cache = start(dir.path(), eviction);
        let mut world = World {
            dir,
            cache,
            random: Random(0x9E37_79B9_7F4A_7C15 ^ (seed << 40)),
            contents: (0..OBJECTS).map(content).collect(),
            damaged: HashSet::new(),
            pinned: HashSet::new(),
            kept: HashSet::new(),
            eviction,
            served: 0,
            faults: 0,
            damages: 0,
        };
        for step in 0..5000 {
            world.step().await;
            world.invariants(step);
        }
        // Whatever happened, no file that was not damaged from outside is wrong.
        world.restart();
        let contents = world.contents.clone();
        for digest in contents.keys() {
            if world.cache.check(digest) != verify::Verdict::Sound {
                assert!(world.damaged.contains(digest), "{eviction:?}: {digest} is wrong");
            }
        }
        assert!(
            world.served > 300 && world.faults > 200 && world.damages > 50,
            "{} {} {}",
            world.served,
            world.faults,
            world.damages
        );
    }
}

//! Whole operations, as a client or an operator pays for them: a hit over loopback, an insertion with all that makes it
//! durable, an eviction with its unlink. All sizes are open at the same time and are measured in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roadstead::app::{Mirror, Running};
use roadstead::cache::Cache;
use roadstead::config::Config;
use roadstead::metrics::Metrics;
use roadstead::oci::{Algorithm, Digest};
use tokio::runtime::Runtime;

use super::ask::Connection;
use super::clock::{Moment, Spent};
use super::resident;
use super::rounds::Rounds;
use super::tree::{self, Tree};

/// Objects that are asked for, of each size: as many, so that the same share of them is in the CPU's caches.
const ASKED: usize = 500;

const ROUNDS: usize = 40;

/// Objects put in, or evicted, in one go.
const MADE: u64 = 25;

/// A mirror on a tree, and how it started.
pub struct Started {
    running: Running,
    /// Until the first cached pull was answered.
    pub first: Duration,
    /// Until the index was complete.
    pub indexed: Duration,
    /// Until the catalog was complete.
    pub surveyed: Duration,
    /// Resident bytes an object.
    pub memory: u64,
}

impl Started {
    pub fn admin(&self) -> Connection {
        Connection::open(self.running.admin_address().unwrap())
    }

    pub fn client(&self) -> Connection {
        Connection::open(self.running.addresses()[0])
    }

    pub fn end(self, runtime: &Runtime) {
        runtime.block_on(self.running.shutdown());
    }
}

fn config(tree: &Tree, memory: &str, max_size: u64) -> Config {
    let text = format!(
        "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.level = \"error\"\n\
         cache = {{ dir = {:?}, offline = true, memory = \"{memory}\", max_size = \"{max_size}B\", min_free = \"0%\", verify_every = \"0s\" }}\n\
         freshness.fresh_for = \"1d\"\n",
        tree.dir
    );
    Config::parse(&text, "scale").unwrap()
}

/// Starts a mirror, and waits until it knows all it has.
pub fn start(runtime: &Runtime, tree: &Tree, memory: &str) -> Started {
    let (repository, _, manifest) = tree::image(tree.images / 2);
    let pull = format!("/v2/{repository}/manifests/{}", tree::of(&manifest));
    let before = resident();
    let started = Instant::now();
    let running = runtime.block_on(Mirror::start(config(tree, memory, 1 << 40))).unwrap();
    let mut early = Connection::open(running.addresses()[0]);
    assert_eq!(early.get("GET", &pull), manifest.as_bytes());
    let first = started.elapsed();
    let mut admin = Connection::open(running.admin_address().unwrap());
    let mut state = |what: &str| {
        while !String::from_utf8(admin.get("GET", "/api/v1/cache")).unwrap().contains(&format!("\"{what}\":true")) {
            std::thread::sleep(Duration::from_millis(2));
        }
        started.elapsed()
    };
    let (indexed, surveyed) = (state("indexed"), state("complete"));
    let memory = resident().saturating_sub(before) / tree.all.len() as u64;
    Started { running, first, indexed, surveyed, memory }
}

/// CPU and time of one operation, by size.
struct Costs {
    cpu: Rounds,
    wall: Rounds,
}

impl Costs {
    fn new(sizes: usize) -> Self {
        Self { cpu: Rounds::new(sizes), wall: Rounds::new(sizes) }
    }

    fn add(&mut self, size: usize, cpu: Duration, spent: Spent, operations: u64) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / operations as f64;
        self.cpu.add(size, each(cpu));
        self.wall.add(size, each(spent.wall));
    }

    fn print(&self, what: &str) {
        println!("| {what}, CPU | {} |", self.cpu.cells(1));
        println!("| {what}, time | {} |", self.wall.cells(1));
    }
}

/// Asks each mirror for the same objects of its own, again and again.
fn hits(runtime: &Runtime, trees: &[Tree], memory: &str) -> Costs {
    let mirrors: Vec<Started> = trees.iter().map(|tree| start(runtime, tree, memory)).collect();
    let (repository, ..) = tree::image(0);
    let asked = trees.iter().map(|tree| {
        let some = tree.all.iter().step_by(tree.all.len() / ASKED).take(ASKED);
        some.map(|digest| format!("/v2/{repository}/blobs/{digest}")).collect()
    });
    let asked: Vec<Vec<String>> = asked.collect();
    let mut costs = Costs::new(trees.len());
    for round in 0..ROUNDS + 2 {
        for (size, (mirror, paths)) in mirrors.iter().zip(&asked).enumerate() {
            // A connection that was idle for as long as the others take may have been closed.
            let mut client = mirror.client();
            client.get("GET", &paths[0]);
            let moment = Moment::now();
            paths.iter().for_each(|path| drop(client.get("GET", path)));
            let spent = moment.spent();
            // The first times, all is read from disk.
            if round > 1 {
                costs.add(size, spent.others, spent, paths.len() as u64);
            }
        }
    }
    mirrors.into_iter().for_each(|mirror| mirror.end(runtime));
    costs
}

/// New content, of so many bytes.
fn fresh(n: u64, size: u64) -> (Digest, Bytes) {
    let mut bytes = n.to_be_bytes().to_vec();
    bytes.resize(size.max(8) as usize, 0);
    (Digest::of(Algorithm::Sha256, &bytes), bytes.into())
}

/// A cache without a mirror: its limit, and what has been put into it.
struct Full {
    cache: Arc<Cache>,
    limit: u64,
    made: Vec<Digest>,
}

impl Full {
    fn open(runtime: &Runtime, tree: &Tree, room: u64) -> Self {
        let (limit, _context) = (tree.bytes + room, runtime.enter());
        let cache = Cache::open(&config(tree, "0B", limit).cache, Arc::new(Metrics::new())).unwrap();
        runtime.spawn(cache.clone().maintain());
        runtime.block_on(cache.until_surveyed());
        Self { cache, limit, made: Vec::new() }
    }

    /// Bytes after which something has to go.
    fn free(&self) -> u64 {
        self.limit - self.cache.disk_totals().0
    }

    /// Puts so many new objects in, one after the other; each makes another one go, or none does.
    fn put(&mut self, runtime: &Runtime, evicting: bool) -> Spent {
        let moment = Moment::now();
        for _ in 0..MADE {
            let size = if evicting { self.free() + 1 } else { 8 };
            let (digest, bytes) = fresh(1 << 60 | self.made.len() as u64, size);
            runtime.block_on(self.cache.put(digest, bytes)).unwrap();
            self.made.push(digest);
        }
        moment.spent()
    }

    /// Makes room for one byte more than there is, so many times.
    fn evict(&self) -> Spent {
        let (before, moment) = (self.cache.disk_totals().1, Moment::now());
        for _ in 0..MADE {
            drop(self.cache.make_room(self.free() + 1, 0).unwrap());
        }
        let spent = moment.spent();
        assert_eq!(before - self.cache.disk_totals().1, MADE as usize);
        spent
    }
}

/// Files that are unlinked by themselves at each size, in one go.
const UNLINKED: usize = 12;

/// Waits until what has been written is on the disk: nobody else's costs.
fn settle() {
    assert!(std::process::Command::new("sync").status().unwrap().success());
}

/// What the file system takes for its part of an eviction: files are unlinked that nobody has looked at for a while, as
/// those are that are evicted.
fn unlinks(trees: &[Tree]) -> Costs {
    settle();
    let mut costs = Costs::new(trees.len());
    for round in 0..ROUNDS {
        for (size, tree) in trees.iter().enumerate() {
            let step = tree.all.len() / (ROUNDS * UNLINKED);
            let some = tree.all.iter().skip(round * UNLINKED * step).step_by(step).take(UNLINKED);
            let some: Vec<_> = some.map(|digest| tree.dir.join("blobs/sha256").join(digest.hex())).collect();
            let moment = Moment::now();
            some.iter().for_each(|path| std::fs::remove_file(path).unwrap());
            let spent = moment.spent();
            costs.add(size, spent.own, spent, UNLINKED as u64);
        }
    }
    costs
}

/// Prints the table. Afterwards some files of the trees are missing.
pub fn measure(runtime: &Runtime, trees: &[Tree]) {
    settle();
    let (memory, disk) = (hits(runtime, trees, "64MiB"), hits(runtime, trees, "0B"));
    let room = ROUNDS as u64 * MADE * 8;
    let mut caches: Vec<Full> = trees.iter().map(|tree| Full::open(runtime, tree, room)).collect();
    let mut rounds = |one: &dyn Fn(&mut Full) -> Spent| {
        let mut costs = Costs::new(trees.len());
        for _ in 0..ROUNDS {
            for (size, full) in caches.iter_mut().enumerate() {
                let spent = one(full);
                costs.add(size, spent.own + spent.others, spent, MADE);
            }
        }
        costs
    };
    let insertion = rounds(&|full| full.put(runtime, false));
    let both = rounds(&|full| full.put(runtime, true));
    let eviction = rounds(&|full| {
        let spent = full.evict();
        // As many objects as before.
        full.put(runtime, false);
        spent
    });
    for Full { cache, made, .. } in &caches {
        cache.take_back(made);
        runtime.block_on(cache.close());
    }
    drop(caches);
    let trees: Vec<Tree> = trees.iter().map(Tree::again).collect();
    let unlink = unlinks(&trees);
    let sizes: Vec<u64> = trees.iter().map(|tree| tree.all.len() as u64 / 100 * 100).collect();
    println!("\nWhole operations, microseconds: CPU of the mirror's threads, and time; all sizes in turns, the cheapest tenth");
    println!("of {ROUNDS} rounds, which other work disturbed least; in brackets the ratio to the smallest size.\n");
    super::head("operation", &sizes, " within 10 % |");
    memory.print("a hit from memory, over loopback");
    disk.print("a hit from disk, over loopback");
    insertion.print("an insertion: written, made durable, named, indexed");
    eviction.print("an eviction: chosen and unlinked");
    unlink.print("of this, the file system's part: unlinking such a file, and nothing else");
    both.print("an insertion into a full cache, with its eviction");
}

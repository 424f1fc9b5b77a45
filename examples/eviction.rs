//! Replays traces against every eviction policy and prints object and byte hit rates against Belady's bound.
//!
//!     cargo run --release --example eviction            prints the tables of docs/EVICTION.md
//!
//! The traces are made, not recorded: images of shared base layers and own layers (sizes log-normal with a median of
//! 4 MiB and a 90th percentile near 50 MiB, as Zhao et al. 2019 measured on Docker Hub), Zipf popularity with
//! favourites that drift, moving tags, a nightly job that pulls a fixed list once (CI), and clients that ask only for
//! the layers they lack. Deterministic: the same table on every machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it finds is for whoever runs it")]

use std::collections::{BTreeSet, HashMap};

use roadstead::cache::evict::{Kind, policy};

/// xorshift64*: a trace needs no better one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }

    /// A layer's size in bytes.
    fn layer(&mut self) -> u64 {
        ((4.0 * 1048576.0) * (2.0 * self.normal()).exp()).clamp(200.0, 2e9) as u64
    }
}

/// Ranks with probability proportional to 1/rank^alpha.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize, alpha: f64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=n)
                .map(|rank| {
                    sum += (rank as f64).powf(-alpha);
                    sum
                })
                .collect(),
        )
    }

    fn rank(&self, random: &mut Random) -> usize {
        let total = self.0[self.0.len() - 1];
        let wanted = random.unit() * total;
        self.0.partition_point(|sum| *sum < wanted).min(self.0.len() - 1)
    }
}

#[derive(Clone)]
struct Image {
    manifest: u32,
    layers: Vec<u32>,
}

/// What a mirror sees.
#[derive(Clone, Copy)]
enum Event {
    Get(u32),
    /// A manifest was asked for: its layers, asked for or not, belong to an image in use.
    Image(u32),
}

struct Trace {
    name: &'static str,
    sizes: Vec<u64>,
    parts: HashMap<u32, Vec<u32>>,
    events: Vec<Event>,
}

struct Shape {
    name: &'static str,
    repositories: usize,
    alpha: f64,
    pulls: usize,
    /// Pulls between two changes of the favourites; 0 for none.
    drift: usize,
    /// Pulls a day, and images in the nightly list.
    day: usize,
    nightly: usize,
    clients: usize,
}

fn trace(shape: &Shape, seed: u64) -> Trace {
    let mut random = Random(seed);
    let mut sizes = Vec::new();
    let mut object = |size: u64| {
        sizes.push(size);
        (sizes.len() - 1) as u32
    };
    let bases: Vec<Vec<u32>> = (0..60).map(|_| (0..1 + random.below(3)).map(|_| object(random.layer() * 2)).collect()).collect();
    let base_rank = Zipf::new(bases.len(), 1.0);
    let mut image = |random: &mut Random, base: &[u32]| {
        let own = 1 + random.below(6);
        let mut layers = base.to_vec();
        layers.push(object(2000 + random.below(8000) as u64));
        layers.extend((0..own).map(|_| object(random.layer())));
        Image { manifest: object(1000 + random.below(3000) as u64), layers }
    };
    let base_of: Vec<usize> = (0..shape.repositories).map(|_| base_rank.rank(&mut random)).collect();
    let mut current: Vec<Image> = base_of.iter().map(|base| image(&mut random, &bases[*base])).collect();
    let mut popularity: Vec<usize> = (0..shape.repositories).collect();
    let zipf = Zipf::new(shape.repositories, shape.alpha);
    let mut parts = HashMap::new();
    let mut events = Vec::new();
    // What each client has, as the last images it pulled.
    let mut clients: Vec<Vec<u32>> = vec![Vec::new(); shape.clients];
    for pull in 0..shape.pulls {
        if shape.drift > 0 && pull % shape.drift == shape.drift - 1 {
            // A few come into fashion, and some tags move.
            for _ in 0..shape.repositories / 50 {
                let (a, b) = (random.below(shape.repositories), random.below(shape.repositories / 10));
                popularity.swap(a, b);
            }
            for _ in 0..shape.repositories / 20 {
                let at = popularity[zipf.rank(&mut random)];
                current[at] = image(&mut random, &bases[base_of[at]]);
            }
        }
        let nightly = shape.nightly > 0 && pull % shape.day == shape.day - 1;
        let wanted: Vec<(usize, usize)> = if nightly {
            // Fresh runners: they have nothing.
            (0..shape.nightly).map(|n| ((n * 7919) % shape.repositories, usize::MAX)).collect()
        } else {
            vec![(popularity[zipf.rank(&mut random)], random.below(shape.clients))]
        };
        for (repository, client) in wanted {
            let image = &current[repository];
            events.push(Event::Get(image.manifest));
            parts.entry(image.manifest).or_insert_with(|| image.layers.clone());
            events.push(Event::Image(image.manifest));
            for layer in &image.layers {
                if client == usize::MAX || !clients[client].contains(layer) {
                    events.push(Event::Get(*layer));
                }
            }
            if client != usize::MAX {
                let has = &mut clients[client];
                has.extend(image.layers.iter().filter(|layer| !has.contains(layer)).copied().collect::<Vec<_>>());
                // A client is replaced, or cleans up.
                if has.len() > 120 || random.below(40) == 0 {
                    has.clear();
                }
            }
        }
    }
    Trace { name: shape.name, sizes, parts, events }
}

#[derive(Default)]
struct Rates {
    gets: u64,
    hits: u64,
    bytes: u64,
    hit_bytes: u64,
}

impl Rates {
    fn object(&self) -> f64 {
        100.0 * self.hits as f64 / self.gets as f64
    }
    fn byte(&self) -> f64 {
        100.0 * self.hit_bytes as f64 / self.bytes as f64
    }
}

fn replay(trace: &Trace, kind: Kind, capacity: u64, image_aware: bool) -> Rates {
    let mut policy = policy(kind);
    let mut here = vec![false; trace.sizes.len()];
    let (mut held, mut rates) = (0, Rates::default());
    for event in &trace.events {
        let id = match *event {
            Event::Get(id) => id,
            Event::Image(manifest) => {
                if image_aware {
                    trace.parts[&manifest].iter().filter(|part| here[**part as usize]).for_each(|part| policy.touch(*part));
                }
                continue;
            }
        };
        let size = trace.sizes[id as usize];
        rates.gets += 1;
        rates.bytes += size;
        if here[id as usize] {
            rates.hits += 1;
            rates.hit_bytes += size;
            policy.touch(id);
            continue;
        }
        if size > capacity {
            continue;
        }
        while held + size > capacity {
            let Some(victim) = policy.evict() else { break };
            here[victim as usize] = false;
            held -= trace.sizes[victim as usize];
        }
        policy.insert(id, u64::from(id), size);
        here[id as usize] = true;
        held += size;
    }
    rates
}

/// The future: for each event the next one that gets the same object.
fn next_uses(trace: &Trace) -> Vec<usize> {
    let mut last: HashMap<u32, usize> = HashMap::new();
    let mut next = vec![usize::MAX; trace.events.len()];
    for (at, event) in trace.events.iter().enumerate().rev() {
        if let Event::Get(id) = event {
            next[at] = last.insert(*id, at).unwrap_or(usize::MAX);
        }
    }
    next
}

/// Belady's MIN over single bytes: an object may be kept in part. Exact for byte hits of that freer cache, so no cache
/// of whole objects can save more bytes. Object hits count where the whole object is there: no bound, a reference.
fn belady(trace: &Trace, next: &[usize], capacity: u64) -> Rates {
    let mut kept: HashMap<u32, (usize, u64)> = HashMap::new();
    let mut order: BTreeSet<(usize, u32)> = BTreeSet::new();
    let (mut held, mut rates) = (0u64, Rates::default());
    for (at, event) in trace.events.iter().enumerate() {
        let Event::Get(id) = *event else { continue };
        let size = trace.sizes[id as usize];
        rates.gets += 1;
        rates.bytes += size;
        if let Some((due, bytes)) = kept.remove(&id) {
            order.remove(&(due, id));
            held -= bytes;
            rates.hit_bytes += bytes;
            rates.hits += u64::from(bytes == size);
        }
        if next[at] == usize::MAX {
            continue;
        }
        kept.insert(id, (next[at], size));
        order.insert((next[at], id));
        held += size;
        while held > capacity {
            let Some((due, last)) = order.pop_last() else { break };
            let Some((_, bytes)) = kept.remove(&last) else { break };
            let cut = bytes.min(held - capacity);
            held -= cut;
            if bytes > cut {
                kept.insert(last, (due, bytes - cut));
                order.insert((due, last));
            }
        }
    }
    rates
}

fn main() {
    let shapes = [
        Shape { name: "fleet", repositories: 1500, alpha: 0.9, pulls: 40_000, drift: 1000, day: 2000, nightly: 0, clients: 200 },
        Shape {
            name: "fleet and nightly CI",
            repositories: 1500,
            alpha: 0.9,
            pulls: 40_000,
            drift: 1000,
            day: 2000,
            nightly: 400,
            clients: 200,
        },
        Shape {
            name: "CI only, no client keeps anything",
            repositories: 800,
            alpha: 0.7,
            pulls: 20_000,
            drift: 2000,
            day: 1000,
            nightly: 200,
            clients: 2000,
        },
    ];
    let shares = [0.01, 0.05, 0.1, 0.25, 0.5];
    let mut sums: HashMap<(&str, bool), (f64, f64)> = HashMap::new();
    for (seed, shape) in shapes.iter().enumerate() {
        let trace = trace(shape, 0x9E37_79B9_7F4A_7C15 ^ ((seed as u64 + 1) << 32));
        let next = next_uses(&trace);
        let mut seen = vec![false; trace.sizes.len()];
        trace.events.iter().for_each(|event| {
            if let Event::Get(id) = event {
                seen[*id as usize] = true
            }
        });
        let footprint: u64 = trace.sizes.iter().zip(&seen).filter(|(_, seen)| **seen).map(|(size, _)| size).sum();
        let gets = trace.events.iter().filter(|event| matches!(event, Event::Get(_))).count();
        println!("### {}: {gets} requests, {:.0} GiB of content\n", trace.name, footprint as f64 / (1u64 << 30) as f64);
        let columns: Vec<String> = shares.iter().map(|share| format!("{:.0} %", share * 100.0)).collect();
        println!("| policy | {} |", columns.join(" | "));
        println!("|---|{}", "---:|".repeat(shares.len()));
        let print = |name: &str, rates: &[Rates]| {
            let cells: Vec<String> = rates.iter().map(|rates| format!("{:.1} / {:.1}", rates.object(), rates.byte())).collect();
            println!("| {name} | {} |", cells.join(" | "));
        };
        for kind in Kind::ALL {
            for aware in [false, true] {
                let rates: Vec<Rates> =
                    shares.iter().map(|share| replay(&trace, kind, (footprint as f64 * share) as u64, aware)).collect();
                let sum = sums.entry((kind.name(), aware)).or_default();
                for rate in &rates {
                    sum.0 += rate.object() / (shapes.len() * shares.len()) as f64;
                    sum.1 += rate.byte() / (shapes.len() * shares.len()) as f64;
                }
                print(&format!("{}{}", kind.name(), if aware { ", image-aware" } else { "" }), &rates);
            }
        }
        let bound: Vec<Rates> = shares.iter().map(|share| belady(&trace, &next, (footprint as f64 * share) as u64)).collect();
        print("Belady", &bound);
        println!();
    }
    println!("### Mean over all traces and sizes\n\n| policy | objects % | bytes % |\n|---|---:|---:|");
    let mut means: Vec<_> = sums.into_iter().collect();
    means.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for ((name, aware), (object, byte)) in means {
        println!("| {name}{} | {object:.2} | {byte:.2} |", if aware { ", image-aware" } else { "" });
    }
}

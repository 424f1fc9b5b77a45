//! What the steps of a pull cost, one by one: `cargo bench`, or `cargo bench -- NAME` for some. Only one run beside
//! another, on a machine that does nothing else, says anything; what fails a build is `benches/instructions`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderMap;
use roadstead::app::Workshop;
use roadstead::cache::index::{Claim, Index, Limits};
use roadstead::cache::records::TagRecord;
use roadstead::cache::store::Space;
use roadstead::clock::Clock;
use roadstead::config::{self, Config};
use roadstead::fill::extents::Extents;
use roadstead::fill::progress::{Progress, Readable};
use roadstead::metrics::Metrics;
use roadstead::oci::{Algorithm, Digest, Directory, RangeHeader, Reference, Route, Scope, Target, Wanted};
use roadstead::policy::{Caller, Peer, Policy};
use roadstead::pull::{Pull, Request};

const ROOMY: Space = Space { free: 1 << 60, total: 1 << 60 };

fn digest(n: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &n.to_le_bytes())
}

fn directory() -> Directory {
    let config = Config::default();
    let hosts = config.upstreams.iter().map(|(name, upstream)| (name, upstream.hosts.as_slice()));
    Directory::new(config.server.default_upstream.clone(), hosts)
}

fn routes(criterion: &mut Criterion) {
    let directory = directory();
    let (manifest, blob) = ("/v2/library/alpine/manifests/3.20".to_owned(), format!("/v2/library/alpine/blobs/{}", digest(1)));
    let mut group = criterion.benchmark_group("route");
    for (name, path, query) in [
        ("manifest by tag", &manifest, None),
        ("manifest by tag, with ns", &manifest, Some("ns=docker.io")),
        ("blob", &blob, None),
    ] {
        let parse = || Route::parse(black_box(path), black_box(query), Some("127.0.0.1:5000"), &directory).unwrap();
        group.bench_function(name, |bencher| bencher.iter(parse));
    }
}

fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("range");
    let many = (0..20).map(|n| format!("{}-{}", n * 1000, n * 1000 + 99)).collect::<Vec<_>>().join(",");
    for (name, value) in [("one", "bytes=1048576-2097151"), ("twenty", &format!("bytes={many}"))] {
        let parse = || RangeHeader::parse(black_box(value)).unwrap().resolve(1 << 30);
        group.bench_function(name, |bencher| bencher.iter(parse));
    }
}

/// A pull path whose cache holds a manifest, its tag and a blob of 10 KB, and what to ask it for.
async fn warm(dir: &str) -> (Arc<Pull>, Policy, Vec<(&'static str, String)>) {
    let config = Config::parse(&format!("cache.dir = '{dir}'\nfreshness.fresh_for = '1d'"), "micro").unwrap();
    let policy = Policy::new(&config, Arc::new(Metrics::new())).unwrap();
    let Workshop { cache, pull, .. } = Workshop::open(config, &Arc::new(Metrics::new())).await.unwrap();
    let blob = vec![b's'; 10_000];
    let of = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
    let descriptor = format!(r#"{{"mediaType":"application/octet-stream","digest":"{}","size":10000}}"#, of(&blob));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{descriptor},"layers":[{descriptor}]}}"#
    );
    let digest = of(manifest.as_bytes());
    let maintained = tokio::spawn(cache.clone().maintain());
    cache.put(of(&blob), blob.clone().into()).await.unwrap();
    cache.put(digest, manifest.into()).await.unwrap();
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/alpine".parse().unwrap() };
    let record = TagRecord { digest, checked_at: Clock::new().now(), imported: false };
    cache.set_tag(&scope, &"latest".parse().unwrap(), record).await.unwrap();
    maintained.abort();
    let path = |rest: String| format!("/v2/library/alpine/{rest}");
    let paths = vec![
        ("manifest by digest", path(format!("manifests/{digest}"))),
        ("manifest by fresh tag", path("manifests/latest".to_owned())),
        ("10 KB blob", path(format!("blobs/{}", of(&blob)))),
    ];
    (pull, policy, paths)
}

/// From a route to the head and body of an answer, everything in memory.
fn hits(criterion: &mut Criterion) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (pull, policy, paths) = runtime.block_on(warm(folder.path().to_str().unwrap()));
    let (directory, headers) = (directory(), HeaderMap::new());
    let peer = Peer::new(Some(SocketAddr::from(([127, 0, 0, 1], 40_000))));
    let mut group = criterion.benchmark_group("hit");
    for (name, path) in &paths {
        let route = Route::parse(path, None, None, &directory).unwrap();
        let Target::Content(repository, wanted) = &route.target else { panic!("{path}") };
        let answer = async || {
            let caller = Caller { peer: &peer, headers: &headers };
            let mut session = policy.look();
            let identity = session.identify(&caller, Some(&route.upstream)).await.unwrap();
            let permit = session.admit(&identity, &route.upstream, repository).unwrap();
            let request = Request { head: false, headers: &headers, path, namespace: None, needs_length: false, permit };
            pull.answer(&request, wanted).await
        };
        // Twice: from disk into memory, then as it is measured.
        for _ in 0..2 {
            let first = runtime.block_on(answer());
            assert_eq!(first.response.status(), 200, "{path}: {:?}", first.error);
        }
        let is_tag = matches!(wanted, Wanted::Manifest(Reference::Tag(_)));
        assert_eq!(is_tag, path.ends_with("latest"));
        group.bench_function(*name, |bencher| bencher.iter(|| runtime.block_on(answer())));
    }
}

fn index(criterion: &mut Criterion) {
    const OBJECTS: u64 = 100_000;
    let limits = Limits { max_size: OBJECTS * 1000, min_free: 0 };
    let index = Arc::new(Index::with(limits, &[], config::Eviction::default()));
    let digests: Vec<Digest> = (0..OBJECTS * 2).map(digest).collect();
    digests[..OBJECTS as usize].iter().for_each(|digest| index.insert(*digest, 1000));
    let mut at = 0;
    let mut next = |among: u64| {
        at = (at + 7919) % among;
        digests[at as usize]
    };
    let mut group = criterion.benchmark_group("index");
    group.bench_function("touch", |bencher| bencher.iter(|| index.touch(&next(OBJECTS))));
    group.bench_function("contains", |bencher| bencher.iter(|| index.contains(&next(OBJECTS))));
    // The index is full: each insertion needs an eviction first, as it does in a cache that has been running for long.
    group.bench_function("evict and insert", |bencher| {
        bencher.iter_batched(
            || next(OBJECTS * 2),
            |digest| loop {
                match index.claim(1000, 0, ROOMY, 0) {
                    Claim::Granted(reservation) => break reservation.published(digest, 1000, 0),
                    Claim::Evict(victim) => index.left(victim),
                    Claim::Free(_) | Claim::OnItsWay | Claim::Wait | Claim::Impossible => {
                        panic!("there is always something to evict")
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
}

/// A MiB more is announced, and every reader learns of it.
fn fill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fill append, readers");
    for readers in [1, 8, 64] {
        let progress = Progress::<()>::new();
        progress.begin(None, Extents::prefix(1 << 20));
        let places: Vec<_> = (0..readers).map(|_| progress.attach()).collect();
        let mut cx = Context::from_waker(Waker::noop());
        let mut written = 1 << 20;
        group.throughput(Throughput::Elements(readers));
        group.bench_function(readers.to_string(), |bencher| {
            bencher.iter(|| {
                for place in &places {
                    assert!(progress.poll_beyond(written, place, &mut cx).is_pending());
                }
                let before = written;
                written += 1 << 20;
                progress.advance(written);
                for place in &places {
                    assert!(matches!(
                        progress.poll_beyond(before - (64 << 10), place, &mut cx),
                        Poll::Ready(Ok(Readable::Until(_)))
                    ));
                }
            });
        });
    }
}

criterion_group!(benches, routes, ranges, hits, index, fill);
criterion_main!(benches);

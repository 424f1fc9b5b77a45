//! What goes by itself: what its quota has no more time for, leftovers, what the background pass finds; and what a
//! restart does not forget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::cache::records::{AbsenceRecord, ReferrersRecord};
use crate::config::{Eviction, Globs, Quota};
use crate::oci::{Platforms, Tag};

const HOUR: u64 = 3600;

pub(super) fn config(dir: &std::path::Path, max_size: u64, quotas: Vec<Quota>) -> config::Cache {
    config::Cache {
        dir: dir.into(),
        max_size: Amount::Bytes(max_size),
        min_free: Amount::Bytes(0),
        quotas,
        ..config::Cache::default()
    }
}

/// As a process that starts, up to where the catalog is complete.
pub(super) fn start(config: &config::Cache) -> Arc<Cache> {
    let cache = Cache::open(config, Arc::new(Metrics::new())).unwrap();
    scan::scan(&cache.store, &cache.index).unwrap();
    cache.scanned.send_replace(Scan::Complete);
    cache.survey();
    cache.surveyed.send_replace(true);
    cache
}

pub(super) fn scope(repository: &str) -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repository: repository.parse().unwrap() }
}

/// Publishes a manifest with one layer of 1000 bytes in a repository, as a pull does.
pub(super) async fn publish(cache: &Arc<Cache>, repository: &str, seed: u8) -> (Digest, Digest) {
    let layer = Bytes::from(vec![seed; 1000]);
    let digest = Digest::of(Algorithm::Sha256, &layer);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":1000}}]}}"#,
        Digest::of(Algorithm::Sha256, b"{}")
    );
    let manifest = Digest::of(Algorithm::Sha256, text.as_bytes());
    cache.note_parts(&manifest, &Manifest::parse(text.as_bytes(), None).unwrap());
    cache.put(manifest, text.into()).await.unwrap();
    let record = ManifestRecord { media_type: MediaType::OCI_MANIFEST };
    cache.set_manifest_record(&scope(repository), &manifest, &record).await;
    let reservation = cache.reserve_for(1000, cache.class(&scope(repository))).await.unwrap();
    let mut ingest = cache.store.ingest(&digest).unwrap();
    ingest.append(&[layer]).unwrap();
    cache.publish(ingest.verify().unwrap(), reservation).unwrap();
    (manifest, digest)
}

fn age(cache: &Cache, digest: &Digest, seconds: u64) {
    let path = cache.store.root().join("blobs/sha256").join(digest.hex());
    std::fs::File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// `unused_for`: what was not used for so long goes with its records, a dry run says so before, pins hold it, and other
/// content stays.
#[tokio::test]
async fn what_was_unused_for_too_long_goes() {
    let dir = tempfile::tempdir().unwrap();
    let quota = |pattern: &str, hours| Quota {
        pattern: Globs::new([pattern]).unwrap(),
        max_size: None,
        unused_for: Some(Duration::from_secs(hours * HOUR)),
    };
    let config = config(dir.path(), 1 << 30, vec![quota("docker.io/team/*", 2)]);
    let cache = start(&config);
    let old = publish(&cache, "team/old", 1).await;
    let new = publish(&cache, "team/new", 2).await;
    let other = publish(&cache, "other/old", 3).await;
    let kept = publish(&cache, "team/kept", 4).await;
    let list = ReferrersRecord { body: r#"{"digest":""}"#.into(), filters_applied: None, checked_at: Moment(0) };
    for filter in [None, Some("a/b")] {
        cache.set_referrers_record(&scope("team/old"), &old.0, filter, list.clone()).await;
    }
    let absent = [&old.0, &kept.0].map(|digest| format!("sha256-{}.sig", digest.hex()).parse::<Tag>().unwrap());
    let since = AbsenceRecord { checked_at: Moment(0) };
    cache.set_absence(&scope("team/old"), &absent[0], &since).await;
    cache.set_absence(&scope("team/kept"), &absent[1], &since).await;
    cache.set_absence(&scope("team/kept"), &absent[0], &since).await;
    cache.pin(vec![scope("team/kept").image(kept.0)], &Platforms::default(), Timestamp(0)).unwrap();
    for digest in [old.0, old.1, other.0, other.1, kept.0, kept.1] {
        age(&cache, &digest, 3 * HOUR);
    }
    drop(cache);

    let cache = start(&config);
    cache.survey_pins().unwrap();
    let told = cache.collect(0, true).await.unwrap();
    assert_eq!((told.expired, told.records), (2, 0), "its record has lost its meaning only when it has gone");
    let size = cache.known(&old.0).unwrap().size;
    assert_eq!(told.bytes, 1000 + size);
    cache.keep_house().await;
    let here = |digest: &Digest| cache.known(digest).is_some_and(|known| known.present);
    assert_eq!([old.0, old.1].map(|digest| here(&digest)), [false; 2]);
    assert_eq!([new.0, new.1, other.0, other.1, kept.0, kept.1].map(|digest| here(&digest)), [true; 6]);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 6);
    assert!(!cache.records.manifest_path(&scope("team/old"), &old.0).exists());
    cache.records.reread();
    for filter in [None, Some("a/b")] {
        assert_eq!(cache.referrers_record(&scope("team/old"), &old.0, filter).await, None);
    }
    assert!(cache.records.manifest_path(&scope("team/kept"), &kept.0).exists());
    assert_eq!(cache.absence(&scope("team/old"), &absent[0]).await, None);
    assert_eq!(cache.absence(&scope("team/kept"), &absent[0]).await, None, "never was one of its manifests");
    assert_eq!(cache.absence(&scope("team/kept"), &absent[1]).await, Some(since));
    assert_eq!(cache.collect(0, true).await.unwrap().expired, 0);
    assert_eq!(cache.catalog.totals().manifests, 3);
}

/// A quota's content makes room for itself: the rest stays, whatever is oldest.
#[tokio::test]
async fn a_quota_makes_room_in_itself() {
    let dir = tempfile::tempdir().unwrap();
    let quota =
        Quota { pattern: Globs::new(["docker.io/team/*"]).unwrap(), max_size: Some(Amount::Bytes(3500)), unused_for: None };
    let config = config(dir.path(), 1 << 30, vec![quota]);
    let cache = start(&config);
    let other = publish(&cache, "other/one", 99).await;
    let mut team = Vec::new();
    for seed in 0..5 {
        team.push(publish(&cache, "team/one", seed).await);
        assert!(cache.account().quotas[0].bytes <= 3500, "{:?}", cache.account().quotas);
    }
    let here = |digest: &Digest| cache.known(digest).is_some_and(|known| known.present);
    assert!(here(&other.0) && here(&other.1));
    assert!(here(&team[4].1) && !here(&team[0].1));
    let refused = cache.reserve_for(4000, 1).await.unwrap_err();
    assert!(matches!(refused, NoRoom::Full { .. }), "{refused}");
    let named = r#", and cache.quota."docker.io/team/*".max_size is 3500 bytes"#;
    assert!(refused.to_string().ends_with(named), "what is too small is named: {refused}");
    let refused = cache.reserve_for(1 << 40, 0).await.unwrap_err().to_string();
    assert!(refused.ends_with(" bytes are free"), "{refused}");
    cache.reserve_for(4000, 0).await.unwrap();
    // After a restart the files count for it again.
    let before = cache.account().quotas[0].bytes;
    drop(cache);
    assert_eq!(start(&config).account().quotas[0].bytes, before);
}

/// A quota that is lower than it was in the last process's time holds as soon as it is known what counts for it; and where it
/// is an operator who looks first, what is told is what is done.
#[tokio::test]
async fn a_quota_that_was_lowered_holds_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let lowered = |max_size| {
        let pattern = Globs::new(["docker.io/team/*"]).unwrap();
        config(dir.path(), 1 << 30, vec![Quota { pattern, max_size: Some(Amount::Bytes(max_size)), unused_for: None }])
    };
    let cache = start(&lowered(1 << 20));
    let other = publish(&cache, "other/one", 99).await;
    for seed in 0..10 {
        publish(&cache, "team/one", seed).await;
    }
    let bytes = |cache: &Cache| cache.account().quotas[0].bytes;
    assert!(bytes(&cache) > 10_000);
    drop(cache);

    let cache = start(&lowered(7000));
    cache.keep_house().await;
    assert!(bytes(&cache) <= 7000, "{}", bytes(&cache));
    drop(cache);
    let cache = start(&lowered(5000));
    let told = cache.collect(0, true).await.unwrap();
    let done = cache.collect(0, false).await.unwrap();
    assert_eq!((&told.evicted, told.bytes), (&done.evicted, done.bytes));
    assert!(!done.evicted.is_empty() && bytes(&cache) <= 5000, "{done:?}");
    drop(cache);

    let cache = Cache::open(&lowered(3000), Arc::new(Metrics::new())).unwrap();
    let maintaining = tokio::spawn(cache.clone().maintain());
    cache.until_surveyed().await;
    assert!((1..=3000).contains(&bytes(&cache)), "{}", bytes(&cache));
    assert!(cache.known(&other.0).unwrap().present && cache.known(&other.1).unwrap().present);
    maintaining.abort();
}

/// Manifests count for their repository's quota before they come, not only when they are here.
#[tokio::test]
async fn a_quota_of_which_only_manifests_are_asked_for_holds() {
    let dir = tempfile::tempdir().unwrap();
    let pattern = Globs::new(["docker.io/team/*"]).unwrap();
    let quota = Quota { pattern, max_size: Some(Amount::Bytes(1000)), unused_for: None };
    let cache = start(&config(dir.path(), 1 << 30, vec![quota]));
    let record = ManifestRecord { media_type: MediaType::OCI_MANIFEST };
    for n in 0..20_u8 {
        let manifest = Bytes::from(vec![n; 300]);
        let digest = Digest::of(Algorithm::Sha256, &manifest);
        cache.put_of(&scope("team/app"), digest, manifest).await.unwrap();
        cache.set_manifest_record(&scope("team/app"), &digest, &record).await;
        assert!((300..=1000).contains(&cache.account().quotas[0].bytes), "{n}: {:?}", cache.account().quotas);
    }
}

/// `pin --platform`: space is taken from the other platforms of a pinned image, never from what the one needs.
#[tokio::test]
async fn i8_what_is_not_of_a_pinned_platform_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 12_000, Vec::new());
    let cache = start(&config);
    let images =
        [publish(&cache, "team/app", 1).await, publish(&cache, "team/app", 2).await, publish(&cache, "team/app", 3).await];
    let platforms = [("linux", "amd64"), ("linux", "arm64"), ("unknown", "unknown")];
    let entries = images.iter().zip(platforms).map(|((manifest, _), (os, architecture))| {
        let size = cache.known(manifest).unwrap().size;
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{manifest}","size":{size},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
        )
    });
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.collect::<Vec<_>>().join(",")
    );
    let index = Digest::of(Algorithm::Sha256, text.as_bytes());
    cache.note_parts(&index, &Manifest::parse(text.as_bytes(), None).unwrap());
    cache.put(index, text.into()).await.unwrap();
    // The index does not say v8, which is what it means.
    cache.pin(vec![scope("team/app").image(index)], &"linux/arm64/v8".parse().unwrap(), Timestamp(0)).unwrap();
    for n in 100..150 {
        let other = Bytes::from(vec![n; 1000]);
        cache.put(Digest::of(Algorithm::Sha256, &other), other).await.unwrap();
        assert!(cache.disk_totals().0 <= 12_000);
    }
    let here = |digest: &Digest| cache.known(digest).is_some_and(|known| known.present);
    let [(other, other_layer), (wanted, layer), (attestation, statement)] = images;
    assert_eq!([index, wanted, layer, attestation, statement].map(|digest| here(&digest)), [true; 5]);
    assert_eq!([other, other_layer].map(|digest| here(&digest)), [false; 2]);
    // What is pinned and what is not do not fit together: it is the pin that stays.
    assert!(cache.reserve(11_000).await.is_err());
    assert!(here(&layer));
}

/// Several pins at one moment: what one computes must not take the place of what a later one knows.
#[tokio::test]
async fn pins_that_come_at_once_all_hold() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let mut images = Vec::new();
    for n in 0..80 {
        images.push(publish(&cache, "team/app", n).await);
    }
    let target = |image: &(Digest, Digest)| scope("team/app").image(image.0);
    let (first, later) = images.split_at(60);
    cache.pin(first.iter().map(target).collect(), &Platforms::default(), Timestamp(0)).unwrap();
    for image in later {
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                // Tags that move, manifests that come.
                threads.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        cache.protect();
                    }
                });
            }
            cache.pin(vec![target(image)], &Platforms::default(), Timestamp(0)).unwrap();
            done.store(true, Ordering::Relaxed);
        });
        assert!(cache.index.is_protected(&image.0) && cache.index.is_protected(&image.1), "{}", image.0);
    }
}

/// What a killed process left: temporary files go at the start, unfinished fills are kept, counted, told and collected.
#[tokio::test]
async fn leftovers_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20, Vec::new());
    drop(start(&config));
    let ingest = dir.path().join("ingest");
    let digest = Digest::of(Algorithm::Sha256, b"unfinished");
    for (name, size) in [("whole.0", 10), ("record.3", 10), ("scratch.1", 10), (&*format!("sha256-{}", digest.hex()), 5000)] {
        std::fs::write(ingest.join(name), vec![0; size]).unwrap();
    }
    let cache = start(&config);
    assert_eq!(std::fs::read_dir(&ingest).unwrap().count(), 1);
    assert_eq!(cache.disk_totals().0, 5000);
    let told = cache.collect(0, true).await.unwrap();
    assert_eq!((told.leftovers, told.spare_bytes), (1, 5000));
    assert_eq!(std::fs::read_dir(&ingest).unwrap().count(), 1, "a dry run removes nothing");
    cache.collect(0, false).await.unwrap();
    assert_eq!(std::fs::read_dir(&ingest).unwrap().count(), 0);
    assert_eq!(cache.disk_totals().0, 0);
    // Room that is wanted for a fill is taken from a leftover first.
    std::fs::write(ingest.join(format!("sha256-{}", digest.hex())), vec![0; 1 << 19]).unwrap();
    drop(cache);
    let cache = start(&config);
    cache.reserve(3 << 18).await.unwrap();
    assert_eq!(std::fs::read_dir(&ingest).unwrap().count(), 0);
}

/// A pass of the verification that a restart cuts off goes on where it was.
#[tokio::test]
async fn the_scrubber_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 30, Vec::new());
    let objects: Vec<Bytes> = (0..200u8).map(|n| Bytes::from(vec![n; 100])).collect();
    let cache = start(&config);
    for object in &objects {
        cache.put(Digest::of(Algorithm::Sha256, object), object.clone()).await.unwrap();
    }
    let every = Duration::from_millis(1);
    // 20 kB at 10 kB a second.
    let scrubbing = tokio::spawn(cache.clone().scrub(every, 10_000));
    while cache.scrubbing.progress().objects < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scrubbing.abort();
    let _ = scrubbing.await;
    let done = cache.scrubbing.progress().objects;
    drop(cache);
    let text = std::fs::read_to_string(dir.path().join("verified")).unwrap();
    assert!(!text.contains("\"next\":0,") && text.contains("\"ended\":0"), "{text}");

    let cache = start(&config);
    let scrubbing = tokio::spawn(cache.clone().scrub(every, 0));
    while !std::fs::read_to_string(dir.path().join("verified")).unwrap().contains("\"next\":0,") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scrubbing.abort();
    let rest = cache.scrubbing.progress().objects;
    // The share at hand is done again; the next pass may have begun.
    assert!(done >= 50 && (200 - done..=200 - done + 10).contains(&rest) || rest == 0, "{done} and {rest}");
}

/// A pass whose end lies beyond all clocks, as a damaged file may say, ends nothing.
#[tokio::test]
async fn a_pass_that_ended_at_no_time_does_not_stop_the_scrubber() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    std::fs::write(dir.path().join("verified"), format!(r#"{{"next":0,"ended":{}}}"#, u64::MAX)).unwrap();
    let scrubbing = tokio::spawn(cache.scrub(Duration::from_millis(1), 0));
    while !std::fs::read_to_string(dir.path().join("verified")).unwrap().contains("\"next\":1,") {
        assert!(!scrubbing.is_finished(), "it has given up");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scrubbing.abort();
}

/// What is often used is known to be so after a restart, though it was not used last.
#[tokio::test]
async fn frequency_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = config::Cache { eviction: Eviction::S3Fifo, memory: 0, ..config(dir.path(), 20_000, Vec::new()) };
    let content = |n: u8| Bytes::from(vec![n; 1000]);
    let digest = |n: u8| Digest::of(Algorithm::Sha256, &content(n));
    let cache = start(&config);
    for n in 0..20 {
        cache.put(digest(n), content(n)).await.unwrap();
    }
    for _ in 0..3 {
        for n in 0..5 {
            cache.get(&digest(n)).await.unwrap();
        }
    }
    // Used once, and last.
    for n in 5..20 {
        cache.get(&digest(n)).await.unwrap();
    }
    cache.flush().await;
    drop(cache);
    let cache = start(&config);
    for n in 20..35 {
        cache.put(digest(n), content(n)).await.unwrap();
    }
    let kept: Vec<u8> = (0..20).filter(|n| cache.index.contains(&digest(*n))).collect();
    assert_eq!(kept, [0, 1, 2, 3, 4]);
}

/// What a cleaning-up says is what it did: where nothing can be made free, nothing was.
#[tokio::test]
async fn what_is_said_to_be_evicted_was() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 4 * (SMALL + 1), Vec::new()));
    for n in 0..4 {
        let (digest, bytes) = large(n);
        cache.put(digest, bytes).await.unwrap();
    }
    let impossible = cache.collect(1 << 30, false).await.unwrap();
    assert_eq!((impossible.evicted.len(), impossible.bytes, cache.disk_totals().1), (0, 0, 4));
    assert!(impossible.error.unwrap().contains("do not fit"));
    let said = cache.collect(SMALL + 2, true).await.unwrap();
    assert_eq!((said.evicted.len(), cache.disk_totals().1), (2, 4));
    let done = cache.collect(SMALL + 2, false).await.unwrap();
    assert_eq!((done.evicted, done.bytes, cache.disk_totals().1), (said.evicted, 2 * (SMALL + 1), 2));
}

/// Upstreams choose how long a list of referrers is, and nothing bounds what lists take on the disk: a long one stays in memory.
#[tokio::test]
async fn i8_a_long_list_of_referrers_is_not_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (subject, _) = publish(&cache, "team/app", 1).await;
    let team = scope("team/app");
    let list = |entries| {
        let body = r#"{"digest":"","artifactType":"a/b"},"#.repeat(entries);
        ReferrersRecord { body, filters_applied: None, checked_at: Moment(0) }
    };
    for (entries, is_kept) in [(10_000, false), (100, true)] {
        for filter in [None, Some("a/b")] {
            cache.set_referrers_record(&team, &subject, filter, list(entries)).await;
            assert_eq!(cache.referrers_record(&team, &subject, filter).await, Some(list(entries)));
            cache.records.reread();
            assert_eq!(cache.referrers_record(&team, &subject, filter).await.is_some(), is_kept);
        }
    }
}

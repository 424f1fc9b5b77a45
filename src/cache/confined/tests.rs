//! Marks that outlive processes, and upstreams that change while content is on its way.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::marks::{LOOK, text};
use super::*;
use crate::cache::store::Store;
use crate::oci::Algorithm;

#[test]
fn a_mark_outlives_the_process_and_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (a, b) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha512, b"b"));
    let name: UpstreamName = "private.example:5000".parse().unwrap();
    let confined = Confined::load(&store).unwrap();
    assert!(!confined.is_active());
    let names = slice::from_ref(&name);
    assert!(confined.insert(a, names) && confined.insert(a, names), "until it is written down");
    confined.write(&store, &a).unwrap();
    assert!(!confined.insert(a, names) && confined.insert(b, names));
    confined.write(&store, &b).unwrap();
    fs::write(confined.path(&b), b"").unwrap();

    let confined = Confined::load(&store).unwrap();
    assert!(confined.is_active());
    assert_eq!((confined.of(&a), confined.of(&b)), (Some([name].into()), Some(Holders::default())));
    assert_eq!(confined.of(&Digest::of(Algorithm::Sha256, b"c")), None);
}

#[test]
fn a_file_has_one_name_a_line() {
    let (a, b): (UpstreamName, UpstreamName) = ("a.example".parse().unwrap(), "b.example:5000".parse().unwrap());
    for (written, holders) in [
        ("a.example", Holders::from([a.clone()])),
        ("a.example\n", Holders::from([a.clone()])),
        ("b.example:5000\na.example", Holders::from([a.clone(), b.clone()])),
        ("", Holders::default()),
        ("no name\n\0\0", Holders::default()),
    ] {
        assert_eq!(parse(written), holders, "{written:?}");
        assert_eq!(parse(&text(&holders)), holders);
    }
    assert_eq!(text(&[a.clone()].into()), "a.example", "as it was when there could be one name only");
    assert_eq!(text(&[a, b].into()), "a.example\nb.example:5000");
}

/// That something may come through an upstream adds it to nothing; its word does.
#[test]
fn upstreams_that_add_themselves_at_one_moment_are_all_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let names: Vec<UpstreamName> = (0..8).map(|n| format!("u{n}.example").parse().unwrap()).collect();
    let confined = Confined::load(&store).unwrap();
    for round in 0..50_u8 {
        let digest = Digest::of(Algorithm::Sha256, &[round]);
        assert!(!confined.add(&digest, &names), "it is everybody's");
        confined.insert(digest, &names[..1]);
        confined.write(&store, &digest).unwrap();
        assert!(!confined.insert(digest, &names[1..2]) && confined.of(&digest) == Some(names[..1].into()));
        let start = std::sync::Barrier::new(names.len() - 1);
        std::thread::scope(|threads| {
            for name in &names[1..] {
                threads.spawn(|| {
                    start.wait();
                    assert!(confined.add(&digest, slice::from_ref(name)));
                    confined.write(&store, &digest).unwrap();
                });
            }
        });
        assert!(!confined.add(&digest, &names));
        assert_eq!(Confined::load(&store).unwrap().of(&digest).as_deref(), Some(&*names), "round {round}");
    }
}

/// Content whose mark is in memory alone would be everybody's after a restart.
#[tokio::test]
async fn a_mark_that_cannot_be_written_confines_nothing_the_second_time_either() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::config::Cache { dir: folder.path().join("cache"), ..crate::config::Cache::default() };
    let cache = Cache::open(&config, Arc::default()).unwrap();
    let (digest, name) = (Digest::of(Algorithm::Sha256, b"a"), "private.example".parse().unwrap());
    // A file where the folder belongs.
    fs::write(config.dir.join("private"), b"").unwrap();
    for _ in 0..2 {
        cache.confine(&digest, &name).await.unwrap_err();
    }
    fs::remove_file(config.dir.join("private")).unwrap();
    cache.confine(&digest, &name).await.unwrap();
    assert_eq!(Confined::load(&cache.store).unwrap().of(&digest), Some([name].into()));
}

/// A cache, and the upstream that becomes private.
fn cache(folder: &Path) -> (Arc<Cache>, UpstreamName) {
    let min_free = crate::config::Amount::Bytes(0);
    let config = crate::config::Cache { dir: folder.join("cache"), min_free, ..crate::config::Cache::default() };
    (Cache::open(&config, Arc::default()).unwrap(), "private.example".parse().unwrap())
}

/// Whatever the order in which both come: what cannot be found yet when an upstream has become private is confined when it
/// can.
#[tokio::test]
async fn what_is_published_after_its_upstream_became_private_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    for round in 0..200_u8 {
        cache.confined.set_private([]);
        let (content, start) = (vec![round; 100], std::sync::Barrier::new(2));
        let digest = Digest::of(Algorithm::Sha256, &content);
        let reservation = cache.make_room(100, 0).unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut ingest = cache.store.ingest_whole(&digest).unwrap();
                ingest.append(&[content.into()]).unwrap();
                let verified = ingest.verify().unwrap();
                start.wait();
                cache.publish_from(&name, verified, reservation).unwrap();
            });
            start.wait();
            cache.confined.set_private([name.clone()]);
            let was_here = cache.index.contains(&digest);
            while !cache.index.contains(&digest) {
                std::thread::yield_now();
            }
            let confined = cache.confined.of(&digest).is_some();
            assert!(was_here || confined, "round {round}");
        });
    }
}

#[tokio::test]
async fn a_manifest_that_comes_after_its_upstream_became_private_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    tokio::spawn(cache.clone().maintain());
    let digest = |content: &'static [u8]| (Digest::of(Algorithm::Sha256, content), bytes::Bytes::from_static(content));
    let ((before, first), (after, second)) = (digest(b"before"), digest(b"after"));
    cache.put_from(name.clone(), before, first).await.unwrap();
    cache.confined.set_private([name.clone()]);
    cache.put_from(name.clone(), after, second).await.unwrap();
    assert_eq!((cache.confined.of(&before), cache.confined.of(&after)), (None, Some([name].into())));
}

#[tokio::test]
async fn a_late_word_of_an_upstream_that_became_private_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    let (digest, public) = (Digest::of(Algorithm::Sha256, b"a"), "public.example".parse().unwrap());
    cache.confine(&digest, &name).await.unwrap();
    cache.confined.set_private([name.clone()]);
    cache.release(&digest, &name).await;
    assert!(cache.confined.of(&digest).is_some());
    cache.release(&digest, &public).await;
    assert!(cache.confined.of(&digest).is_none());
}

#[test]
fn what_is_gone_is_forgotten_unless_it_is_about_to_come() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (here, gone) = (Digest::of(Algorithm::Sha256, b"here"), Digest::of(Algorithm::Sha256, b"gone"));
    let name: UpstreamName = "private.example".parse().unwrap();
    let confined = Confined::load(&store).unwrap();
    for digest in [here, gone] {
        confined.insert(digest, slice::from_ref(&name));
        confined.write(&store, &digest).unwrap();
    }
    confined.forget(LOOK, |_| false);
    assert!(confined.of(&gone).is_some(), "too young");
    confined.forget(Duration::ZERO, |digest| *digest == here);
    assert_eq!((confined.of(&here).is_some(), confined.of(&gone).is_some()), (true, false));
    assert!(confined.path(&here).exists() && !confined.path(&gone).exists());
}

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
    let (digest, name): (_, UpstreamName) = (Digest::of(Algorithm::Sha256, b"a"), "private.example".parse().unwrap());
    // A file where the folder belongs.
    fs::write(config.dir.join("private"), b"").unwrap();
    cache.confined.set_private([name.clone()]);
    for _ in 0..2 {
        cache.expect(&digest, &name).unwrap_err();
        cache.expect_joined(&digest, &name).await.unwrap_err();
    }
    fs::remove_file(config.dir.join("private")).unwrap();
    cache.expect(&digest, &name).unwrap();
    assert_eq!(Confined::load(&cache.store).unwrap().of(&digest), Some(Holders::default()));
}

/// That something was asked for makes it nobody's, that nothing came makes it what it was, and that it came whole is what makes
/// it an upstream's. A process that ends in between leaves it closed.
#[tokio::test]
async fn only_who_brings_it_whole_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    let (other, public): (UpstreamName, UpstreamName) = ("other.example".parse().unwrap(), "public.example".parse().unwrap());
    tokio::spawn(cache.clone().maintain());
    cache.confined.set_private([name.clone(), other.clone()]);
    let content = bytes::Bytes::from_static(b"content");
    let digest = Digest::of(Algorithm::Sha256, &content);
    let of = || {
        let written = Confined::load(&cache.store).unwrap().of(&digest);
        assert_eq!(cache.confined.of(&digest), written, "memory and disk say the same");
        written.map(|holders| holders.to_vec())
    };
    cache.expect(&digest, &public).unwrap();
    assert_eq!(of(), None);
    for _ in 0..2 {
        cache.expect(&digest, &other).unwrap();
        assert_eq!(of(), Some(vec![]));
        cache.withdraw(&digest);
        assert_eq!(of(), None);
    }
    // What is left of it stays closed, and so does what is in memory alone.
    cache.expect(&digest, &other).unwrap();
    let left = cache.store.ingest(&digest).unwrap();
    cache.withdraw(&digest);
    left.remove().unwrap();
    cache.memory.insert(digest, content.clone());
    cache.withdraw(&digest);
    assert_eq!(of(), Some(vec![]));
    cache.memory.forget(&digest);
    // As what somebody else has said something of.
    cache.add_holder(&digest, &name).await.unwrap();
    cache.withdraw(&digest);
    assert_eq!(of(), Some(vec![name.clone()]));
    cache.confined.forget(Duration::ZERO, |_| false);
    cache.expect(&digest, &other).unwrap();
    cache.put_from(name.clone(), digest, content.clone()).await.unwrap();
    cache.withdraw(&digest);
    assert_eq!(of(), Some(vec![name.clone()]));
    // Whoever brings it again has it, too; and what is everybody's is nobody's to close.
    cache.put_from(other.clone(), digest, content.clone()).await.unwrap();
    assert_eq!(of(), Some(vec![name.clone(), other.clone()].into_iter().collect::<BTreeSet<_>>().into_iter().collect()));
    cache.release(&digest, &public).await;
    cache.put_from(other, digest, content).await.unwrap();
    cache.expect(&digest, &name).unwrap();
    assert_eq!(of(), None);
}

/// A download whose bytes an earlier one had left, all of them, says nothing of the upstream that it was begun for.
#[tokio::test]
async fn what_was_left_whole_is_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    cache.confined.set_private([name.clone()]);
    for (content, came, expected) in [("a", Came::Left, vec![]), ("b", Came::Sent, vec![name.clone()])] {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let reservation = cache.make_room(1, 0).unwrap();
        let mut ingest = cache.store.ingest_whole(&digest).unwrap();
        ingest.append(&[content.into()]).unwrap();
        cache.publish_from(&name, came, ingest.verify().unwrap(), reservation).unwrap();
        assert_eq!(Confined::load(&cache.store).unwrap().of(&digest).map(|holders| holders.to_vec()), Some(expected));
    }
}

/// A manifest that names what is not here says nothing of whose it will be once it comes.
#[tokio::test]
async fn what_is_named_and_not_here_is_not_confined() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, name) = cache(folder.path());
    tokio::spawn(cache.clone().maintain());
    let (here, gone) = (bytes::Bytes::from_static(b"here"), Digest::of(Algorithm::Sha256, b"gone"));
    let descriptor =
        |digest| serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 4 });
    let digest = Digest::of(Algorithm::Sha256, &here);
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": descriptor(digest), "layers": [descriptor(gone)] });
    let manifest = bytes::Bytes::from(manifest.to_string());
    let named_by = Digest::of(Algorithm::Sha256, &manifest);
    cache.put_from(name.clone(), digest, here).await.unwrap();
    cache.put_from(name.clone(), named_by, manifest.clone()).await.unwrap();
    let scope = crate::oci::Scope { upstream: name.clone(), repository: "team/app".parse().unwrap() };
    cache.learn_manifest(&scope, &named_by, &crate::oci::MediaType::OCI_MANIFEST).await;
    cache.confined.set_private([name.clone()]);
    cache.confine_known();
    let of = |digest| cache.confined.of(&digest).map(|holders| holders.to_vec());
    assert_eq!((of(digest), of(named_by), of(gone)), (Some(vec![name.clone()]), Some(vec![name]), None));
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
                cache.publish_from(&name, Came::Sent, verified, reservation).unwrap();
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
    cache.confined.set_private([name.clone()]);
    cache.expect(&digest, &name).unwrap();
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

//! What a purge takes, and what it leaves because somebody else needs it.

use std::task::{Context, Waker};

use super::upkeep::{config, publish, scope, start};
use super::*;
use crate::cache::purge::Removed;
use crate::oci::Tag;

/// Publishes an index of these, in a repository.
async fn publish_index(cache: &Arc<Cache>, repository: &str, parts: &[Digest]) -> Digest {
    let parts: Vec<String> = parts
        .iter()
        .map(|digest| format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":400}}"#))
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        parts.join(",")
    );
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    cache.note_parts(&digest, &Manifest::parse(text.as_bytes(), None).unwrap());
    cache.put(digest, text.into()).await.unwrap();
    cache.set_manifest_record(&scope(repository), &digest, &ManifestRecord { media_type: MediaType::OCI_INDEX }).await;
    digest
}

async fn tag(cache: &Arc<Cache>, repository: &str, tag: &str, digest: Digest) {
    let tag: Tag = tag.parse().unwrap();
    let record = TagRecord { digest, checked_at: Moment(0), imported: false };
    cache.set_tag(&scope(repository), &tag, record).await.unwrap();
}

async fn purge(cache: &Arc<Cache>, what: &str) -> Removed {
    let [told, done] = [true, false].map(|dry_run| cache.purge(what.parse().unwrap(), dry_run));
    let (told, done) = (told.await.unwrap(), done.await.unwrap());
    assert_eq!(format!("{told:?}"), format!("{done:?}"), "what a dry run says is what happens");
    done
}

fn here(cache: &Cache, digests: &[Digest]) -> Vec<bool> {
    digests.iter().map(|digest| cache.known(digest).is_some_and(|known| known.present)).collect()
}

/// `app:1-amd64` may be a part of `app:1`, and of an image of another repository.
#[tokio::test]
async fn a_tag_whose_manifest_an_index_needs_goes_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (amd64, amd64_layer) = publish(&cache, "team/app", 1).await;
    let (arm64, arm64_layer) = publish(&cache, "team/app", 2).await;
    let index = publish_index(&cache, "other/app", &[amd64, arm64]).await;
    tag(&cache, "team/app", "1-amd64", amd64).await;
    tag(&cache, "other/app", "1", index).await;
    let all = [index, amd64, arm64, amd64_layer, arm64_layer];

    let removed = purge(&cache, "team/app:1-amd64").await;
    assert_eq!(
        (removed.images.as_slice(), removed.objects, removed.shared),
        (&["docker.io/team/app:1-amd64".to_owned()][..], 0, 1)
    );
    assert_eq!(here(&cache, &all), [true; 5]);
    // A digest is taken at its word, and what a tag names stays.
    tag(&cache, "team/app", "1-arm64", arm64).await;
    let removed = purge(&cache, &index.to_string()).await;
    assert_eq!((removed.objects, removed.shared), (3, 2));
    assert_eq!(here(&cache, &all), [false, false, true, false, true]);
}

#[tokio::test]
async fn an_index_goes_with_the_indexes_and_images_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (image, layer) = publish(&cache, "team/app", 1).await;
    let inner = publish_index(&cache, "team/app", &[image]).await;
    let outer = publish_index(&cache, "team/app", &[inner, image]).await;
    for (name, digest) in [("outer", outer), ("inner", inner), ("image", image)] {
        tag(&cache, "team/app", name, digest).await;
    }
    let removed = purge(&cache, "team/app:*").await;
    assert_eq!((removed.images.len(), removed.objects, removed.shared), (3, 4, 0));
    assert_eq!(here(&cache, &[outer, inner, image, layer]), [false; 4]);
}

#[tokio::test]
async fn what_a_pin_protects_is_named_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (image, layer) = publish(&cache, "team/app", 1).await;
    cache.pin(vec![scope("team/app").image(image)], &crate::oci::Platforms::default(), Timestamp(0)).unwrap();
    for what in [image.to_string(), format!("team/app@{image}")] {
        let removed = purge(&cache, &what).await;
        assert_eq!((removed.pinned, removed.objects), (vec![image.to_string()], 0));
    }
    assert_eq!(here(&cache, &[image, layer]), [true; 2]);
}

/// Until the catalog has seen the whole tree, it is not known who needs what.
#[tokio::test]
async fn a_purge_waits_until_the_tree_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 30, Vec::new());
    let cache = start(&config);
    let (image, layer) = publish(&cache, "team/app", 1).await;
    let index = publish_index(&cache, "team/app", &[image]).await;
    tag(&cache, "team/app", "index", index).await;
    tag(&cache, "team/app", "image", image).await;
    drop(cache);

    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    scan::scan(&cache.store, &cache.index).unwrap();
    cache.scanned.send_replace(Scan::Complete);
    let mut purge = std::pin::pin!(cache.purge("team/app:image".parse().unwrap(), false));
    assert!(purge.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    cache.survey();
    cache.surveyed.send_replace(true);
    assert_eq!(purge.await.unwrap().images, ["docker.io/team/app:image"]);
    assert_eq!(here(&cache, &[index, image, layer]), [true; 3]);
}

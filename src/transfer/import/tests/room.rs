//! An import into a cache that is full, or too small: what it brings, and what that is made of, is not evicted for the rest of it.

use super::*;

/// Bytes of a layer.
const SIZE: usize = 10_000;

fn layer(number: usize) -> Vec<u8> {
    (0..SIZE).map(|at| (at * 31 + number * 7 + at / 256) as u8 ^ number as u8).collect()
}

/// A manifest of these layers.
fn image(layers: &[usize]) -> Vec<u8> {
    let of_layer = |number: &usize| descriptor("application/vnd.oci.image.layer.v1.tar", &layer(*number));
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

/// A layout of others, which does not say its size.
fn foreign(layers: &[usize]) -> Vec<u8> {
    let manifest = image(layers);
    let mut files = vec![("index.json".to_owned(), index_of(&manifest)), (path(CONFIG), CONFIG.to_vec())];
    files.extend(layers.iter().map(|number| (path(&layer(*number)), layer(*number))));
    files.push((path(&manifest), manifest));
    archive(&files)
}

fn here(site: &Site, layers: &[usize]) -> usize {
    layers.iter().filter(|number| site.tree.find(&digest(&layer(**number))).is_some()).count()
}

/// Content that is used a lot.
async fn fill(site: &Site, layers: std::ops::Range<usize>) {
    for number in layers {
        let content = layer(number);
        site.cache.put(digest(&content), content.clone().into()).await.unwrap();
        for _ in 0..4 {
            site.cache.get(&digest(&content)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_bundle_without_sizes_does_not_evict_itself() {
    let site = site(16 * SIZE as u64);
    fill(&site, 100..114).await;
    let layers: Vec<usize> = (0..10).collect();
    let report = site.import(&foreign(&layers)).await.unwrap();
    assert_eq!((report.new_blobs, here(&site, &layers)), (12, 10));
    // Once more, which needs no room; and what it brought can be evicted again.
    let again = site.import(&foreign(&layers)).await.unwrap();
    assert_eq!((again.new_blobs, again.known_blobs), (0, 12));
    assert!(site.cache.known(&digest(&layer(0))).is_some_and(|known| !known.pinned));
    fill(&site, 200..215).await;
    assert!(here(&site, &layers) < 10);
}

#[tokio::test]
async fn a_bundle_that_is_too_large_says_what_it_takes() {
    let site = site(16 * SIZE as u64);
    let layers: Vec<usize> = (0..20).collect();
    let error = site.import(&foreign(&layers)).await.unwrap_err();
    assert!(matches!(error, ImportError::NoRoom(NoRoom::Full { .. })), "{error}");
    let text = error.to_string();
    // The config is here, and fifteen layers.
    let needed = 16 * SIZE + CONFIG.len();
    assert!(text.contains(&format!("at least {needed} bytes")) && text.contains("cache.max_size"), "{text}");
    assert_eq!(site.files(), Vec::<String>::new());
}

/// What a delta builds on is as good as in it; what else is here makes room.
#[tokio::test]
async fn a_delta_does_not_evict_what_it_builds_on() {
    let (old, new): (Vec<usize>, Vec<usize>) = ((0..8).collect(), (0..7).chain([50, 51]).collect());
    let origin = site(1 << 20);
    origin.import(&foreign(&old)).await.unwrap();
    let plan = export::plan(&origin.tree, &[], None, &[], &BTreeSet::new()).unwrap();
    let (full, lock) = (plan.write(&origin.tree, None, Vec::new(), |_| {}).unwrap(), plan.lock);
    origin.import(&foreign(&new)).await.unwrap();
    let plan = export::plan(&origin.tree, &[], None, &lock, &BTreeSet::new()).unwrap();
    let delta = plan.write(&origin.tree, None, Vec::new(), |_| {}).unwrap();
    assert_eq!(plan.blobs(), 3, "two layers and a manifest");

    let site = site(16 * SIZE as u64);
    site.import(&full).await.unwrap();
    fill(&site, 100..107).await;
    site.import(&delta).await.unwrap();
    assert_eq!((here(&site, &new), here(&site, &old)), (9, 8));
    // Also what is here already of a bundle takes no more room.
    assert_eq!(site.import(&delta).await.unwrap().new_blobs, 0);

    // Where both do not fit, what is here stays, and nothing is taken in before that is told.
    let small = super::site(9 * SIZE as u64 + 5000);
    small.import(&full).await.unwrap();
    let before = small.files();
    let error = small.import(&delta).await.unwrap_err().to_string();
    assert!(error.contains("cache.max_size"), "{error}");
    assert_eq!(small.files(), before);
    let report = small.import(&full).await.unwrap();
    assert!(report.new_blobs == 0 && report.images[0].unchanged);
}

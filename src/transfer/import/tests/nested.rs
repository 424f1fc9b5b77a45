//! Indexes that list much, and the same again and again.

use super::*;
use crate::transfer::document::MAX_MANIFESTS;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn index(children: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children }).to_string().into_bytes()
}

/// A layout whose image is the first of `manifests`.
fn layout(manifests: Vec<Vec<u8>>) -> Vec<u8> {
    let mut files = good();
    files[1].1 = index_of(&manifests[0]);
    files.truncate(4);
    files.extend(manifests.into_iter().map(|manifest| (path(&manifest), manifest)));
    archive(&files)
}

/// Three indexes, each of which lists the next one many times: looked through once each, when it comes and when it goes.
#[tokio::test]
async fn an_index_that_is_listed_often_is_looked_through_once() {
    // Looked through as often as it is listed, that would be 64 million times, and no end of this test.
    const TIMES: usize = 400;
    let site = site(1 << 20);
    let image = manifest();
    let mut child = descriptor(MANIFEST, &image);
    child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let lowest = index(&vec![child; TIMES]);
    let middle = index(&vec![descriptor(INDEX, &lowest); TIMES]);
    let top = index(&vec![descriptor(INDEX, &middle); TIMES]);
    let bundle = layout(vec![top.clone(), middle.clone(), lowest.clone(), image.clone()]);

    let (cache, options, input) =
        (site.cache.clone(), Options::default(), super::super::super::input::detect(io::Cursor::new(bundle.clone())).unwrap());
    let walked = spawn_blocking(move || {
        let (staged, taken) = archive::take_in(&cache, input, &options);
        let plan = images::plan(&cache, &staged, &taken.unwrap(), &options).unwrap();
        plan.manifests().map(|(_, (digest, _))| *digest).collect::<Vec<_>>()
    });
    let children_first = [digest(&image), digest(&lowest), digest(&middle), digest(&top)];
    assert_eq!(walked.await.unwrap(), children_first);

    assert_eq!(site.import(&bundle).await.unwrap().images[0].digest, digest(&top));
    let plan = export::plan(&site.tree, &[], None, &[], &BTreeSet::new()).unwrap();
    assert_eq!(plan.blobs(), 6);
}

#[tokio::test]
async fn an_image_of_too_many_manifests_is_refused() {
    let site = site(64 << 20);
    let text = String::from_utf8(manifest()).unwrap();
    let mut manifests: Vec<_> =
        (0..MAX_MANIFESTS).map(|n| format!("{text}{}", " ".repeat(n % 100) + &"\n".repeat(n / 100)).into_bytes()).collect();
    let children: Vec<_> = manifests.iter().map(|manifest| descriptor(MANIFEST, manifest)).collect();
    manifests.insert(0, index(&children));
    let error = site.import(&layout(manifests)).await.unwrap_err();
    assert!(error.to_string().contains("more than 10000 manifests"), "{error}");
    assert_eq!(site.files(), Vec::<String>::new());
}

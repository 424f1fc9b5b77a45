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
    let index = index_of(&manifests[0]);
    layout_of(index, manifests)
}

/// A layout with this `index.json`.
fn layout_of(index: Vec<u8>, manifests: Vec<Vec<u8>>) -> Vec<u8> {
    let mut files = good();
    files[1].1 = index;
    files.truncate(4);
    files.extend(manifests.into_iter().map(|manifest| (path(&manifest), manifest)));
    archive(&files)
}

/// So many manifests that differ, and an index of them.
fn many(count: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let text = String::from_utf8(manifest()).unwrap();
    let manifests: Vec<_> =
        (0..count).map(|n| format!("{text}{}", " ".repeat(n % 100) + &"\n".repeat(n / 100)).into_bytes()).collect();
    let children: Vec<_> = manifests.iter().map(|manifest| descriptor(MANIFEST, manifest)).collect();
    (index(&children), manifests)
}

/// An `index.json` that names indexes.
fn naming(images: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let entry = |(name, index): (String, Vec<u8>)| {
        let mut entry = descriptor(INDEX, &index);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    };
    json!({ "schemaVersion": 2, "manifests": images.into_iter().map(entry).collect::<Vec<_>>() }).to_string().into_bytes()
}

/// What a bundle would bring to which repository.
async fn planned(site: &Site, bundle: &[u8]) -> Result<Vec<(Scope, Digest)>, ImportError> {
    let (cache, options, input) =
        (site.cache.clone(), Options::default(), super::super::super::input::detect(io::Cursor::new(bundle.to_vec())).unwrap());
    let planned = spawn_blocking(move || {
        let (staged, taken) = archive::take_in(&cache, input, &options);
        let plan = images::plan(&cache, &staged, &taken.unwrap(), &options)?;
        Ok(plan.manifests().map(|(scope, (digest, _))| (scope.clone(), *digest)).collect())
    });
    planned.await.unwrap()
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

    let walked: Vec<_> = planned(&site, &bundle).await.unwrap().into_iter().map(|(_, digest)| digest).collect();
    assert_eq!(walked, [digest(&image), digest(&lowest), digest(&middle), digest(&top)], "children first");

    assert_eq!(site.import(&bundle).await.unwrap().images[0].digest, digest(&top));
    let plan = export::plan(&site.tree, &[], None, &[], &BTreeSet::new()).unwrap();
    assert_eq!(plan.blobs(), 6);
}

#[tokio::test]
async fn an_image_of_too_many_manifests_is_refused() {
    let site = site(64 << 20);
    let (top, mut manifests) = many(MAX_MANIFESTS);
    manifests.insert(0, top);
    let error = site.import(&layout(manifests)).await.unwrap_err();
    assert!(error.to_string().contains("more than 10000 manifests"), "{error}");
    assert_eq!(site.files(), Vec::<String>::new());
}

/// Images of one repository that are the same, or made of the same, cost no more than one of them.
#[tokio::test]
async fn what_many_images_of_a_repository_have_is_looked_through_and_written_down_once() {
    let site = site(64 << 20);
    let (top, manifests) = many(50);
    let above = index(&[descriptor(INDEX, &top)]);
    let tags = (0..40).map(|n| (format!("docker.io/team/app:{n}"), if n % 2 == 0 { top.clone() } else { above.clone() }));
    let elsewhere = [("docker.io/team/other:1".to_owned(), above.clone())];
    let bundle = layout_of(naming(tags.chain(elsewhere)), [vec![top.clone(), above.clone()], manifests].concat());
    let planned = planned(&site, &bundle).await.unwrap();
    assert_eq!(planned.len(), 2 * 52, "50 and the two indexes, in two repositories");
    assert_eq!(planned.iter().map(|(scope, digest)| (scope.to_string(), *digest)).collect::<BTreeSet<_>>().len(), planned.len());

    let report = site.import(&bundle).await.unwrap();
    assert_eq!(report.images.len(), 41);
    let names: Vec<_> = report.images.iter().map(|image| image.image.as_str()).collect();
    assert_eq!((names[0], names[1], names[40]), ("docker.io/team/app:0", "docker.io/team/app:1", "docker.io/team/other:1"));
    assert_eq!((report.images[0].digest, report.images[1].digest), (digest(&top), digest(&above)));
}

/// A small bundle that says of the same manifests that one repository after the other has them.
#[tokio::test]
async fn a_bundle_that_gives_the_same_to_ever_more_repositories_is_refused() {
    let site = site(64 << 20);
    let (top, mut manifests) = many(200);
    let images = (0..100).map(|n| (format!("docker.io/team/app-{n}:1"), top.clone()));
    let index = naming(images);
    manifests.push(top);
    let error = planned(&site, &layout_of(index, manifests)).await.map(|all| all.len()).unwrap_err().to_string();
    assert!(error.contains("the same manifests to too many repositories") && error.lines().count() == 1, "{error}");
}

//! `roadstead export`: which platforms of what is pinned.

use std::path::Path;

use crate::support::client;
use crate::support::image::{Builder, Image, Index};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, manifest_path};

use super::run;

const TOOLS: &str = "library/tools";

/// An index whose images are here as far as `here` says.
async fn pull(mirror: &Mirror, up: &Upstream, tag: &str, images: &[Image], here: &[Image]) -> Index {
    let index = Index::oci(images.to_vec());
    up.push_index(TOOLS, tag, &index);
    mirror.get(&manifest_path(TOOLS, tag)).await.assert_is(&index.manifest);
    for image in here {
        mirror.get(&manifest_path(TOOLS, image.manifest.digest)).await.assert_is(&image.manifest);
        for blob in image.blobs() {
            mirror.pull_blob(TOOLS, blob).await;
            mirror.files().get(blob).await;
        }
    }
    index
}

async fn pin(mirror: &Mirror, query: &str) {
    let answer = client::request(mirror.admin_address(), "POST", &format!("/api/v1/pin?ref={query}"), &[]).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// What is pinned, and each image for what it is pinned, whatever else of it is here; `--platform` is stronger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_images_are_exported_as_they_are_pinned() {
    let up = Upstream::start().await;
    let image = |seed, architecture: &str| Builder::new(seed).platform("linux", architecture).layer(5000).build();
    let images = [image(1, "amd64"), image(2, "arm64")];
    let (alone, other) = (image(3, "arm64"), [image(4, "amd64"), image(5, "s390x")]);
    let mirror = Mirror::of(&up).await;
    let both = pull(&mirror, &up, "both", &images, &images).await;
    up.push_image(TOOLS, "alone", &alone);
    mirror.pull(TOOLS, "alone", &alone).await;
    for blob in alone.blobs() {
        mirror.files().get(blob).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, bundle) = (mirror.files().root().display().to_string(), folder.path().join("site/"));
    let export = |arguments: &[&str]| {
        let _ = std::fs::remove_dir_all(&bundle);
        let output = format!("{}/", bundle.display());
        let arguments = [&["export", "--cache-dir", &root, "-o", &output, "--pinned"], arguments].concat();
        let (code, _, told) = tokio::task::block_in_place(|| run(&arguments));
        (code, told)
    };
    let has = |image: &Image| is_in(&bundle, image);

    pin(&mirror, "docker.io/library/tools:both&platform=linux/amd64").await;
    // Of an image for one platform there is nothing to choose: all of it is pinned.
    pin(&mirror, "docker.io/library/tools:alone&platform=linux/amd64").await;
    let (code, told) = export(&[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains(&format!("tools:both  {}  linux/amd64\n", both.manifest.digest)), "{told}");
    assert_eq!((has(&images[0]), has(&images[1]), has(&alone)), (true, false, true));
    assert_eq!(export(&["--platform", "linux/arm64"]).0, Some(0));
    assert_eq!((has(&images[0]), has(&images[1]), has(&alone)), (false, true, true));

    // What it is pinned for is not here; another platform in its place would be no use to anybody.
    pull(&mirror, &up, "lacking", &other, &other[1..]).await;
    pin(&mirror, "docker.io/library/tools:lacking&platform=linux/amd64").await;
    let (code, told) = export(&[]);
    let hint = "roadstead prefetch docker.io/library/tools:lacking --platform linux/amd64";
    assert!(code == Some(1) && told.contains(hint), "{code:?} {told}");
}

fn is_in(bundle: &Path, image: &Image) -> bool {
    let here = |digest: String| bundle.join("blobs/sha256").join(digest.trim_start_matches("sha256:")).exists();
    let whole: Vec<bool> = image.blobs().chain([&image.manifest]).map(|blob| here(blob.digest.to_string())).collect();
    assert!(whole.iter().all(|is_here| *is_here == whole[0]), "all of it or nothing");
    whole[0]
}

//! A bundle is imported whole or not at all, also where the disk fails.

use super::*;

const EIO: i32 = 5;
const OTHER: &str = "docker.io/library/other:1";

/// Two images, the first under [`NAME`], each with a layer of its own.
fn newer() -> Vec<u8> {
    let images = [(NAME, &b"a newer layer"[..]), (OTHER, b"another layer")];
    let mut files: Files = vec![("index.json".into(), Vec::new()), (path(CONFIG), CONFIG.to_vec())];
    let mut entries = Vec::new();
    for (name, layer) in images {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind,
            "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)] });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor(kind, &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entries.push(entry);
        files.extend([(path(layer), layer.to_vec()), (path(&manifest), manifest)]);
    }
    files[0].1 = json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
    archive(&files)
}

impl Site {
    async fn is(&self, image: &str) -> Option<Digest> {
        let image: ImageRef = image.parse().unwrap();
        let crate::oci::Reference::Tag(tag) = &image.reference else { panic!("{image} is no tag") };
        let record = self.cache.tag(&image.scope, tag).await?;
        assert!(self.cache.keeps(&record.digest).is_some(), "{image} leads to what is not there");
        Some(record.digest)
    }
}

/// Each call to the disk fails once, and every tag is what it was, or all are what the bundle says, whichever is told.
#[tokio::test]
async fn a_disk_that_fails_leaves_every_tag_or_moves_all() {
    let (bundle, mut unwritten, mut untouched) = (newer(), 0, 0);
    for after in 0.. {
        let site = site(1 << 20);
        site.import(&archive(&good())).await.unwrap();
        let before = site.is(NAME).await;
        site.cache.store().faults().arm(after, EIO, false);
        let imported = site.import(&bundle).await;
        let calls = site.cache.store().faults().disarm();
        let on_disk = site.tree.tags().unwrap();
        match imported {
            Ok(report) => {
                assert_eq!(report.images.len(), 2);
                assert!(site.is(OTHER).await.is_some() && site.is(NAME).await != before);
            }
            Err(ImportError::Unwritten { names, .. }) => {
                unwritten += 1;
                assert!(site.is(OTHER).await.is_some() && site.is(NAME).await != before, "{after}");
                let lost = |name: &str| !on_disk.iter().any(|tagged| name.ends_with(&format!("{}:{}", tagged.scope, tagged.tag)));
                assert!(names == NAME || (names == OTHER && lost(OTHER)), "{after}: {names}");
            }
            Err(error) => {
                untouched += 1;
                assert_eq!((site.is(NAME).await, site.is(OTHER).await, on_disk.len()), (before, None, 1), "{after}: {error}");
            }
        }
        if calls <= after {
            break;
        }
    }
    assert!(unwritten >= 2 && untouched > 10, "{unwritten} {untouched}");
}

/// A disk that fails is no fault of the bundle: what it has taken stays, and the next attempt goes on from there.
#[tokio::test]
async fn a_disk_that_fails_at_a_manifest_costs_no_blob() {
    let site = site(1 << 20);
    let folder = site.tree.path(&digest(&manifest()));
    // A name that no file can take.
    std::fs::create_dir(&folder).unwrap();
    let error = site.import(&archive(&good())).await.unwrap_err();
    assert!(matches!(error, ImportError::NoRoom(NoRoom::Disk(_)) | ImportError::Io(_)), "{error}");
    std::fs::remove_dir(&folder).unwrap();
    assert_eq!(site.files().len(), 2);
    assert_eq!(site.import(&archive(&good())).await.unwrap().known_blobs, 2);
}

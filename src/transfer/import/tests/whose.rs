//! Content of a bundle is confined before it can be found, and to whom it belongs.

use super::*;
use crate::oci::UpstreamName;

const SECRET: &str = "priv.example/team/app:1";
const SHARED: &[u8] = b"a layer of both";
const OWN: &[u8] = b"a layer of the public one";

fn private() -> UpstreamName {
    "priv.example".parse().unwrap()
}

/// A site with one private upstream.
fn guarded() -> Site {
    let site = site(1 << 20);
    site.cache.confined.set_private([private()]);
    site
}

impl Site {
    /// To whom content is confined (to none: it is nobody's), as the next process would know it, too.
    pub(super) fn of(&self, bytes: &[u8]) -> Option<Vec<UpstreamName>> {
        let digest = digest(bytes);
        let known = self.cache.confined.of(&digest).map(|holders| holders.to_vec());
        let written =
            std::fs::read_to_string(self.mark(bytes)).ok().map(|names| names.lines().map(|name| name.parse().unwrap()).collect());
        assert_eq!(known, written, "memory and disk say the same");
        known
    }

    /// Only on the disk, as an export sees it.
    fn confine_to(&self, bytes: &[u8], text: &str) {
        std::fs::write(self.mark(bytes), text).unwrap();
    }

    /// The file that says to whom content is confined.
    fn mark(&self, bytes: &[u8]) -> std::path::PathBuf {
        self.folder().join("private").join(format!("sha256-{}", digest(bytes).hex()))
    }

    pub(super) fn has(&self, bytes: &[u8]) -> bool {
        self.cache.known(&digest(bytes)).is_some_and(|known| known.present)
    }
}

fn image(layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = descriptor("application/vnd.oci.image.config.v1+json", CONFIG);
    json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers }).to_string().into_bytes()
}

/// A layout with images by name, its index first.
fn layout(images: &[(&str, &[u8])], blobs: &[&[u8]]) -> Files {
    let entry = |(name, manifest): &(&str, &[u8])| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    };
    let index = json!({ "schemaVersion": 2, "manifests": images.iter().map(entry).collect::<Vec<_>>() });
    let mut files: Files = vec![("index.json".into(), index.to_string().into_bytes())];
    files.extend(blobs.iter().chain(images.iter().map(|(_, manifest)| manifest)).map(|bytes| (path(bytes), bytes.to_vec())));
    files
}

/// A bundle whose connection breaks before its end.
struct Broken(io::Cursor<Vec<u8>>);

impl io::Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            read => Ok(read),
        }
    }
}

async fn import_broken(site: &Site, bundle: &[u8]) {
    let cut = bundle[..bundle.len() - 1024].to_vec();
    let input = super::super::super::input::detect(Broken(io::Cursor::new(cut))).unwrap();
    import(site.cache.clone(), input, Options::default(), &turn::Turn::default()).await.unwrap_err();
}

/// All that an interrupted import leaves is confined: to the one upstream of its images, or to nobody.
#[tokio::test]
async fn an_import_that_breaks_off_leaves_nothing_open() {
    let (secret, open) = (image(&[LAYER, SHARED]), image(&[SHARED, OWN]));
    let one = layout(&[(SECRET, &secret)], &[CONFIG, LAYER, SHARED]);
    let both = layout(&[(SECRET, &secret), (NAME, &open)], &[CONFIG, LAYER, SHARED, OWN]);
    let public = layout(&[(NAME, &open)], &[CONFIG, SHARED, OWN]);
    let index_last = |files: &Files| {
        let mut files = files.clone();
        files.rotate_left(1);
        files
    };
    let cases = [
        (one.clone(), Some(vec![private()])),
        (index_last(&one), Some(vec![])),
        (both.clone(), Some(vec![])),
        (index_last(&public), Some(vec![])),
        (public, None),
    ];
    for (n, (files, expected)) in cases.into_iter().enumerate() {
        let site = guarded();
        import_broken(&site, &archive(&files)).await;
        assert!(site.has(SHARED), "{n}: it goes on from there");
        assert_eq!(site.of(SHARED), expected, "{n}");
    }
    // Of a mirror that has public upstreams only nothing is ever confined.
    let site = site(1 << 20);
    import_broken(&site, &archive(&both)).await;
    assert!(site.has(LAYER) && site.of(LAYER).is_none() && !site.cache.confined.is_active());
}

/// Without its mark nothing of it may be there, not even for a moment.
#[tokio::test]
async fn what_cannot_be_confined_is_not_kept() {
    let secret = image(&[LAYER]);
    for images in [vec![(SECRET, &*secret)], vec![(SECRET, &*secret), (NAME, &*secret)]] {
        let site = guarded();
        // A file where the folder belongs.
        std::fs::write(site.folder().join("private"), b"").unwrap();
        let mut files = layout(&images, &[CONFIG, LAYER]);
        files.dedup();
        let error = site.import(&archive(&files)).await.unwrap_err();
        assert!(matches!(error, ImportError::Io(_)), "{error}");
        assert_eq!(site.files(), Vec::<String>::new());
    }
}

/// Whatever breaks on the way and is tried again: what a public image needs is everybody's, what only private ones need is their
/// upstream's.
#[tokio::test]
async fn a_whole_bundle_says_whose_its_content_is() {
    let (secret, open) = (image(&[LAYER, SHARED]), image(&[SHARED, OWN]));
    let whole = archive(&layout(&[(SECRET, &secret), (NAME, &open)], &[CONFIG, LAYER, SHARED, OWN]));
    for interrupted in [false, true] {
        let site = guarded();
        if interrupted {
            import_broken(&site, &whole).await;
            assert_eq!((site.of(LAYER), site.of(OWN)), (Some(vec![]), Some(vec![])));
        }
        site.import(&whole).await.unwrap();
        for theirs in [LAYER, &secret] {
            assert_eq!(site.of(theirs), Some(vec![private()]), "{interrupted}: {}", String::from_utf8_lossy(theirs));
        }
        for everybodys in [OWN, SHARED, CONFIG, &open] {
            assert!(site.has(everybodys));
            assert_eq!(site.of(everybodys), None, "{interrupted}: {}", String::from_utf8_lossy(everybodys));
        }
    }
}

/// A manifest that a public repository has is no proof that it has what that names.
#[tokio::test]
async fn a_public_manifest_opens_nothing_that_a_bundle_brings() {
    let site = guarded();
    let evil = image(&[LAYER]);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "evil/app".parse().unwrap() };
    let media_type = crate::oci::MediaType::OCI_MANIFEST;
    site.cache.put(digest(&evil), evil.clone().into()).await.unwrap();
    site.cache.learn_manifest(&scope, &digest(&evil), &media_type).await;
    let secret = image(&[LAYER, SHARED]);
    site.import(&archive(&layout(&[(SECRET, &secret)], &[CONFIG, LAYER, SHARED]))).await.unwrap();
    assert_eq!((site.of(LAYER), site.of(&evil)), (Some(vec![private()]), None));
}

/// The order of bundles does not matter: a public image is whole for everybody, also where it is a delta against a private one.
#[tokio::test]
async fn what_images_share_is_everybodys_whichever_comes_first() {
    let (secret, open) = (image(&[LAYER, SHARED]), image(&[SHARED, OWN]));
    let secret = archive(&layout(&[(SECRET, &secret)], &[CONFIG, LAYER, SHARED]));
    for carried in [vec![CONFIG, SHARED, OWN], vec![OWN]] {
        let site = guarded();
        site.import(&secret).await.unwrap();
        assert_eq!(site.of(SHARED), Some(vec![private()]));
        site.import(&archive(&layout(&[(NAME, &open)], &carried))).await.unwrap();
        assert_eq!((site.of(SHARED), site.of(LAYER)), (None, Some(vec![private()])));
    }
    let site = guarded();
    site.import(&archive(&layout(&[(NAME, &open)], &[CONFIG, SHARED, OWN]))).await.unwrap();
    site.import(&secret).await.unwrap();
    assert_eq!((site.of(SHARED), site.of(LAYER)), (None, Some(vec![private()])));
}

/// The other side of that: no bundle has an image of a public upstream that names what came through a private one alone.
#[tokio::test]
async fn an_export_takes_no_public_manifests_word() {
    let site = guarded();
    let (secret, evil) = (image(&[LAYER]), image(&[LAYER, OWN]));
    site.import(&archive(&layout(&[(SECRET, &secret)], &[CONFIG, LAYER]))).await.unwrap();
    site.import(&archive(&layout(&[(NAME, &evil)], &[OWN]))).await.unwrap();
    // As if a pull had brought the manifest.
    site.cache.confine_brought(&digest(LAYER), None).unwrap();
    site.confine_to(LAYER, "priv.example");
    let plan = |wish: &str| export::plan(&site.tree, &[wanted(wish)], None, &[], &BTreeSet::from([private()]));
    let error = plan(NAME).unwrap_err().to_string();
    assert!(
        error.contains("came through an upstream that is not everybody's") && error.contains("roadstead prefetch"),
        "{error}"
    );
    assert_eq!(plan(SECRET).unwrap().lock.len(), 1);
}

/// The running mirror shows such content to nobody. An export must not take it for everybody's, nor leave the image out as if
/// it were not here.
#[tokio::test]
async fn an_export_refuses_content_whose_mark_cannot_be_read() {
    let site = guarded();
    let (secret, other) = (image(&[LAYER]), image(&[OWN]));
    site.import(&archive(&layout(&[(SECRET, &secret)], &[CONFIG, LAYER]))).await.unwrap();
    site.import(&archive(&layout(&[(NAME, &other)], &[CONFIG, OWN]))).await.unwrap();
    let plan = || export::plan(&site.tree, &[], None, &[], &BTreeSet::from([private()]));
    assert_eq!(plan().unwrap().lock.len(), 2);
    let mark = site.mark(LAYER);
    let assert_refused = |what: &str| {
        let told = plan().map(|plan| plan.lock.len()).map_err(|error| error.to_string());
        assert!(told.as_ref().is_err_and(|error| error.contains(&mark.display().to_string())), "{what}: {told:?}");
    };
    std::fs::write(&mark, b"\xff\xfe").unwrap();
    assert_refused("no text");
    std::fs::remove_file(&mark).unwrap();
    std::fs::create_dir(&mark).unwrap();
    assert_refused("a folder");
}

fn other() -> UpstreamName {
    "other.example".parse().unwrap()
}

/// What images of two private upstreams need is both's, in one bundle or two, and nothing else of one is the other's.
#[tokio::test]
async fn what_images_of_two_private_upstreams_share_is_both_s() {
    let (first, second) = (image(&[LAYER, SHARED]), image(&[SHARED, OWN]));
    let (one, two) = ((SECRET, &*first), ("other.example/team/svc:1", &*second));
    let both = archive(&layout(&[one, two], &[CONFIG, LAYER, SHARED, OWN]));
    let each = [archive(&layout(&[one], &[CONFIG, LAYER, SHARED])), archive(&layout(&[two], &[CONFIG, SHARED, OWN]))];
    for bundles in [vec![both], each.to_vec(), each.into_iter().rev().collect()] {
        let site = site(1 << 20);
        site.cache.confined.set_private([private(), other()]);
        for bundle in &bundles {
            site.import(bundle).await.unwrap();
        }
        for shared in [SHARED, CONFIG] {
            assert_eq!(site.of(shared), Some(vec![other(), private()]), "{}", bundles.len());
        }
        for (own, upstream) in [(LAYER, private()), (&*first, private()), (OWN, other()), (&*second, other())] {
            assert_eq!(site.of(own), Some(vec![upstream]), "{}: {}", bundles.len(), String::from_utf8_lossy(own));
        }
        let private = BTreeSet::from([private(), other()]);
        let wishes = [SECRET, "other.example/team/svc:1"].map(wanted);
        assert_eq!(export::plan(&site.tree, &wishes, None, &[], &private).unwrap().lock.len(), 2);
        // As before the other one was known to have it: the bundle would say so for it.
        site.confine_to(SHARED, "priv.example");
        assert_eq!(export::plan(&site.tree, &wishes[..1], None, &[], &private).unwrap().lock.len(), 1);
        let error = export::plan(&site.tree, &wishes[1..], None, &[], &private).unwrap_err().to_string();
        assert!(error.contains("other.example/team/svc has not said to have it"), "{error}");
        // A public image of a later bundle makes it everybody's all the same.
        site.import(&archive(&layout(&[(NAME, &second)], &[]))).await.unwrap();
        assert_eq!((site.of(SHARED), site.of(OWN), site.of(LAYER)), (None, None, Some(vec!["priv.example".parse().unwrap()])));
    }
}

/// An artifact may have a manifest as a layer. That makes it a blob of the repository, and nothing below it the repository's.
#[tokio::test]
async fn a_manifest_that_is_a_blob_of_another_is_no_manifest_of_the_repository() {
    let site = guarded();
    let inner = image(&[LAYER]);
    let outer = image(&[&inner, OWN]);
    site.import(&archive(&layout(&[(SECRET, &outer)], &[CONFIG, &inner, OWN]))).await.unwrap();
    let scope = Scope { upstream: private(), repository: "team/app".parse().unwrap() };
    let catalog = &site.cache.catalog;
    assert!(catalog.holds_manifest(&scope, &digest(&outer)));
    for blob in [CONFIG, &inner, OWN] {
        assert!(site.has(blob) && catalog.holds_blob(&scope, &digest(blob)) && !catalog.holds_manifest(&scope, &digest(blob)));
    }
    assert!(!catalog.holds_blob(&scope, &digest(LAYER)));
}

//! What bundles may not do, and what an import leaves behind when they try.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::export;
use super::super::sign::Verifier;
use super::super::tar::Writer;
use super::*;
use crate::cache::tree::Tree;
use crate::config::Amount;
use crate::metrics::Metrics;
use crate::oci::{Algorithm, Scope};

mod meanwhile;
mod nested;
mod room;
mod whole;
mod whose;

struct Site {
    _folder: tempfile::TempDir,
    cache: Arc<Cache>,
    tree: Tree,
}

fn site(max_size: u64) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::config::Cache {
        dir: folder.path().join("cache"),
        max_size: Amount::Bytes(max_size),
        min_free: Amount::Bytes(0),
        ..crate::config::Cache::default()
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    tokio::spawn(cache.clone().maintain());
    let tree = Tree::open(&config.dir).unwrap();
    Site { _folder: folder, cache, tree }
}

impl Site {
    async fn import(&self, bundle: &[u8]) -> Result<Report, ImportError> {
        self.import_with(bundle, Options::default()).await
    }

    async fn import_with(&self, bundle: &[u8], options: Options) -> Result<Report, ImportError> {
        let input = super::super::input::detect(io::Cursor::new(bundle.to_vec())).unwrap();
        import(self.cache.clone(), input, options, &Turn::default()).await
    }

    /// The folder of the cache.
    fn folder(&self) -> std::path::PathBuf {
        self.tree.path(&digest(b"")).ancestors().nth(3).unwrap().to_owned()
    }

    /// Everything but records that is in the folder.
    fn files(&self) -> Vec<String> {
        let root = self.folder();
        let mut found = Vec::new();
        for folder in ["blobs/sha256", "blobs/sha512", "ingest"] {
            let listed = std::fs::read_dir(root.join(folder)).unwrap();
            found.extend(listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        found.sort();
        found
    }
}

fn wanted(wish: &str) -> export::Wanted {
    wish.parse::<crate::config::Wish>().unwrap().into()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(bytes).hex())
}

const NAME: &str = "docker.io/library/app:1";
const CONFIG: &[u8] = br#"{"os":"linux","architecture":"amd64"}"#;
const LAYER: &[u8] = b"a layer";

fn manifest() -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", LAYER)],
    })
    .to_string()
    .into_bytes()
}

fn index_of(manifest: &[u8]) -> Vec<u8> {
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": NAME });
    json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes()
}

type Files = Vec<(String, Vec<u8>)>;

/// The files of a good layout.
fn good() -> Files {
    let manifest = manifest();
    vec![
        ("oci-layout".into(), b"{}".to_vec()),
        ("index.json".into(), index_of(&manifest)),
        (path(CONFIG), CONFIG.to_vec()),
        (path(LAYER), LAYER.to_vec()),
        (path(&manifest), manifest),
    ]
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, content) in files {
        writer.file(name, content).unwrap();
    }
    writer.finish().unwrap()
}

#[tokio::test]
async fn a_good_one_is_visible_whole_and_twice_is_once() {
    let site = site(1 << 20);
    let report = site.import(&archive(&good())).await.unwrap();
    assert_eq!((report.images.len(), report.new_blobs, report.images[0].unchanged), (1, 3, false));
    assert_eq!(site.files().len(), 3);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/app".parse().unwrap() };
    let record = site.cache.tag(&scope, &"1".parse().unwrap()).await.unwrap();
    assert!(record.imported && record.digest == digest(&manifest()));
    let parts = site.cache.catalog.parts(&record.digest).expect("known without a pull or a restart");
    assert_eq!(parts.iter().map(|part| part.digest).collect::<Vec<_>>(), [digest(CONFIG), digest(LAYER)]);
    assert_eq!(site.cache.catalog.repositories_of(&digest(LAYER), 9), std::slice::from_ref(&scope));
    let again = site.import(&archive(&good())).await.unwrap();
    assert_eq!((again.new_blobs, again.known_blobs, again.images[0].unchanged), (0, 3, true));
}

#[tokio::test]
async fn bad_ones_are_refused_and_leave_nothing() {
    let change = |change: &dyn Fn(&mut Files)| {
        let mut files = good();
        change(&mut files);
        archive(&files)
    };
    let link = |kind| {
        let mut bytes = archive(&good());
        bytes.truncate(bytes.len() - 1024);
        let mut header = ::tar::Header::new_ustar();
        header.set_path(path(b"x")).unwrap();
        header.set_link_name("/etc/passwd").unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 1024]);
        bytes
    };
    let whole = archive(&good());
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a digest that lies", change(&|files| files[3].1 = b"b layer".to_vec()), "damaged"),
        ("a manifest whose digest lies", change(&|files| files[4].1.push(b' ')), "damaged"),
        ("a blob twice", change(&|files| files.push((path(LAYER), LAYER.to_vec()))), "occurs twice"),
        ("a manifest twice", change(&|files| files.push(files[4].clone())), "occurs twice"),
        ("an index twice", change(&|files| files.push(files[1].clone())), "occurs twice"),
        ("a layer missing", change(&|files| drop(files.remove(3))), "neither in the bundle nor in the cache"),
        ("a manifest missing", change(&|files| drop(files.remove(4))), "neither in the bundle nor in the cache"),
        ("no index", change(&|files| drop(files.remove(1))), "no image archive"),
        ("an index that is none", change(&|files| files[1].1 = b"[1]".to_vec()), "no OCI index"),
        ("a blob that is named by no digest", change(&|files| files.push(("blobs/sha256/zz".into(), vec![]))), "no sha256"),
        ("a blob beside the folders", change(&|files| files.push(("blobs/x".into(), vec![]))), "no digest"),
        ("an unknown algorithm", change(&|files| files.push(("blobs/md5/00".into(), vec![]))), "no sha256"),
        (
            "a size that lies",
            change(&|files| {
                let lying = String::from_utf8(manifest()).unwrap().replace("\"size\":7", "\"size\":8").into_bytes();
                files[1].1 = index_of(&lying);
                files[4] = (path(&lying), lying);
            }),
            "its manifest says 8",
        ),
        (
            "an unknown media type",
            change(&|files| {
                let odd = br#"{"mediaType":"application/x-odd","schemaVersion":2}"#.to_vec();
                files[1].1 = index_of(&odd);
                files[4] = (path(&odd), odd);
            }),
            "unknown media type",
        ),
        (
            "no name",
            change(&|files| {
                files[1].1 = String::from_utf8(files[1].1.clone()).unwrap().replace(NAME, "latest").into_bytes();
            }),
            "--name",
        ),
        ("a symbolic link", link(::tar::EntryType::Symlink), "link"),
        ("a hard link", link(::tar::EntryType::Link), "link"),
        ("half of it", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("all but the end mark", whole[..whole.len() - 1024].to_vec(), "truncated"),
        ("nothing", Vec::new(), "truncated"),
        ("something else", vec![7; 4096], "no tar header"),
    ];
    for (what, bundle, expected) in bad {
        let site = site(1 << 20);
        match site.import(&bundle).await {
            Err(error) => assert!(error.to_string().contains(expected), "{what}: {error}"),
            Ok(report) => panic!("{what} was imported: {report:?}"),
        }
        assert_eq!(site.files(), Vec::<String>::new(), "{what} left something");
        assert_eq!(site.tree.tags().unwrap(), [], "{what} left a tag");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_written() {
    let site = site(64);
    let error = site.import(&archive(&good())).await.unwrap_err();
    assert!(matches!(error, ImportError::NoRoom(_)), "{error}");
    assert_eq!(site.files(), Vec::<String>::new());
}

#[tokio::test]
async fn what_no_image_needs_does_not_stay() {
    let site = site(1 << 20);
    let mut files = good();
    files.push((path(b"stray"), b"stray".to_vec()));
    site.import(&archive(&files)).await.unwrap();
    assert!(!site.files().contains(&digest(b"stray").hex()));
}

#[tokio::test]
async fn another_architecture_is_told() {
    let site = site(1 << 20);
    let options = Options { platforms: "linux/arm64".parse().unwrap(), ..Options::default() };
    let error = site.import_with(&archive(&good()), options).await.unwrap_err();
    assert!(error.to_string().contains("not for linux/arm64, only for linux/amd64"), "{error}");
    assert_eq!(site.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_wants_a_signature_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("pub");
    let pem =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAz53RbjOCHSU5FdDGUT8+YyhoRXgfD2EdVqsRr5Ra+pU=\n-----END PUBLIC KEY-----\n";
    std::fs::write(&key, pem).unwrap();
    let verifier = Some(Verifier::from_file(&key).unwrap());
    let mut index_last = good();
    let index = index_last.remove(1);
    index_last.push(index);
    for files in [good(), index_last] {
        let site = site(1 << 20);
        let options = Options { verifier: verifier.clone(), ..Options::default() };
        site.import_with(&archive(&files), options).await.unwrap_err();
        assert_eq!(site.files(), Vec::<String>::new());
    }
}

/// Export, import elsewhere, export there: the same bytes; and a delta needs what it was made against.
#[tokio::test]
async fn a_bundle_goes_round_and_a_delta_says_what_it_lacks() {
    let (one, two, three) = (site(1 << 20), site(1 << 20), site(1 << 20));
    one.import(&archive(&good())).await.unwrap();
    let plan = export::plan(&one.tree, &[], None, &[], &BTreeSet::new()).unwrap();
    let bundle = plan.write(&one.tree, None, Vec::new(), |_| {}).unwrap();
    two.import(&bundle).await.unwrap();
    let again = export::plan(&two.tree, &[], None, &[], &BTreeSet::new()).unwrap();
    assert!(bundle == again.write(&two.tree, None, Vec::new(), |_| {}).unwrap());
    let delta = export::plan(&one.tree, &[], None, &plan.lock, &BTreeSet::new()).unwrap();
    assert_eq!((delta.blobs(), delta.lock.len()), (0, 1));
    let delta = delta.write(&one.tree, None, Vec::new(), |_| {}).unwrap();
    assert!(two.import(&delta).await.unwrap().images[0].unchanged);
    let error = three.import(&delta).await.unwrap_err();
    assert!(error.to_string().contains("without --since"), "{error}");
    let missing = export::plan(&one.tree, &[wanted("docker.io/library/other:1")], None, &[], &BTreeSet::new()).unwrap_err();
    assert!(missing.to_string().contains("roadstead prefetch docker.io/library/other:1"), "{missing}");
}

/// A file that somebody has removed is in the index of a running mirror all the same.
#[tokio::test]
async fn what_was_removed_by_hand_comes_out_of_the_bundle_again() {
    let site = site(1 << 20);
    let bundle = archive(&good());
    site.import(&bundle).await.unwrap();
    let before = site.files();
    for removed in [digest(LAYER), digest(CONFIG), digest(&manifest())] {
        std::fs::remove_file(site.tree.path(&removed)).unwrap();
        assert_eq!(site.import(&bundle).await.unwrap().new_blobs, 1);
        assert_eq!(site.files(), before);
    }
}

/// Small files are found damaged when they are read: here that is before the bundle's own are passed over.
#[tokio::test]
async fn what_is_damaged_comes_out_of_the_bundle_again() {
    let site = site(1 << 20);
    let bundle = archive(&good());
    site.import(&bundle).await.unwrap();
    for (before, damaged) in [digest(LAYER), digest(CONFIG), digest(&manifest())].into_iter().enumerate() {
        let path = site.tree.path(&damaged);
        let mut wrong = std::fs::read(&path).unwrap();
        wrong[3] ^= 1;
        std::fs::write(&path, wrong).unwrap();
        assert_eq!(site.import(&bundle).await.unwrap().new_blobs, 1);
        assert_eq!(digest(&std::fs::read(&path).unwrap()), damaged);
        assert_eq!(std::fs::read_dir(site.folder().join("quarantine")).unwrap().count(), before + 1);
    }
}

/// Neither in an archive nor in a folder, where links and what is there already are looked at, too.
#[tokio::test]
async fn what_is_damaged_does_not_leave_the_site() {
    let site = site(1 << 20);
    site.import(&archive(&good())).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cached, carried) = (site.tree.path(&digest(LAYER)), folder.path().join(path(LAYER)));
    let write = || {
        export::plan(&site.tree, &[], None, &[], &BTreeSet::new()).unwrap().write_folder(&site.tree, None, folder.path(), |_| {})
    };

    std::fs::write(&cached, b"another").unwrap();
    let error = write().unwrap_err();
    assert!(error.to_string().contains("roadstead verify"), "{error}");
    assert_eq!(std::fs::read_dir(carried.parent().unwrap()).unwrap().filter(|entry| !is_sound(entry)).count(), 0);
    let error = export::plan(&site.tree, &[], None, &[], &BTreeSet::new())
        .unwrap()
        .write(&site.tree, None, Vec::new(), |_| {})
        .unwrap_err();
    assert!(matches!(error, export::ExportError::Damaged(damaged) if damaged == digest(LAYER)));

    std::fs::write(&cached, LAYER).unwrap();
    assert_eq!(write().unwrap() + 1, 3, "the config was there");
    std::fs::remove_file(&carried).unwrap();
    std::fs::write(&carried, b"another").unwrap();
    assert_eq!((write().unwrap(), std::fs::read(&carried).unwrap()), (1, LAYER.to_vec()));
    assert_eq!(write().unwrap(), 0);
}

/// A file whose name is its digest.
fn is_sound(entry: &io::Result<std::fs::DirEntry>) -> bool {
    let entry = entry.as_ref().unwrap();
    digest(&std::fs::read(entry.path()).unwrap()).hex() == entry.file_name().to_str().unwrap()
}

#[tokio::test]
async fn docker_save_with_links_and_lies() {
    let config = |diff: &[u8]| {
        json!({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[digest(diff), digest(diff)]}})
            .to_string()
            .into_bytes()
    };
    let build = |config: Vec<u8>| {
        let list = json!([{"Config": format!("{}.json", digest(&config).hex()), "RepoTags": ["app:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
        let mut bytes = archive(&[
            ("a/layer.tar".into(), LAYER.to_vec()),
            (format!("{}.json", digest(&config).hex()), config),
            ("manifest.json".into(), list.to_string().into_bytes()),
        ]);
        bytes.truncate(bytes.len() - 1024);
        let mut header = ::tar::Header::new_ustar();
        header.set_path("b/layer.tar").unwrap();
        header.set_link_name("../a/layer.tar").unwrap();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 1024]);
        bytes
    };
    let site_of_good = site(1 << 20);
    let report = site_of_good.import(&build(config(LAYER))).await.unwrap();
    assert_eq!(report.images[0].image, NAME);
    let site_of_bad = site(1 << 20);
    let error = site_of_bad.import(&build(config(b"another"))).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(site_of_bad.files(), Vec::<String>::new());
}

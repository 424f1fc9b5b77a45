use bytes::Bytes;

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache")).unwrap();
    (dir, store)
}

fn published(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    let (file, size) = store.read(digest).unwrap()?;
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn i1_only_what_matches_its_digest_gets_a_name() {
    let (_dir, store) = store();
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, b"hello world");
        let mut ingest = store.ingest(&digest).unwrap();
        ingest.append(&[Bytes::from_static(b"hello"), Bytes::from_static(b" world")]).unwrap();
        assert_eq!(published(&store, &digest), None);
        store.publish(&ingest.verify().unwrap()).unwrap();
        assert_eq!(published(&store, &digest).unwrap(), b"hello world");
    }

    let digest = Digest::of(Algorithm::Sha256, b"right");
    let mut ingest = store.ingest(&digest).unwrap();
    ingest.append(&[Bytes::from_static(b"wrong")]).unwrap();
    assert_eq!(ingest.verify().unwrap_err().wanted, digest);
    assert_eq!(published(&store, &digest), None);
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0, "what was refused must not be resumed");
}

#[test]
fn i2_an_open_reader_outlives_eviction() {
    let (_dir, store) = store();
    let digest = Digest::of(Algorithm::Sha256, b"bytes");
    let mut ingest = store.ingest_whole(&digest).unwrap();
    ingest.append(&[Bytes::from_static(b"bytes")]).unwrap();
    store.publish(&ingest.verify().unwrap()).unwrap();
    let (file, _) = store.read(&digest).unwrap().unwrap();
    store.remove(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert_eq!(published(&store, &digest), None);
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"bytes");
}

#[test]
fn a_fill_goes_on_where_the_last_process_stopped() {
    let (_dir, store) = store();
    let digest = Digest::of(Algorithm::Sha256, b"one two");
    let mut first = store.ingest(&digest).unwrap();
    first.allocate(7).unwrap();
    first.append(&[Bytes::from_static(b"one ")]).unwrap();
    drop(first);
    let mut second = store.ingest(&digest).unwrap();
    assert_eq!(second.len(), 4, "allocated blocks are not content");
    second.append(&[Bytes::from_static(b"two")]).unwrap();
    store.publish(&second.verify().unwrap()).unwrap();
    assert_eq!(published(&store, &digest).unwrap(), b"one two");
}

#[test]
fn names_in_ingest() {
    let digest = Digest::of(Algorithm::Sha512, b"");
    assert_eq!(Digest::from_file_name(&format!("sha512-{}", digest.hex())), Some(digest));
    for other in ["whole.3", "record.1", "sha256-xyz", "md5-abc", ""] {
        assert_eq!(Digest::from_file_name(other), None);
    }
}

#[test]
fn a_folder_has_one_process_and_one_meaning() {
    let (dir, store) = store();
    let path = dir.path().join("cache");
    assert!(matches!(Store::open(&path), Err(StoreError::Locked(_))));
    drop(store);
    Store::open(&path).unwrap();
    fs::write(path.join("VERSION"), "7\n").unwrap();
    assert_eq!(
        Store::open(&path).unwrap_err().to_string(),
        format!(
            "cache.dir {} has layout version 7, this program reads 1; empty the folder or use the program that wrote it",
            path.display()
        )
    );
    let foreign = dir.path().join("home");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter"), "").unwrap();
    assert!(matches!(Store::open(&foreign), Err(StoreError::Foreign(_))));
}

/// What is cached may be private: other users of the machine do not see into it, wherever the folder is.
#[test]
fn what_it_makes_is_for_its_own_user() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let ours = dir.path().join("above/cache");
    drop(Store::open(&ours).unwrap());
    assert_eq!([&ours, &ours.join("blobs"), &ours.join("repos"), &ours.join("ingest")].map(|path| mode(path)), [0o700; 4]);
    // Somebody made this one for it, and knows why it is open.
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&theirs).unwrap());
    assert_eq!((mode(&theirs), mode(&theirs.join("blobs"))), (0o755, 0o700));
}

/// Whatever a first start had got to when it was killed, or the disk was full, the next one goes on from there. What holds
/// anything else without a `VERSION` is not touched.
#[test]
fn a_first_start_that_was_cut_short_is_made_good() {
    let made = ["LOCK", "blobs/sha256/", "blobs/sha512/", "ingest/", "quarantine/", "repos/", "ingest/record.0"];
    let make = |root: &Path, name: &str| {
        let path = root.join(name);
        fs::create_dir_all(if name.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
        if !name.ends_with('/') {
            fs::write(path, "1").unwrap();
        }
    };
    for step in 0..=made.len() {
        let dir = tempfile::tempdir().unwrap();
        made[..step].iter().for_each(|name| make(dir.path(), name));
        drop(Store::open(dir.path()).unwrap_or_else(|error| panic!("after {step} steps: {error}")));
        assert_eq!(fs::read_to_string(dir.path().join("VERSION")).unwrap(), "1\n");
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    }
    for foreign in ["letter", "blobs/sha256/x", "blobs/md5/", "blobs/x", "ingest/x", "repos/x/", "quarantine/x", "pins.json"] {
        let dir = tempfile::tempdir().unwrap();
        made.iter().for_each(|name| make(dir.path(), name));
        make(dir.path(), foreign);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Foreign(_))), "{foreign}");
    }
}

/// `ingest/` and what it has of this digest.
fn list_path(store: &Store, digest: &Digest) -> PathBuf {
    store.ingest_dir().join(format!("sha256-{}.parts", digest.hex()))
}

#[test]
fn the_hash_takes_from_memory_only_what_comes_next() {
    let (_dir, store) = store();
    let digest = Digest::of(Algorithm::Sha256, b"onetwothree");
    let mut ingest = store.ingest(&digest).unwrap();
    let scatter = ingest.scatter().unwrap();
    let write = |ingest: &mut Ingest, at, bytes: &'static [u8]| {
        let chunks = [Bytes::from_static(bytes)];
        scatter.write(at, &chunks).unwrap();
        ingest.follow(at, &chunks);
        ingest.len()
    };
    assert_eq!(write(&mut ingest, 3, b"two"), 0, "a hole is before it");
    assert_eq!(write(&mut ingest, 0, b"one"), 3);
    assert_eq!(write(&mut ingest, 6, b"three"), 3, "what is before it has not been read back");
    ingest.absorb(11).unwrap();
    assert!(ingest.verify().is_ok());
}

#[test]
fn i1_a_hole_is_not_content_and_what_is_beyond_it_is_kept() {
    let (dir, store) = store();
    let digest = Digest::of(Algorithm::Sha256, b"one two three");
    let mut ingest = store.ingest(&digest).unwrap();
    ingest.allocate(13).unwrap();
    let parts = ingest.scatter().unwrap();
    parts.write(8, &[Bytes::from_static(b"th"), Bytes::from_static(b"ree")]).unwrap();
    parts.write(0, &[Bytes::from_static(b"one ")]).unwrap();
    ingest.absorb(4).unwrap();
    assert_eq!((ingest.len(), ingest.settle().unwrap()), (4, 13));
    drop((ingest, parts, store));

    // The next process; the one before it tore a line and began another one behind it.
    let store = Store::open(&dir.path().join("cache")).unwrap();
    let list = list_path(&store, &digest);
    let mut text = fs::read_to_string(&list).unwrap();
    text.push_str("+4 8+nonsense\n+9 2\n+0 99\n+4 ");
    fs::write(&list, text).unwrap();
    let mut ingest = store.ingest(&digest).unwrap();
    assert_eq!((ingest.len(), ingest.beyond()), (4, &[8..13][..]));
    assert!(!ingest.is_complete());
    ingest.scatter().unwrap().write(4, &[Bytes::from_static(b"two ")]).unwrap();
    ingest.absorb(13).unwrap();
    store.publish(&ingest.verify().unwrap()).unwrap();
    assert_eq!(published(&store, &digest).unwrap(), b"one two three");
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
}

#[test]
fn a_file_with_holes_can_be_closed_up_and_its_list_goes_with_it() {
    let (dir, store) = store();
    let digest = Digest::of(Algorithm::Sha256, b"one two three");
    for closed in [true, false] {
        let mut ingest = store.ingest(&digest).unwrap();
        ingest.append(&[Bytes::from_static(b"one ")]).unwrap();
        ingest.scatter().unwrap().write(8, &[Bytes::from_static(b"three")]).unwrap();
        if closed {
            ingest.close_up().unwrap();
            assert!(!list_path(&store, &digest).exists());
            assert_eq!(ingest.settle().unwrap(), 4);
        }
        drop(ingest);
        assert_eq!(store.ingest(&digest).unwrap().len(), 4);
        store.remove_ingest(&digest).unwrap();
        assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
    }
    // A list whose file has gone: a process ended between the two.
    fs::write(list_path(&store, &digest), "+0 4\n").unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("cache")).unwrap();
    assert_eq!(fs::read_dir(store.ingest_dir()).unwrap().count(), 0);
}

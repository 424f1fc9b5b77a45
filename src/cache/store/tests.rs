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
    assert_eq!(Store::ingest_digest(&format!("sha512-{}", digest.hex())), Some(digest));
    for other in ["whole.3", "record.1", "sha256-xyz", "md5-abc", ""] {
        assert_eq!(Store::ingest_digest(other), None);
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

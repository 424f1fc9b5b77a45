//! The pass over the archive: blobs into the cache, manifests into the spool, the lists of images into memory.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::super::bundle::{self, Index};
use super::super::document::Document;
use super::super::tar::{self, Entry, Input, Kind};
use super::custody::Custody;
use super::staged::Staged;
use super::writers::Writers;
use super::{ImportError, Options};
use crate::cache::index::{Class, Reservation};
use crate::cache::store::Ingest;
use crate::cache::{Cache, NoRoom};
use crate::oci::{Algorithm, Digest, MAX_MANIFEST};

/// One read of a blob.
const CHUNK: usize = 1 << 20;
/// Entries that an archive may hold besides blobs.
const MAX_OTHERS: usize = 100_000;

type Archive = tar::Reader<Box<dyn Input>>;

/// What an archive held.
#[derive(Debug, Default)]
pub struct Bundle {
    /// `index.json`
    pub index: Option<Index>,
    /// Docker's `manifest.json`.
    pub docker: Option<Vec<u8>>,
    /// Content with a path instead of a digest, and what it turned out to be: of `docker save` archives.
    pub files: HashMap<String, Digest>,
    /// Links between such paths.
    pub links: HashMap<String, String>,
}

/// Takes an archive in. What was staged is told also when it fails.
pub fn take_in(cache: &Arc<Cache>, input: Box<dyn Input>, options: &Options) -> (Staged, Result<Bundle, ImportError>) {
    let notes = Arc::default();
    let writers = Writers::start(cache, &notes);
    let mut pass = Pass {
        cache,
        options,
        staged: Staged::new(cache, notes),
        bundle: Bundle::default(),
        seen: HashSet::new(),
        reservation: None,
        others: 0,
        index_bytes: None,
        checked: false,
        custody: None,
    };
    let mut archive = tar::Reader::new(input);
    let read = pass.run(&mut archive, &writers);
    drop(pass.reservation.take());
    let written = writers.finish();
    // Why the disk failed says more than what came of it.
    (pass.staged, written.and(read).map(|()| pass.bundle))
}

struct Pass<'a> {
    cache: &'a Arc<Cache>,
    options: &'a Options,
    staged: Staged,
    bundle: Bundle,
    seen: HashSet<Digest>,
    /// Space for the whole bundle, where it tells its size.
    reservation: Option<Reservation>,
    others: usize,
    /// Until the signature has been looked for behind it.
    index_bytes: Option<Vec<u8>>,
    checked: bool,
    /// Whose the content is, from the first of it on.
    custody: Option<Custody>,
}

impl Pass<'_> {
    fn run(&mut self, archive: &mut Archive, writers: &Writers) -> Result<(), ImportError> {
        while let Some(entry) = archive.next_entry()? {
            if entry.name != bundle::SIGNATURE {
                self.unsigned()?;
            }
            self.entry(&entry, archive, writers)?;
        }
        self.unsigned()?;
        if self.bundle.index.is_none() && self.bundle.docker.is_none() {
            return Err(ImportError::Bad("it is no image archive: it has neither index.json nor manifest.json".into()));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive, writers: &Writers) -> Result<(), ImportError> {
        let name = entry.name.as_str();
        match &entry.kind {
            Kind::Folder => return Ok(()),
            Kind::Link(target) => return self.link(name, target),
            Kind::File => {}
        }
        match name {
            bundle::LAYOUT => drop(archive.whole(name, 4096)?),
            bundle::INDEX => self.index(archive.whole(name, bundle::MAX_INDEX)?)?,
            bundle::SIGNATURE => {
                let signature = archive.whole(name, 4096)?;
                let index = self.index_bytes.take();
                if let (Some(verifier), Some(index)) = (&self.options.verifier, index) {
                    verifier.verify(&index, Some(&signature))?;
                    self.checked = true;
                }
            }
            bundle::DOCKER_MANIFEST => self.bundle.docker = Some(archive.whole(name, bundle::MAX_INDEX)?),
            "repositories" => {}
            _ => match blob_digest(name) {
                Some(digest) => self.blob(digest?, entry, archive, writers)?,
                None => self.file(entry, archive)?,
            },
        }
        Ok(())
    }

    /// Before anything but the signature follows the index: what must be signed is.
    fn unsigned(&mut self) -> Result<(), ImportError> {
        match (&self.options.verifier, self.index_bytes.take()) {
            (Some(verifier), Some(index)) => Ok(verifier.verify(&index, None)?),
            _ => Ok(()),
        }
    }

    fn index(&mut self, bytes: Vec<u8>) -> Result<(), ImportError> {
        if self.bundle.index.is_some() {
            return Err(ImportError::Bad("index.json occurs twice".into()));
        }
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| ImportError::Bad(format!("index.json is no OCI index: {error}")))?;
        if let Some(version) = index.annotations.get(bundle::VERSION) {
            if version != "1" {
                return Err(ImportError::Bad(format!(
                    "the bundle has version {version}, this program reads 1: use the roadstead that wrote it"
                )));
            }
            if !self.seen.is_empty() {
                return Err(ImportError::Bad(
                    "the bundle was reordered: its index does not come first. Copy the file as it was exported".into(),
                ));
            }
        }
        let base = index.annotations.get(bundle::BASE).map_or("", String::as_str);
        for digest in base.split(',').filter_map(|digest| digest.parse().ok()) {
            self.staged.keep_image(self.cache, &digest, 0);
        }
        // What its images have here besides is what it carries once more.
        let here: u64 = index.manifests.iter().map(|image| self.staged.keep_image(self.cache, &image.digest, 0)).sum();
        // More than is missing here, perhaps.
        let total = index.annotations.get(bundle::BYTES).and_then(|bytes| bytes.parse::<u64>().ok());
        if let Some(total) = total {
            self.reservation = Some(self.cache.make_room(total.saturating_sub(here), Class::default())?);
        }
        self.bundle.index = Some(index);
        self.index_bytes = Some(bytes);
        Ok(())
    }

    fn link(&mut self, name: &str, target: &str) -> Result<(), ImportError> {
        let refused = |why| ImportError::Tar(tar::TarError::Refused { name: name.into(), why });
        // Docker's own archives link equal layers to each other: `../<id>/layer.tar`.
        let target = match target.strip_prefix("../") {
            Some(target) if name.matches('/').count() == 1 => tar::clean(target),
            _ => tar::clean(target),
        };
        let target = target.ok_or_else(|| refused("it is a link that leaves the archive"))?;
        if name.starts_with("blobs/") || !target.ends_with(".tar") {
            return Err(refused("it is a link"));
        }
        self.count()?;
        self.bundle.links.insert(name.into(), target);
        Ok(())
    }

    fn count(&mut self) -> Result<(), ImportError> {
        self.others += 1;
        if self.others > MAX_OTHERS {
            return Err(ImportError::Bad(format!(
                "it is no image archive: it holds more than {MAX_OTHERS} files that are no blobs"
            )));
        }
        Ok(())
    }

    /// Whether content may be taken in yet, and whose it is.
    fn admit(&mut self) -> Result<Custody, ImportError> {
        match &self.options.verifier {
            Some(_) if !self.checked && self.bundle.index.is_some() => return Err(super::SignError::Unsigned.into()),
            Some(_) if !self.checked => return Err(ImportError::Bad(
                "a verify key is configured, and the archive does not begin with a signed index: it was reordered, or is no bundle of roadstead export --sign".into(),
            )),
            _ => {}
        }
        Ok(match &self.custody {
            Some(known) => known.clone(),
            None => self.custody.insert(Custody::of(self.cache, &self.bundle, self.options)?).clone(),
        })
    }

    fn blob(&mut self, digest: Digest, entry: &Entry, archive: &mut Archive, writers: &Writers) -> Result<(), ImportError> {
        let custody = self.admit()?;
        if !self.seen.insert(digest) {
            return Err(ImportError::Bad(format!("{digest} occurs twice")));
        }
        if let Some(size) = self.staged.keeps(self.cache, &digest) {
            if size != entry.size {
                return Err(ImportError::Bad(format!("{digest} has {} bytes here and {size} in the cache", entry.size)));
            }
            self.staged.known += 1;
            return Ok(());
        }
        if entry.size <= MAX_MANIFEST {
            let bytes = archive.whole(&entry.name, MAX_MANIFEST)?;
            let is_manifest = bytes.first() == Some(&b'{') && Document::parse(&bytes, None).is_ok();
            if is_manifest {
                check(&digest, &bytes)?;
                return Ok(self.staged.spool(self.cache, digest, &bytes)?);
            }
            let reservation = self.reserve(entry.size)?;
            let mut ingest = self.cache.store().ingest_whole(&digest)?;
            if let Err(error) = ingest.append(&[Bytes::from(bytes)]) {
                ingest.discard();
                return Err(full(error));
            }
            return writers.send((ingest, reservation, custody));
        }
        let reservation = self.reserve(entry.size)?;
        let ingest = self.cache.store().ingest_whole(&digest)?;
        let ingest = copy(archive, ingest, entry.size)?;
        writers.send((ingest, reservation, custody))
    }

    /// Content under a path of its own: of Docker's archives.
    fn file(&mut self, entry: &Entry, archive: &mut Archive) -> Result<(), ImportError> {
        let wanted = entry.name.ends_with(".tar") || entry.name.ends_with(".json");
        if !wanted || entry.name.starts_with("blobs/") {
            return if entry.name.starts_with("blobs/") {
                Err(ImportError::Bad(format!("{:?} is no blob: its name is no digest", entry.name)))
            } else {
                self.count()
            };
        }
        let custody = self.admit()?;
        self.count()?;
        let reservation = self.reserve(entry.size)?;
        // Any digest does: it is replaced by the one that is found.
        let unnamed = Digest::of(Algorithm::Sha256, b"");
        let ingest = self.cache.store().ingest_whole(&unnamed)?;
        let verified = copy(archive, ingest, entry.size)?.seal();
        let (digest, size) = (*verified.digest(), verified.size());
        if self.bundle.files.insert(entry.name.clone(), digest).is_some() {
            verified.discard();
            return Err(ImportError::Bad(format!("{:?} occurs twice", entry.name)));
        }
        if self.staged.keeps(self.cache, &digest).is_some() {
            verified.discard();
            self.staged.known += 1;
        } else {
            custody.publish(self.cache, verified, reservation)?;
            self.staged.note(digest, size);
        }
        Ok(())
    }

    fn reserve(&mut self, bytes: u64) -> Result<Reservation, ImportError> {
        if let Some(whole) = &mut self.reservation
            && whole.bytes() >= bytes
        {
            return Ok(whole.split(bytes));
        }
        Ok(self.cache.make_room(bytes, Class::default())?)
    }
}

fn copy(archive: &mut Archive, mut ingest: Ingest, size: u64) -> Result<Ingest, ImportError> {
    let copied = (|| {
        ingest.allocate(size).map_err(full)?;
        loop {
            let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK).max(1))];
            let mut len = 0;
            while len < buffer.len() {
                match archive.read(&mut buffer[len..])? {
                    0 => break,
                    read => len += read,
                }
            }
            if len == 0 {
                return Ok(());
            }
            buffer.truncate(len);
            ingest.append(&[Bytes::from(buffer)]).map_err(full)?;
        }
    })();
    match copied {
        Ok(()) => Ok(ingest),
        Err(error) => {
            ingest.discard();
            Err(error)
        }
    }
}

/// A disk that is full is told as what it is, and nothing of the bundle stays on it.
pub(super) fn full(error: io::Error) -> ImportError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImportError::Bad(format!("the cache's disk is full: {error}; nothing of the bundle was kept"))
        }
        _ => error.into(),
    }
}

/// The same of what makes its own room.
pub(super) fn no_room(error: NoRoom) -> ImportError {
    match error {
        NoRoom::Disk(error) if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded => {
            full(io::Error::new(error.kind(), error))
        }
        error => error.into(),
    }
}

fn check(digest: &Digest, bytes: &[u8]) -> Result<(), ImportError> {
    let found = Digest::of(digest.algorithm(), bytes);
    if found == *digest { Ok(()) } else { Err(damaged(digest, &found)) }
}

pub(super) fn damaged(wanted: &Digest, found: &Digest) -> ImportError {
    ImportError::Bad(format!("the bundle is damaged: the content of {wanted} has digest {found}; copy it again"))
}

/// The digest of a path under `blobs/`; `None` for other paths.
fn blob_digest(name: &str) -> Option<Result<Digest, ImportError>> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    let known = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm);
    let digest = known.and_then(|algorithm| Digest::from_parts(algorithm, hex).ok());
    Some(digest.ok_or_else(|| ImportError::Bad(format!("{name:?} is no blob: its name is no sha256 or sha512 digest"))))
}

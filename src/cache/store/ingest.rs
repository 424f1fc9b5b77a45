//! A file that is being filled, from its opening until its digest has been found right.
//!
//! Owns the agreement of bytes, length and hash ([`Ingest`]), and the proof that a file may be published ([`Verified`]): only
//! [`super::Store::publish`] takes one. Never gives a file its name. Blocks (I11); used by the fills and by
//! [`super::Store`], which says where such files lie.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use super::at::at;
use super::faults::Faults;
use super::scatter::{self, Scatter};
use crate::oci::{Digest, Hasher};

/// Bytes read at a time to be hashed: what was just written is still in the CPU's cache, and so is this.
const READ_BACK: usize = 256 << 10;

/// A file that is being filled: the hash always covers exactly its first `len` bytes. Parts of it may be further on
/// ([`Scatter`]); the hash follows ([`Ingest::absorb`]).
#[derive(Debug)]
pub struct Ingest {
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    hasher: Hasher,
    len: u64,
    beyond: Vec<Range<u64>>,
    /// There is a list of parts beside it.
    pub(super) scattered: bool,
    /// Some of it is an earlier fill's.
    resumed: bool,
    /// Its name is its digest's, so that a later fill can find it.
    resumable: bool,
    faults: Faults,
}

impl Ingest {
    /// Around a file that has just been opened; nothing of it is hashed yet.
    pub(super) fn new(digest: &Digest, path: PathBuf, file: File, resumable: bool, faults: Faults) -> Self {
        let hasher = Hasher::new(digest.algorithm());
        let (file, beyond) = (Arc::new(file), Vec::new());
        Self { digest: *digest, path, file, hasher, len: 0, beyond, scattered: false, resumed: false, resumable, faults }
    }

    /// Bytes written and hashed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What an earlier fill wrote further on, in order; a hole is before each.
    pub fn beyond(&self) -> &[Range<u64>] {
        &self.beyond
    }

    /// Whether some of it is what an earlier fill left, which may be why the whole is wrong.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Whether a later fill can go on with it.
    pub fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// How far the last byte reaches that is there, holes or not.
    pub fn reaches(&self) -> u64 {
        self.beyond.last().map_or(self.len, |range| range.end)
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether what is there already is all of it.
    pub fn is_complete(&self) -> bool {
        !self.is_empty() && self.hasher.clone().finish() == self.digest
    }

    /// The file, for readers that follow it. They must not read beyond what the fill has announced.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Sets blocks aside for a file of `size` bytes, so that a full disk shows before the first byte is answered.
    /// The file's length stays that of what was written.
    pub fn allocate(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        let allocate = || match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        };
        self.faults.check().and_then(|()| allocate()).map_err(at("set blocks aside for", &self.path))
    }

    /// Appends. After an error the file is as before the call: the same bytes can be appended again.
    pub fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        if let Some(chunk) = chunks.first()
            && let Err((torn, error)) = self.faults.check_write(chunk.len())
        {
            self.file.write_all_at(&chunk[..torn], self.len)?;
            return Err(at("write", &self.path)(error));
        }
        scatter::write_vectored(&self.file, self.len, chunks).map_err(at("write", &self.path))?;
        // Only once all is written, so that `len`, hash and file never disagree.
        self.hash(chunks);
        Ok(())
    }

    fn hash(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.hasher.update(chunk);
            self.len += chunk.len() as u64;
        }
    }

    /// From now on the file is written by parts, in any order.
    pub fn scatter(&mut self) -> io::Result<Scatter> {
        let open = || Scatter::open(&self.path, self.file.clone(), 0..self.len, self.faults.clone());
        let scatter = self.faults.check().and_then(|()| open()).map_err(at("write the list of parts of", &self.path));
        self.scattered = true;
        scatter
    }

    /// Hashes on with chunks that have just been written from byte `at` on, if that is where the hash stands; else they
    /// are read back ([`Ingest::absorb`]).
    pub fn follow(&mut self, at: u64, chunks: &[Bytes]) {
        if self.len == at {
            self.hash(chunks);
        }
    }

    /// Hashes on, up to byte `until`. All before that has been written: by parts, so that it is read back.
    pub fn absorb(&mut self, until: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ_BACK];
        while self.len < until {
            let want = usize::try_from(until - self.len).map_or(READ_BACK, |left| left.min(READ_BACK));
            match self.file.read_at(&mut buffer[..want], self.len).map_err(at("read back", &self.path))? {
                0 => return Err(at("read back", &self.path)(io::ErrorKind::UnexpectedEof.into())),
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.len += read as u64;
                }
            }
        }
        Ok(())
    }

    /// Forgets what is beyond a hole: the file is to be written in order. Before anybody reads it.
    pub fn close_up(&mut self) -> io::Result<()> {
        if self.scattered {
            self.file.set_len(self.len)?;
            scatter::remove(&self.path)?;
            (self.beyond, self.scattered) = (Vec::new(), false);
        }
        Ok(())
    }

    /// The bytes that the file takes from now on: blocks that were set aside behind its end are given back.
    pub fn settle(&self) -> io::Result<u64> {
        self.faults.check()?;
        let size = self.file.metadata()?.len();
        self.file.set_len(size)?;
        Ok(size)
    }

    /// Whether the bytes are the ones that the digest names. A file with wrong ones is unlinked: nothing can resume it.
    pub fn verify(self) -> Result<Verified, Box<Mismatch>> {
        self.proved().map_err(|disproved| {
            disproved.ingest.discard();
            Box::new(disproved.mismatch)
        })
    }

    /// As [`Ingest::verify`], and a file with wrong bytes is the caller's.
    pub fn proved(self) -> Result<Verified, Box<Disproved>> {
        let found = self.hasher.clone().finish();
        if found == self.digest {
            return Ok(Verified(self));
        }
        let mismatch = Mismatch { wanted: self.digest, found };
        Err(Box::new(Disproved { ingest: self, mismatch }))
    }

    /// Names the content by its own digest, for content that came without a name: what is found is what is wanted.
    pub fn seal(mut self) -> Verified {
        self.digest = self.hasher.clone().finish();
        Verified(self)
    }

    /// Unlinks the file. Readers keep what they have open. For files that no reservation counts; others go by
    /// [`super::super::Cache::discard`].
    pub fn discard(self) {
        let _ = self.remove();
    }

    /// Unlinks the file; after an error it may be there still.
    pub fn remove(&self) -> io::Result<()> {
        self.faults.check()?;
        super::remove(&self.path)?;
        match self.scattered {
            true => scatter::remove(&self.path),
            false => Ok(()),
        }
    }

    /// Hashes what is there without a hole.
    pub(super) fn rehash(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let prefix = match scatter::read(&self.path, size)? {
            None => size,
            Some(mut whole) => {
                self.scattered = true;
                let prefix = whole.first().filter(|range| range.start == 0).map_or(0, |range| range.end);
                whole.retain(|range| range.start > prefix);
                self.beyond = whole;
                prefix
            }
        };
        self.absorb(prefix)?;
        self.resumed = self.reaches() > 0;
        Ok(())
    }
}

/// A filled file whose digest matched; what [`super::Store::publish`] takes.
#[derive(Debug)]
pub struct Verified(pub(super) Ingest);

impl Verified {
    /// The digest, and now the name.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.0.len
    }

    /// The file, open.
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Unlinks the file unpublished.
    pub fn discard(self) {
        self.0.discard();
    }

    /// The file that will not be published.
    pub fn given_up(self) -> Ingest {
        self.0
    }
}

/// A file whose bytes are wrong.
#[derive(Debug)]
pub struct Disproved {
    /// The file, still there.
    pub ingest: Ingest,
    /// What is wrong.
    pub mismatch: Mismatch,
}

/// Bytes that are not what they were asked for as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content has digest {found}, not {wanted}")]
pub struct Mismatch {
    /// The digest that was asked for.
    pub wanted: Digest,
    /// The digest of what came.
    pub found: Digest,
}

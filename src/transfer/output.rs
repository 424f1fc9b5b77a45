//! Where a bundle goes: a file, parts of a file, a pipe; plain or compressed.
//!
//! Files are written under a temporary name and get their own when all of them are whole: a bundle that exists is one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A stream of bytes on its way into a bundle.
pub struct Output {
    stream: Stream,
}

enum Stream {
    Plain(BufWriter<Target>),
    Packed(Box<zstd::Encoder<'static, BufWriter<Target>>>),
}

enum Target {
    Pipe(Box<dyn Write + Send>),
    Files(Files),
}

struct Files {
    path: PathBuf,
    /// Bytes of one part; `None`: all in one file.
    split: Option<u64>,
    current: Option<File>,
    written: u64,
    temporary: Vec<PathBuf>,
    done: bool,
}

impl Output {
    /// Writes to the file `path`, or with `split` to `path.000`, `path.001` and so on. Compressed if the name ends in
    /// `.zst`.
    pub fn file(path: &Path, split: Option<u64>) -> io::Result<Self> {
        let files = Files { path: path.into(), split, current: None, written: 0, temporary: Vec::new(), done: false };
        Self::new(Target::Files(files), path.extension().is_some_and(|extension| extension == "zst"))
    }

    /// Writes to a pipe.
    pub fn pipe(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::new(Target::Pipe(Box::new(out)), false)
    }

    fn new(target: Target, packed: bool) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 20, target);
        let stream = if packed { Stream::Packed(Box::new(zstd::Encoder::new(out, 3)?)) } else { Stream::Plain(out) };
        Ok(Self { stream })
    }

    /// Ends the stream and gives the files their names.
    pub fn finish(self) -> io::Result<Vec<PathBuf>> {
        let out = match self.stream {
            Stream::Plain(out) => out,
            Stream::Packed(encoder) => encoder.finish()?,
        };
        match out.into_inner().map_err(io::IntoInnerError::into_error)? {
            Target::Pipe(mut out) => out.flush().map(|()| Vec::new()),
            Target::Files(mut files) => files.finish(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(out) => out.write(bytes),
            Stream::Packed(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(out) => out.flush(),
            Stream::Packed(encoder) => encoder.flush(),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(out) => out.write(bytes),
            Self::Files(files) => files.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pipe(out) => out.flush(),
            Self::Files(_) => Ok(()),
        }
    }
}

impl Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.split.is_some_and(|split| self.written >= split) {
            self.sync()?;
        }
        let part = self.name(self.temporary.len());
        let file = match &mut self.current {
            Some(file) => file,
            none => {
                let path = temporary(&part);
                let file = File::create(&path).map_err(|error| named(&path, error))?;
                self.temporary.push(path);
                self.written = 0;
                none.insert(file)
            }
        };
        let room = self.split.map_or(u64::MAX, |split| split - self.written);
        let len = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let written = file.write(&bytes[..len]).map_err(|error| named(&self.path, error))?;
        self.written += written as u64;
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.current.take().map_or(Ok(()), |file| file.sync_data())
    }

    fn name(&self, part: usize) -> PathBuf {
        match self.split {
            None => self.path.clone(),
            Some(_) => PathBuf::from(format!("{}.{part:03}", self.path.display())),
        }
    }

    fn finish(&mut self) -> io::Result<Vec<PathBuf>> {
        self.sync()?;
        let names: Vec<PathBuf> = (0..self.temporary.len()).map(|part| self.name(part)).collect();
        for (temporary, name) in self.temporary.iter().zip(&names) {
            fs::rename(temporary, name)?;
        }
        self.done = true;
        // Parts of an earlier, longer bundle of this name are of no use, and would be taken along.
        if self.split.is_some() {
            let beyond = (names.len()..).map(|part| self.name(part));
            beyond.take_while(|name| fs::remove_file(name).is_ok()).for_each(drop);
        }
        sync_folder(&self.path)?;
        Ok(names)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.done {
            for path in &self.temporary {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The name that a file has until it is whole.
pub(super) fn temporary(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.partial", path.display()))
}

/// Makes the names in a file's folder outlast a loss of power.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of a longer bundle would be taken for parts of the shorter one.
    #[test]
    fn a_shorter_bundle_leaves_no_parts_of_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.tar");
        let write = |bytes: usize| {
            let mut out = Output::file(&path, Some(1 << 20)).unwrap();
            out.write_all(&vec![7; bytes]).unwrap();
            out.finish().unwrap()
        };
        assert_eq!(write((4 << 20) + 1).len(), 5);
        let parts = write(2 << 20);
        assert_eq!(parts.len(), 2);
        let mut there: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        there.sort();
        assert_eq!(there, parts);
    }
}

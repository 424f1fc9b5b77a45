//! Where bundles come from: one file, the parts of one in order, a pipe; plain or compressed with zstd.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::tar::Input;

/// The first bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Content that grows more than this beyond its compressed size is a bomb, once it is larger than [`HARMLESS`]. Layers
/// are compressed already, and do not grow at all.
const MAX_GROWTH: u64 = 200;
const HARMLESS: u64 = 256 << 20;
/// The largest window that is decompressed, as a power of two: bounds memory at 128 MiB.
const WINDOW_LOG: u32 = 27;

/// Opens a bundle. `-` is standard input. Several files are the parts of one, and must be in order.
pub fn open(files: &[PathBuf]) -> io::Result<Box<dyn Input>> {
    if let [only] = files
        && only == Path::new("-")
    {
        return detect(io::stdin());
    }
    check_order(files)?;
    let with_name = |path: &PathBuf| {
        let fail = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(fail)?;
        // A folder opens, and is told here what it is.
        if file.metadata().map_err(fail)?.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        Ok(file)
    };
    let parts = files.iter().map(with_name).collect::<io::Result<Vec<_>>>()?;
    detect(Parts { parts, at: 0 })
}

/// A stream that is plain or compressed, as its first bytes say.
pub fn detect(mut raw: impl Read + Send + 'static) -> io::Result<Box<dyn Input>> {
    let mut start = [0; 4];
    let mut len = 0;
    while len < start.len() {
        match raw.read(&mut start[len..])? {
            0 => break,
            read => len += read,
        }
    }
    let whole = Prefixed { start: Cursor::new(start[..len].to_vec()), rest: raw };
    if start == ZSTD {
        let mut decoder = zstd::Decoder::new(Counted { inner: whole, count: 0 })?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Box::new(Unpacked { decoder, out: 0 }))
    } else {
        Ok(Box::new(whole))
    }
}

/// `site.tar.000`, `site.tar.001`: none missing, none twice, none out of order.
fn check_order(files: &[PathBuf]) -> io::Result<()> {
    let wrong = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let parts: Vec<Option<(String, u32)>> = files.iter().map(|path| part(path)).collect();
    for (at, (path, part)) in files.iter().zip(&parts).enumerate() {
        match part {
            Some((stem, number)) => {
                let first = parts.first().and_then(Option::as_ref);
                if first.is_some_and(|(other, _)| other != stem) {
                    return wrong(format!("{} is a part of another bundle than {}", path.display(), files[0].display()));
                }
                if *number as usize != at {
                    return wrong(format!(
                        "{} stands where part {at:03} belongs: name all parts of the bundle, in order",
                        path.display()
                    ));
                }
            }
            None if files.len() > 1 => return wrong(format!("{} is no part of a bundle (…tar.000, …tar.001)", path.display())),
            None => {}
        }
    }
    Ok(())
}

/// The name without the number, and the number, of a part.
pub fn part(path: &Path) -> Option<(String, u32)> {
    let (stem, number) = path.to_str()?.rsplit_once('.')?;
    let is_number = number.len() >= 3 && number.bytes().all(|c| c.is_ascii_digit());
    if is_number { Some((stem.to_owned(), number.parse().ok()?)) } else { None }
}

struct Parts {
    parts: Vec<File>,
    at: usize,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(file) = self.parts.get_mut(self.at) {
            match file.read(buffer)? {
                0 if !buffer.is_empty() => self.at += 1,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

/// The bytes that were looked at, and then the others.
struct Prefixed<R> {
    start: Cursor<Vec<u8>>,
    rest: R,
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.start.read(buffer)? {
            0 => self.rest.read(buffer),
            read => Ok(read),
        }
    }
}

impl<R: Read + Send> Input for Prefixed<R> {}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}

struct Unpacked<R: Read> {
    decoder: zstd::Decoder<'static, BufReader<Counted<R>>>,
    out: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.out += read as u64;
        let packed = self.decoder.get_ref().get_ref().count;
        if self.out > HARMLESS && self.out / MAX_GROWTH > packed {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{packed} compressed bytes became more than {} bytes: this is no bundle of images but a bomb", self.out),
            ));
        }
        Ok(read)
    }
}

impl<R: Read + Send> Input for Unpacked<R> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_be_in_order() {
        let order = |names: &[&str]| check_order(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert!(order(&["a.tar"]).is_ok() && order(&["a.tar.000", "a.tar.001"]).is_ok());
        for wrong in [&["a.tar.001", "a.tar.000"][..], &["a.tar.000", "a.tar.002"], &["a.tar.000", "b.tar.001"], &["a.tar.001"]] {
            assert!(order(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
        io::copy(&mut io::repeat(0).take(HARMLESS + (8 << 20)), &mut packed).unwrap();
        let packed = packed.finish().unwrap();
        let error = io::copy(&mut detect(Cursor::new(packed)).unwrap(), &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("bomb"), "{error}");
    }
}

//! Tar streams with limits: one pass, no memory beyond a header, nothing ever written to a path that an archive names.
//!
//! The `tar` crate reads and writes the 512-byte headers; what follows a header is framed here, because long names
//! and extended headers of any length would otherwise be read into memory whole.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Longest path, and longest extended header, that is looked at.
const MAX_NAME: u64 = 4096;
const MAX_EXTENDED: u64 = 64 << 10;
/// Zeros that may follow the end mark.
const MAX_TRAILER: u64 = 1 << 20;

/// Bytes that can be skipped, by seeking where that is possible.
pub trait Input: Read + Send {
    /// Passes over `bytes` bytes; fewer are an `UnexpectedEof`.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(bytes), &mut io::sink())?;
        if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Input for Box<dyn Input> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        (**self).skip(bytes)
    }
}

impl Input for &[u8] {}

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It could not be read.
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// It ends too early.
    #[error("the archive is truncated: it ends at byte {0}, before its end mark; copy it again")]
    Truncated(u64),
    /// Bytes that are no tar header.
    #[error("at byte {0} there is no tar header: the archive is damaged, or its parts are not in order")]
    NoHeader(u64),
    /// An entry that no image archive has.
    #[error("entry {name:?} is refused: {why}")]
    Refused {
        /// Its path.
        name: String,
        /// Why.
        why: &'static str,
    },
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic or hard link, and where it points. Never followed on a file system.
    Link(String),
}

/// One entry's head.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path: relative, without `.` and `..`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
}

/// Reads entries one after the other.
pub struct Reader<R> {
    input: R,
    at: u64,
    /// Of the entry's content.
    left: u64,
    padding: u64,
}

impl<R: Input> Reader<R> {
    /// A reader that stands at the first header.
    pub fn new(input: R) -> Self {
        Self { input, at: 0, left: 0, padding: 0 }
    }

    /// The next entry's head; `None` after the end mark. What was not read of the last one is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let (mut long_name, mut long_link, mut long_size) = (None, None, None);
        loop {
            let rest = self.left + self.padding;
            self.skip(rest)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let header_at = self.at - BLOCK as u64;
            let no_header = || TarError::NoHeader(header_at);
            let size = header.entry_size().map_err(|_| no_header())?;
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.text("a long name", MAX_NAME)?),
                EntryType::GNULongLink => long_link = Some(self.text("a long link", MAX_NAME)?),
                EntryType::XHeader => {
                    for (key, value) in extensions(&self.text("an extended header", MAX_EXTENDED)?) {
                        match key {
                            "path" => long_name = Some(value.to_owned()),
                            "linkpath" => long_link = Some(value.to_owned()),
                            "size" => long_size = Some(value.parse::<u64>().map_err(|_| no_header())?),
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => drop(self.text("a global header", MAX_EXTENDED)?),
                kind => {
                    let short = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
                    let name = long_name.take().unwrap_or_else(short);
                    if let Some(size) = long_size.take() {
                        self.left = size;
                        self.padding = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(no_header)? - size;
                    }
                    let refused = |why| TarError::Refused { name: name.chars().take(200).collect(), why };
                    let kind = match kind {
                        EntryType::Regular | EntryType::Continuous => Kind::File,
                        EntryType::Directory => Kind::Folder,
                        EntryType::Symlink | EntryType::Link => {
                            let short = || header.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
                            Kind::Link(long_link.take().or_else(short).unwrap_or_default())
                        }
                        _ => return Err(refused("it is neither a file, a folder nor a link")),
                    };
                    let clean = clean(&name).ok_or_else(|| refused("its path leaves the archive"))?;
                    return Ok(Some(Entry { name: clean, kind, size: self.left }));
                }
            }
        }
    }

    /// The next bytes of the entry's content; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if want == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..want]).map_err(|error| self.error(error))?;
        if read == 0 {
            return Err(TarError::Truncated(self.at));
        }
        self.left -= read as u64;
        self.at += read as u64;
        Ok(read)
    }

    /// The entry's whole content, which must not be larger than `limit`.
    pub fn whole(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, TarError> {
        if self.left > limit {
            return Err(TarError::Refused { name: name.into(), why: "it is too large for what it is" });
        }
        let mut bytes = vec![0; self.left as usize];
        let mut at = 0;
        while at < bytes.len() {
            at += self.read(&mut bytes[at..])?;
        }
        Ok(bytes)
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<String, TarError> {
        let bytes = self.whole(what, limit)?;
        let text = String::from_utf8(bytes).map_err(|_| TarError::Refused { name: what.into(), why: "it is not UTF-8" })?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        self.block(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.trailer()?;
            return Ok(None);
        }
        let bytes = header.as_bytes();
        // The sum of all bytes, its own field counted as spaces.
        let sum: u32 =
            bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => Err(TarError::NoHeader(self.at - BLOCK as u64)),
        }
    }

    /// Nothing but zeros may follow the end mark; reading them also checks the sum of a compressed stream.
    fn trailer(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        let mut seen = 0;
        loop {
            let read = self.input.read(&mut buffer).map_err(|error| self.error(error))?;
            seen += read as u64;
            if read == 0 {
                return Ok(());
            }
            if buffer[..read].iter().any(|byte| *byte != 0) || seen > MAX_TRAILER {
                return Err(TarError::NoHeader(self.at));
            }
        }
    }

    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), TarError> {
        self.input.read_exact(block).map_err(|error| self.error(error))?;
        self.at += BLOCK as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        if bytes > 0 {
            self.input.skip(bytes).map_err(|error| self.error(error))?;
            self.at += bytes;
        }
        Ok(())
    }

    fn error(&self, error: io::Error) -> TarError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated(self.at),
            _ => TarError::Io(error),
        }
    }
}

/// A path without `.`; `None` if it is absolute, goes up, or holds what no path of an image archive holds.
pub fn clean(path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains(['\0', '\\']) {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { None } else { Some(parts.join("/")) }
}

/// The records of an extended header: `LENGTH KEY=VALUE\n`.
fn extensions(mut text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    while let Some((length, _)) = text.split_once(' ') {
        let Some(record) = length.parse().ok().and_then(|end: usize| text.get(length.len() + 1..end)) else { break };
        if let Some((key, value)) = record.trim_end_matches('\n').split_once('=') {
            found.push((key, value));
        }
        text = &text[length.len() + 1 + record.len()..];
    }
    found
}

/// Writes entries whose bytes depend on name and content alone.
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// A writer at the beginning of a stream.
    pub fn new(out: W) -> Self {
        Self(out)
    }

    /// A folder.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.head(name, 0, EntryType::Directory, 0o755)
    }

    /// A whole file.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.head(name, content.len() as u64, EntryType::Regular, 0o644)?;
        self.0.write_all(content)?;
        self.pad(content.len() as u64)
    }

    /// A file of exactly `size` bytes, which [`Writer::content`] must then be given, and [`Writer::pad`] end.
    pub fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.head(name, size, EntryType::Regular, 0o644)
    }

    /// The next bytes of a file.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Ends a file of `size` bytes.
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.0.write_all(&[0; BLOCK][..padding as usize])
    }

    /// Writes the end mark and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        Ok(self.0)
    }

    fn head(&mut self, name: &str, size: u64, kind: EntryType, mode: u32) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.write_all(header.as_bytes())
    }
}

#[cfg(test)]
mod tests;

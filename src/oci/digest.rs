//! Content digests: the name of everything the cache holds.
//!
//! Owns the grammar of a digest (OCI image-spec, *descriptor.md § Digests*) and the only place that names the
//! hash crate. A [`Digest`] that exists is valid: it can be put into a path or a URL without another look
//! (CVE-2024-3727 is what happens otherwise).

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// The algorithms the mirror accepts. Anything else is refused before any I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, what nearly every registry uses.
    Sha256,
    /// `sha512`, registered in the OCI image specification.
    Sha512,
}

impl Algorithm {
    /// Every accepted algorithm, in the order in which the store lists its folders.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name as it stands before the colon, and as the folder under `blobs/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A validated content digest, for example `sha256:e3b0…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash, zero-padded: bytes beyond the algorithm's length are always zero, so that the derived
    /// comparison is right.
    bytes: [u8; 64],
}

/// Why a string is not a digest the mirror accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex` shape.
    #[error("a digest is written algorithm:hex")]
    Shape,
    /// The algorithm is not one of [`Algorithm::ALL`].
    #[error("the digest algorithm must be sha256 or sha512")]
    Algorithm,
    /// The hex part has the wrong length, or characters other than `0-9a-f`.
    #[error("the digest's hex part must be {0} lower-case hexadecimal characters")]
    Hex(usize),
}

/// Each byte in lower-case hexadecimal: every request has a digest, and every answer has it three times.
static PAIRS: [[u8; 2]; 256] = {
    let (mut pairs, mut byte, digits) = ([[0; 2]; 256], 0, b"0123456789abcdef");
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Set in what stands for a character that is no lower-case hexadecimal digit.
const NO_DIGIT: u8 = 0x80;

/// What each character says as a digit.
static NIBBLES: [u8; 256] = {
    let (mut nibbles, mut nibble) = ([NO_DIGIT; 256], 0);
    while nibble < 16 {
        nibbles[b"0123456789abcdef"[nibble] as usize] = nibble as u8;
        nibble += 1;
    }
    nibbles
};

impl Digest {
    /// The digest of `data`. For large data use a [`Hasher`] off the reactor (I11).
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(data);
        hasher.finish()
    }

    /// Builds a digest from an algorithm and its hexadecimal form, as they stand in the store's paths.
    pub fn from_parts(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let wrong = DigestError::Hex(algorithm.len() * 2);
        if hex.len() != algorithm.len() * 2 {
            return Err(wrong);
        }
        let (mut bytes, mut seen) = ([0; 64], 0);
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().as_chunks().0) {
            let [high, low] = pair.map(|c| NIBBLES[usize::from(c)]);
            (*byte, seen) = (high << 4 | low & 0xf, seen | high | low);
        }
        if seen & NO_DIGIT != 0 { Err(wrong) } else { Ok(Self { algorithm, bytes }) }
    }

    /// The algorithm before the colon.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself: 32 or 64 bytes.
    pub fn raw(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len()]
    }

    /// The digest whose hash is `raw`; `None` if it has not the algorithm's length.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        let mut bytes = [0; 64];
        bytes.get_mut(..algorithm.len()).filter(|target| target.len() == raw.len())?.copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// The lower-case hexadecimal form after the colon.
    pub fn hex(&self) -> String {
        self.with_text(|text| text[self.algorithm.name().len() + 1..].to_owned())
    }

    /// `sha256-<hex>`, for where no colon can stand: in names of files, and of tags about a manifest.
    pub fn file_name(&self) -> String {
        format!("{}-{}", self.algorithm.name(), self.hex())
    }

    /// The digest that [`Self::file_name`] has written so; `None` for any other name.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (algorithm, hex) = name.split_once('-')?;
        let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm)?;
        Self::from_parts(algorithm, hex).ok()
    }

    /// Hands the text to `take` without an allocation and without the formatter: every answer carries it three times.
    pub fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let mut text = [b':'; "sha512:".len() + 128];
        let (name, raw) = (self.algorithm.name(), self.raw());
        text[..name.len()].copy_from_slice(name.as_bytes());
        let hex = &mut text[name.len() + 1..][..raw.len() * 2];
        for (pair, byte) in hex.as_chunks_mut().0.iter_mut().zip(raw) {
            *pair = PAIRS[usize::from(*byte)];
        }
        // ASCII only.
        take(str::from_utf8(&text[..name.len() + 1 + raw.len() * 2]).unwrap_or_default())
    }
}

/// Every hit looks its digest up several times, and the padding says nothing. All of the rest counts: clients choose what they
/// ask for, and must not be able to make digests that fall together.
impl Hash for Digest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(self.raw());
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Shape)?;
        let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm).ok_or(DigestError::Algorithm)?;
        Self::from_parts(algorithm, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

/// An incremental hash. Cloning it keeps the state, so that a fill can be checked without ending it.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen no byte.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes in the next bytes. About 0.8 ms a MiB with SHA extensions: more than 64 KiB belongs off the
    /// reactor (I11).
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(data),
            State::Sha512(state) => state.update(data),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.0 {
            State::Sha256(state) => {
                bytes[..32].copy_from_slice(&state.finalize());
                Algorithm::Sha256
            }
            State::Sha512(state) => {
                bytes.copy_from_slice(&state.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_published_vectors_of_both_algorithms() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
        assert_eq!(
            Digest::of(Algorithm::Sha512, b"abc").to_string(),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }

    #[test]
    fn what_is_printed_parses_back() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(serde_json::from_str::<Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    }

    #[test]
    fn everything_else_is_refused() {
        let hex = &EMPTY[7..];
        for (text, error) in [
            ("", DigestError::Shape),
            (hex, DigestError::Shape),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", DigestError::Algorithm),
            (&EMPTY[..70], DigestError::Hex(64)),
            (&EMPTY[..69], DigestError::Hex(64)),
            (&format!("{EMPTY}00"), DigestError::Hex(64)),
            (&format!("sha256:g{}", &hex[1..]), DigestError::Hex(64)),
            (&format!("sha256:é{}", &hex[2..]), DigestError::Hex(64)),
            (&format!("{EMPTY}0"), DigestError::Hex(64)),
            (&format!("sha256:{}", hex.to_uppercase()), DigestError::Hex(64)),
            (&format!("sha256:../{}", &hex[3..]), DigestError::Hex(64)),
            (&format!("sha512:{hex}"), DigestError::Hex(128)),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn each_character_at_each_place() {
        // As far as a character has one byte or two.
        for c in '\0'..='\u{7ff}' {
            for at in [0, 1, 62, 63 - (c.len_utf8() - 1)] {
                let mut hex = "0".repeat(64);
                hex.replace_range(at..at + c.len_utf8(), c.encode_utf8(&mut [0; 4]));
                let parsed = Digest::from_parts(Algorithm::Sha256, &hex);
                match c {
                    '0'..='9' | 'a'..='f' => assert_eq!(parsed.unwrap().hex(), hex),
                    _ => assert_eq!(parsed, Err(DigestError::Hex(64)), "{c:?} at {at}"),
                }
            }
        }
    }
}

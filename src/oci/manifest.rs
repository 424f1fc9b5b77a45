//! A view of a manifest: what it is and what it refers to. The bytes stay as they came (I10).
//!
//! Owns the reading of all kinds that are mirrored (OCI image-spec *manifest.md* and *image-index.md*, Docker schema 2 and
//! lists, artifact manifests) and the checks against type confusion (CVE-2021-41190): whatever two readers could take for
//! two different things is refused here, before it is cached. Never writes a manifest, and never repeats one in an error.
//! Called wherever a manifest enters, and where a cached one is read whose type is not known any more.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::digest::Digest;
use super::media::MediaType;
use super::platform::Platform;

/// The largest manifest that is taken in. Clients stop at 4 MiB; the specification wants at least that.
pub const MAX_MANIFEST: u64 = 8 << 20;

/// A reference from a manifest to content. Its `urls` are never fetched (CVE-2020-15157).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it names.
    pub digest: Digest,
    /// In bytes, as claimed.
    pub size: u64,
    /// For what machine, where an index says so.
    pub platform: Option<Platform>,
    /// A registry may have taken the manifest without having this: it has `urls`, or is of a type that is not distributed, or
    /// somebody else may read another digest, type or address in it than is read here.
    pub elsewhere: bool,
}

/// What a manifest says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is, never a vague type: to be kept with the digest and served as `Content-Type`.
    pub media_type: MediaType,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// The config, layers and blobs of an image or artifact.
    pub blobs: Vec<Descriptor>,
}

/// Why bytes are not a manifest that the mirror passes on. Short, and without anything of the document but its type: it goes
/// into answers and logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or fields of the wrong kind.
    #[error("it is not a manifest: {problem} at line {line}, column {column}")]
    Json {
        /// What is wrong.
        problem: &'static str,
        /// Where, from 1.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// Said to be something that cannot be a manifest.
    #[error("it is said to be {0}, which is no type of a manifest")]
    NoManifestType(MediaType),
    /// Its own `mediaType` is not a media type.
    #[error("its mediaType is not a media type")]
    MediaType,
    /// The header and the document disagree (CVE-2021-41190).
    #[error("its Content-Type is {header}, but it says of itself that it is {body}")]
    TypeMismatch {
        /// What the header says.
        header: MediaType,
        /// What the document says.
        body: MediaType,
    },
    /// It could be read as two kinds of document (CVE-2021-41190).
    #[error("it has both {0:?} and {1:?}, and could be taken for two different things")]
    Ambiguous(&'static str, &'static str),
    /// A key that some readers take for another one, which differs in case.
    #[error("it has a key that some readers take for {0:?}, and others do not")]
    Spelling(&'static str),
    /// A part that its kind does not have.
    #[error("it is {0}, which has no {1:?}")]
    Unexpected(MediaType, &'static str),
    /// Lacks the part that makes it what it is.
    #[error("it is {0}, but has no {1:?}")]
    Missing(MediaType, &'static str),
    /// An error body, sent with status 200.
    #[error("it is an error message and no manifest")]
    ErrorBody,
    /// Docker's schema 1.
    #[error("it is a schema 1 manifest, which no present client takes; push the image again with a present client")]
    Schema1,
    /// Nothing tells what it is.
    #[error("nothing in it tells what it is")]
    Untyped,
}

impl Manifest {
    /// Looks at a manifest that came with `content_type`, parameters included. Where that is missing, malformed or vague
    /// ([`MediaType::is_vague`]), the type comes from `mediaType`, else from the structure, as moby's
    /// `detectManifestBlobMediaType` has it.
    ///
    /// Costs time in proportion to the bytes: some milliseconds for [`MAX_MANIFEST`] of them.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let header = content_type.and_then(|text| text.parse::<MediaType>().ok()).filter(|header| !header.is_vague());
        if let Some(header) = header.as_ref().filter(|header| !header.is_application()) {
            return Err(ManifestError::NoManifestType(header.clone()));
        }
        let keys: Keys = serde_json::from_slice(bytes).map_err(json)?;
        keys.check()?;
        // Before the parts are read: those of schema 1 have another shape.
        if keys.has("fsLayers") || header.as_ref().is_some_and(MediaType::is_schema1) {
            return Err(ManifestError::Schema1);
        }
        let document: Document = serde_json::from_slice(bytes).map_err(json)?;
        if document.schema_version == Some(serde_json::Value::from(1)) {
            return Err(ManifestError::Schema1);
        }
        let body = match document.media_type.filter(|body| !body.is_empty()) {
            None => None,
            Some(body) => Some(body.parse::<MediaType>().map_err(|_| ManifestError::MediaType)?),
        };
        let media_type = match (header, body) {
            (Some(header), Some(body)) if header != body => return Err(ManifestError::TypeMismatch { header, body }),
            (Some(known), _) => known,
            // What it says of itself is served, to browsers too.
            (None, Some(body)) if body.is_vague() || !body.is_application() => return Err(ManifestError::NoManifestType(body)),
            (None, Some(body)) => body,
            (None, None) => keys.media_type()?,
        };
        keys.fit(&media_type)?;
        if media_type.is_image() && document.config.is_none() {
            return Err(ManifestError::Missing(media_type, "config"));
        }
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten());
        let blobs = blobs.chain(document.blobs.into_iter().flatten()).map(Descriptor::from).collect();
        let manifests = document.manifests.into_iter().flatten().map(Descriptor::from).collect();
        Ok(Self { media_type, manifests, blobs })
    }

    /// What a repository that has this manifest has, too, because registries refuse one that names what is not there: its own
    /// config and layers. Of a kind that they do not know they check nothing, nor of what may be elsewhere; and that an index is
    /// there says nothing of its manifests.
    pub fn owns(&self, blob: &Descriptor) -> bool {
        !blob.elsewhere && (self.media_type.is_image() || self.media_type.is_artifact())
    }
}

/// The fields that matter. Unknown ones are nobody's business here; the bytes carry them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<serde_json::Value>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    blobs: Option<Vec<RawDescriptor>>,
    /// Read to see that it is a descriptor.
    #[serde(rename = "subject")]
    _subject: Option<RawDescriptor>,
}

struct RawDescriptor {
    digest: Digest,
    size: u64,
    /// For people and pins: a strange one refuses no manifest.
    platform: Option<serde_json::Value>,
    elsewhere: bool,
}

impl From<RawDescriptor> for Descriptor {
    fn from(RawDescriptor { digest, size, platform, elsewhere }: RawDescriptor) -> Self {
        Self { digest, size, platform: platform.and_then(|platform| serde_json::from_value(platform).ok()), elsewhere }
    }
}

impl<'de> Deserialize<'de> for RawDescriptor {
    /// What serde derives takes an array of the fields' values as well, which no other reader does.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = RawDescriptor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawDescriptor, A::Error> {
                let (mut digest, mut size, mut platform, mut elsewhere) = (None, None, None, false);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "digest" => once(&mut digest, "digest", map.next_value()?)?,
                        "size" => once(&mut size, "size", map.next_value()?)?,
                        "platform" => once(&mut platform, "platform", map.next_value()?)?,
                        "mediaType" => elsewhere |= may_be_elsewhere(&map.next_value()?),
                        "urls" => elsewhere |= !is_nothing(&map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            elsewhere |= ["digest", "mediaType", "urls"].into_iter().any(|known| folded(&key).eq(folded(known)));
                        }
                    }
                }
                let digest = digest.ok_or_else(|| serde::de::Error::missing_field("digest"))?;
                let size = size.ok_or_else(|| serde::de::Error::missing_field("size"))?;
                Ok(RawDescriptor { digest, size, platform, elsewhere })
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// Takes the value of a key that may be there once: some readers take the first, some the last.
fn once<T, E: serde::de::Error>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// Whether a type, as it stands in a descriptor, is one of those that are not distributed ("foreign" to Docker). One that is no
/// text can be anything.
fn may_be_elsewhere(media_type: &serde_json::Value) -> bool {
    match media_type {
        serde_json::Value::Null => false,
        serde_json::Value::String(text) => {
            let text = text.to_ascii_lowercase();
            ["foreign", "nondistributable"].into_iter().any(|word| text.contains(word))
        }
        _ => true,
    }
}

/// Whether a list of addresses has none, as Go may write it.
fn is_nothing(urls: &serde_json::Value) -> bool {
    urls.is_null() || urls.as_array().is_some_and(Vec::is_empty)
}

/// Which of the keys that decide the kind stand in the document, be their value `null` or empty: Go writes an empty list so.
struct Keys {
    present: Vec<&'static str>,
    misspelt: Option<&'static str>,
    has_errors: bool,
}

impl Keys {
    const DECISIVE: [&'static str; 7] = ["mediaType", "manifests", "config", "layers", "fsLayers", "blobs", "subject"];

    fn has(&self, key: &str) -> bool {
        self.present.contains(&key)
    }

    /// The document can be read in one way only.
    fn check(&self) -> Result<(), ManifestError> {
        if let Some(known) = self.misspelt {
            return Err(ManifestError::Spelling(known));
        }
        let rivals = [
            ("manifests", "config"),
            ("manifests", "layers"),
            ("manifests", "fsLayers"),
            ("manifests", "blobs"),
            ("layers", "fsLayers"),
            ("config", "fsLayers"),
            ("layers", "blobs"),
        ];
        if let Some((one, other)) = rivals.into_iter().find(|(one, other)| self.has(one) && self.has(other)) {
            return Err(ManifestError::Ambiguous(one, other));
        }
        // Whatever type it was sent as: of a type unknown here nothing else is demanded.
        if self.has_errors && self.present.iter().all(|key| *key == "mediaType") { Err(ManifestError::ErrorBody) } else { Ok(()) }
    }

    /// The kind that the structure alone tells. Moby takes what has none of these for an index; here that is an error, or else
    /// any JSON would be stored as one.
    fn media_type(&self) -> Result<MediaType, ManifestError> {
        if self.has("manifests") {
            Ok(MediaType::OCI_INDEX)
        } else if self.has("config") || self.has("layers") {
            Ok(MediaType::OCI_MANIFEST)
        } else if self.has("blobs") {
            Ok(MediaType::OCI_ARTIFACT)
        } else {
            Err(ManifestError::Untyped)
        }
    }

    /// The structure is that of the kind. Of a kind unknown here nothing is demanded.
    fn fit(&self, media_type: &MediaType) -> Result<(), ManifestError> {
        let unexpected: &[&'static str] = match media_type {
            media_type if media_type.is_schema1() => return Err(ManifestError::Schema1),
            media_type if media_type.is_index() && !self.has("manifests") => {
                return Err(ManifestError::Missing(media_type.clone(), "manifests"));
            }
            media_type if media_type.is_image() => &["manifests", "blobs"],
            media_type if media_type.is_artifact() => &["manifests", "layers"],
            _ => &[],
        };
        match unexpected.iter().find(|key| self.has(key)) {
            Some(key) => Err(ManifestError::Unexpected(media_type.clone(), key)),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Keys { present: Vec::new(), misspelt: None, has_errors: false };
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.has_errors |= key == "errors";
                    match Keys::DECISIVE.into_iter().find(|known| folded(&key).eq(folded(known))) {
                        Some(known) if known == key => {
                            // Some readers take the first, some the last.
                            if keys.has(known) {
                                return Err(serde::de::Error::duplicate_field(known));
                            }
                            keys.present.push(known);
                        }
                        Some(known) => keys.misspelt = Some(known),
                        None => {}
                    }
                }
                Ok(keys)
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// A key as Go's `encoding/json`, in which most clients are written, compares it: without regard to case, with the two
/// characters beyond ASCII that fold into it.
fn folded(key: &str) -> impl Iterator<Item = char> {
    key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    })
}

/// Where and what, but not serde's own text: that repeats the value it did not like, however long.
fn json(error: serde_json::Error) -> ManifestError {
    let problem = match error.classify() {
        Category::Io | Category::Syntax => "it is not JSON",
        Category::Eof => "it ends early",
        Category::Data => "a field is missing, or not what it must be, or there twice",
    };
    ManifestError::Json { problem, line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests;

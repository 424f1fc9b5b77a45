//! What was asked for in vain: the subject of an error, and the key of an absence.

use std::fmt;

use crate::oci::{Digest, Tag};

/// Something that a repository has or has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A tag.
    Tag(Tag),
    /// A manifest by its digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
    /// The list of its tags.
    Tags,
    /// The list of what refers to a manifest.
    Referrers(Digest),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Manifest(digest) => write!(f, "manifest {digest}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Tags => f.write_str("the list of tags"),
            Self::Referrers(digest) => write!(f, "the list of referrers of {digest}"),
        }
    }
}

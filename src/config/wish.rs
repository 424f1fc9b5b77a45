//! What an operator wants of a registry: an image, or all tags that a pattern matches. In `[[prefetch]]`, on the command line
//! and in the lists that it reads.

use std::fmt;
use std::str::FromStr;

use super::Globs;
use super::value::Value;
use crate::oci::image::{ImageError, no_digest, split_tag};
use crate::oci::{ImageRef, Scope};

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// One image.
    One(ImageRef),
    /// All tags that match.
    Tags(Scope, Globs),
}

/// Whether text is a pattern: none of these is part of a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

impl Wish {
    /// The repository that it is of.
    pub fn scope(&self) -> &Scope {
        match self {
            Self::One(image) => &image.scope,
            Self::Tags(scope, _) => scope,
        }
    }
}

impl FromStr for Wish {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match split_tag(text) {
            (name, Some(glob)) if is_pattern(glob) && !text.contains('@') && no_digest(text).is_none() => {
                let scope = name.parse::<Scope>().map_err(|error| ImageError::new(text, error.why()))?;
                let globs = Globs::new([glob]).map_err(|reason| ImageError::new(text, reason))?;
                Ok(Self::Tags(scope, globs))
            }
            _ => text.parse().map(Self::One),
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(image) => image.fmt(f),
            Self::Tags(scope, globs) => write!(f, "{scope}:{}", globs.patterns().concat()),
        }
    }
}

impl Value for Wish {
    const EXPECTED: &'static str =
        "an image such as \"docker.io/library/alpine:3.20\", or a pattern of its tags such as \"registry.k8s.io/pause:3.*\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: ImageError| error.why().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_or_a_pattern_of_its_tags() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("registry.k8s.io/pause:3.*", "registry.k8s.io/pause:3.*"),
            ("localhost:5000/a:v[12]", "localhost:5000/a:v[12]"),
            ("alpine:*", "docker.io/library/alpine:*"),
            ("index.docker.io/a/b:{x,y}", "docker.io/a/b:{x,y}"),
        ] {
            let wish: Wish = text.parse().unwrap();
            assert_eq!(wish.to_string(), full);
            assert_eq!(full.parse::<Wish>().as_ref(), Ok(&wish));
            assert_eq!(matches!(wish, Wish::Tags(..)), is_pattern(text), "{text}");
        }
        let Ok(Wish::Tags(_, tags)) = "pause:3.*".parse() else { panic!("it is a pattern") };
        assert!(tags.is_match("3.10") && !tags.is_match("2.3.1"));
    }

    #[test]
    fn what_is_neither() {
        for (text, why) in [
            ("a b", "a repository is"),
            ("Alpine:3.*", "a repository is"),
            ("a:b:c*", "a repository is"),
            ("alp*", "a repository is"),
            ("ghcr.io/*/app:1", "a repository is"),
            ("pause:3.[", "unclosed character class"),
            ("pause:3.*@sha256:1", "sha256"),
            ("sha256:7a19*", "must be 64 lower-case"),
        ] {
            let error = text.parse::<Wish>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is no image: ")) && error.contains(why), "{error}");
        }
    }
}

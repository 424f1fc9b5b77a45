//! The registry's vocabulary: pure values and grammars, no I/O.
//!
//! Everything a client or an upstream says is parsed here into a value that is valid by its type. Used by every other
//! module; uses none of them but the label [`crate::metrics::Kind`].

pub mod digest;
pub mod error;
pub mod image;
pub mod manifest;
pub mod media;
pub mod name;
pub mod platform;
pub mod range;
pub mod route;

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer};

pub use digest::{Algorithm, Digest, Hasher};
pub use error::ErrorCode;
pub use image::{ImageError, ImageRef};
pub use manifest::{Descriptor, MAX_MANIFEST, Manifest};
pub use media::MediaType;
pub use name::{NameError, Reference, Repository, Scope, Tag, UpstreamName};
pub use platform::{Platform, PlatformError, Platforms};
pub use range::{ContentRange, RangeHeader, Selection};
pub use route::{Directory, Route, RouteError, Target, Wanted};

/// Reads a value that is written as text.
fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

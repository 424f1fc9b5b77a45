//! The kinds of requests that registries limit, and fail at, each by itself. What is known of an address is known by them:
//! breakers, silences, lies.

/// A kind of request. Registries count pulls and not HEADs, and layers not at all, and their layers fail while tags do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// HEAD.
    Check = 0,
    /// GET of a manifest or list.
    Pull = 1,
    /// GET of a blob.
    Layer = 2,
}

impl Traffic {
    pub(super) const ALL: [Self; 3] = [Self::Check, Self::Pull, Self::Layer];

    /// Those that are misled together: what answers a GET of a manifest answers its HEAD.
    pub(super) fn alike(self) -> &'static [Self] {
        match self {
            Self::Check | Self::Pull => &[Self::Check, Self::Pull],
            Self::Layer => &[Self::Layer],
        }
    }

    /// In a word, for people.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Check => "checks",
            Self::Pull => "manifests",
            Self::Layer => "blobs",
        }
    }
}

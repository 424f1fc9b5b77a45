//! The upstreams of a mirror: set up at the start, and again when the configuration says otherwise.
//!
//! One that is to be reached as before stays what it is: with its connections, its breaker and its queue. Another takes the
//! place of one that changed; downloads that have begun with the old one end with it. Called by [`super`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{self, Config, Visibility};
use crate::metrics::Metrics;
use crate::oci::{Algorithm, Digest, Directory, Hasher, UpstreamName};
use crate::pull::{Site, Sites};
use crate::upstream::{TlsError, Upstream};

/// A certificate of an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("[upstream.{upstream:?}]: {source}", upstream = .upstream.as_str())]
pub struct SetupError {
    upstream: UpstreamName,
    source: TlsError,
}

/// The upstreams as they are, and from what they were made.
#[derive(Clone, Debug, Default)]
pub(super) struct Upstreams(BTreeMap<UpstreamName, Made>);

#[derive(Clone, Debug)]
struct Made {
    upstream: Arc<Upstream>,
    config: config::Upstream,
    /// The files that the configuration names, as they were.
    files: Digest,
}

/// Upstreams that are to take the place of others, and what that means for those.
pub(super) struct Remade {
    pub upstreams: Upstreams,
    /// Those that are none of them any more.
    pub gone: Vec<Arc<Upstream>>,
    /// Those of which the configuration says something new about whether they are asked.
    pub switched: Vec<(Arc<Upstream>, bool)>,
}

impl Upstreams {
    /// Sets up what `config` has and these are not; changes nothing of these. Reads files: blocks (I11).
    pub(super) fn remade(&self, config: &Config, metrics: &Arc<Metrics>) -> Result<Remade, SetupError> {
        let (mut made, mut switched) = (BTreeMap::new(), Vec::new());
        for (name, upstream) in &config.upstreams {
            let mut wanted = upstream.clone();
            wanted.offline |= config.cache.offline;
            let files = files(&wanted);
            let held = self.0.get(name);
            let stays = held.filter(|held| held.files == files && is_reached_alike(&held.config, &wanted));
            let made_anew = || match held {
                Some(held) => held.upstream.succeeded_by(&wanted),
                None => Upstream::new(name.clone(), &wanted, metrics.clone()),
            };
            let upstream = match stays {
                Some(stays) => stays.upstream.clone(),
                None => Arc::new(made_anew().map_err(|source| SetupError { upstream: name.clone(), source })?),
            };
            // What an operator has switched stays so, unless the configuration says something new.
            if held.is_some_and(|held| held.config.offline != wanted.offline) {
                switched.push((upstream.clone(), wanted.offline));
            }
            made.insert(name.clone(), Made { upstream, config: wanted, files });
        }
        let stays = |old: &Arc<Upstream>| made.get(old.name()).is_some_and(|new| Arc::ptr_eq(&new.upstream, old));
        let gone = self.0.values().map(|held| held.upstream.clone()).filter(|old| !stays(old)).collect();
        Ok(Remade { upstreams: Self(made), gone, switched })
    }

    /// What the pull path needs of them.
    pub(super) fn sites(&self) -> Sites {
        let site = |made: &Made| {
            let config::Upstream { freshness, visibility, verdict_for, .. } = made.config.clone();
            Arc::new(Site { upstream: made.upstream.clone(), freshness, visibility, verdict_for })
        };
        self.0.iter().map(|(name, made)| (name.clone(), site(made))).collect()
    }

    /// Under which names requests mean them.
    pub(super) fn directory(&self, default: &UpstreamName) -> Directory {
        Directory::new(default.clone(), self.0.iter().map(|(name, made)| (name, made.config.hosts.as_slice())))
    }

    /// Those whose content is not everybody's.
    pub(super) fn private(&self) -> impl Iterator<Item = UpstreamName> {
        let private = self.0.iter().filter(|(_, made)| made.config.visibility != Visibility::Public);
        private.map(|(name, _)| name.clone())
    }
}

/// Whether two upstreams differ in nothing but what is for the mirror and its clients alone, and in whether they are asked.
fn is_reached_alike(one: &config::Upstream, other: &config::Upstream) -> bool {
    let config::Upstream { hosts, visibility, verdict_for, repositories, freshness, offline, .. } = other.clone();
    config::Upstream { hosts, visibility, verdict_for, repositories, freshness, offline, ..one.clone() } == *other
}

/// A digest of the files that an upstream is set up with. One that cannot be read is as good as empty here: the setup says so.
fn files(config: &config::Upstream) -> Digest {
    let client = config.client.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for path in config.ca.iter().chain(client) {
        let content = std::fs::read(path).unwrap_or_default();
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(&content);
    }
    hasher.finish()
}

//! A changed configuration, while the mirror runs: what can change live does, and the rest is said.

use std::sync::PoisonError;

use tokio::task::spawn_blocking;

use super::Running;
use crate::config::{Admin, Config, ConfigError, RepositoryRule, Server, Upstream};
use crate::listen::tls::TlsError;
use crate::oci::UpstreamName;
use crate::policy::NoKey;

/// Why a configuration was not taken. The old one holds, all of it.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// The mirror would be open to others without a word about it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no key for tokens.
    #[error(transparent)]
    Key(#[from] NoKey),
    /// A thread that helped is gone.
    #[error("the configuration was not taken: {0}")]
    Threads(#[from] tokio::task::JoinError),
}

impl Running {
    /// Takes what can change without a restart: the files and the demands of `server.tls` and `admin.tls`, `[access]`, and
    /// `allow` and `deny` of upstreams. What else is different from the
    /// configuration that holds is logged, and waits for the next start. All or nothing.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        config.check_exposure_at(self.addresses().into_iter())?;
        let held = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.reload_tls(&config).await?;
        self.policy.replace(&config)?;
        let waiting = waiting(&held, &config);
        if !waiting.is_empty() {
            tracing::warn!(changed = waiting.join(", "), "these have changed, and take effect after a restart");
        }
        let mut held = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if held.server.tls.is_some() && config.server.tls.is_some() {
            held.server.tls = config.server.tls;
        }
        if held.admin.tls.is_some() && config.admin.tls.is_some() {
            held.admin.tls = config.admin.tls;
        }
        held.access = config.access;
        for (name, upstream) in &mut held.upstreams {
            if let Some(wanted) = config.upstreams.get(name) {
                upstream.repositories.clone_from(&wanted.repositories);
            }
        }
        Ok(())
    }

    /// Takes the certificates of both interfaces, or those of none.
    async fn reload_tls(&self, config: &Config) -> Result<(), ReloadError> {
        let both = [(self.tls.clone(), config.server.tls.clone()), (self.admin_tls.clone(), config.admin.tls.clone())];
        let both: Vec<_> = both.into_iter().filter_map(|(tls, wanted)| Some((tls?, wanted?))).collect();
        let reload = move || {
            // Told before anything is taken.
            let last = both.len().saturating_sub(1);
            for (tls, wanted) in &both[..last] {
                tls.check(wanted)?;
            }
            for (tls, wanted) in both.iter().rev() {
                if tls.reload(Some(wanted))? {
                    tracing::info!(of = tls.table(), "new TLS certificates are in use");
                }
            }
            Ok::<_, TlsError>(())
        };
        Ok(spawn_blocking(reload).await??)
    }
}

/// The tables that differ in what cannot change live.
fn waiting(held: &Config, wanted: &Config) -> Vec<&'static str> {
    // Certificates can; whether there is TLS at all cannot.
    let fixed = |config: &Config| Server { tls: None, ..config.server.clone() };
    // Who has the key to the admin interface cannot, either, but for the roots themselves.
    let admin = |config: &Config| {
        let keys = (config.admin.tls.is_some(), config.admin.wants_certificates());
        (Admin { tls: None, ..config.admin.clone() }, keys)
    };
    // So can the rules.
    let upstreams = |config: &Config| {
        let without_rules = |(name, upstream): (&UpstreamName, &Upstream)| {
            (name.clone(), Upstream { repositories: RepositoryRule::default(), ..upstream.clone() })
        };
        config.upstreams.iter().map(without_rules).collect::<Vec<_>>()
    };
    let tls = held.server.tls.is_some() != wanted.server.tls.is_some();
    [
        ("[server]", fixed(held) != fixed(wanted)),
        ("server.tls", tls),
        ("[admin]", admin(held) != admin(wanted)),
        ("[cache]", held.cache != wanted.cache),
        ("[upstream]", upstreams(held) != upstreams(wanted)),
        ("[freshness]", held.freshness != wanted.freshness),
        ("[[prefetch]]", held.prefetch != wanted.prefetch),
        ("[import]", held.import != wanted.import),
        ("[fill]", held.fill != wanted.fill),
        ("[log]", held.log != wanted.log),
    ]
    .into_iter()
    .filter_map(|(table, changed)| changed.then_some(table))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_restart_is_named() {
        let parse = |text: &str| Config::parse(text, "test").unwrap();
        let held = parse("");
        assert!(waiting(&held, &parse("")).is_empty());
        let wanted = parse("[server]\nhttp2 = false\n[cache]\ndir = \"elsewhere\"\n[upstream.\"ghcr.io\"]\nenabled = false\n");
        assert_eq!(waiting(&held, &wanted), ["[server]", "[cache]", "[upstream]"]);
        let live = parse("[[access.rule]]\nwho = \"anyone\"\n[upstream.\"ghcr.io\"]\ndeny = [\"**\"]\n");
        assert!(waiting(&held, &live).is_empty(), "rules are live");
        let with_tls = parse("[server]\ntls = { cert = \"a\", key = \"b\" }\n");
        assert_eq!(waiting(&held, &with_tls), ["server.tls"]);
        let other = parse("[server]\ntls = { cert = \"a\", key = \"b\", min_version = \"1.3\" }\n");
        assert!(waiting(&with_tls, &other).is_empty());
    }
}

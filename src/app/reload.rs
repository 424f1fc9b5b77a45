//! A changed configuration, while the mirror runs: what can change live does, and the rest is said.

use tokio::task::spawn_blocking;

use super::Running;
use super::sites::{Remade, SetupError, Upstreams};
use crate::config::{Config, ConfigError, Server, Tls};
use crate::listen::tls::TlsError;
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
    /// The certificates of an upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// There is no key for tokens.
    #[error(transparent)]
    Key(#[from] NoKey),
    /// A thread that helped is gone.
    #[error("the configuration was not taken: {0}")]
    Threads(#[from] tokio::task::JoinError),
}

impl Running {
    /// Takes what can change without a restart, and keeps what cannot; that is logged, and waits for the next start. All or
    /// nothing.
    pub async fn reload(&self, mut wanted: Config) -> Result<(), ReloadError> {
        let mut held = self.held.lock().await;
        wanted.check_exposure()?;
        for (name, upstream) in &self.found {
            wanted.upstreams.entry(name.clone()).or_insert_with(|| upstream.clone());
        }
        let merged = merged(&held.config, &wanted);
        // Who may pull what is new, where it is served is not.
        merged.check_exposure_at(self.addresses().into_iter())?;
        let (upstreams, config, metrics) = (held.upstreams.clone(), merged.clone(), self.metrics.clone());
        let remade = spawn_blocking(move || upstreams.remade(&config, &metrics)).await??;
        let rules = self.policy.prepare(&merged)?;
        // The last that can be wrong with the file, and the first that is put in use.
        self.reload_tls(&merged).await?;
        // Whose content is whose before who may pull it: rules that open must not open what is about to be closed.
        let (cache, private) = (self.cache.clone(), remade.upstreams.private().collect::<Vec<_>>());
        spawn_blocking(move || cache.confined.set_private(private)).await?;
        held.upstreams = self.take_upstreams(remade, &merged);
        self.policy.take(rules);
        // What is here of one that has become private, and came before that. What comes later looks for itself.
        let cache = self.cache.clone();
        spawn_blocking(move || cache.confine_known()).await?;
        let waiting = waiting(&merged, &wanted);
        if !waiting.is_empty() {
            tracing::warn!(changed = waiting.join(", "), "these have changed, and take effect after a restart");
        }
        held.config = merged;
        Ok(())
    }

    /// From the next request on other upstreams are asked.
    fn take_upstreams(&self, remade: Remade, config: &Config) -> Upstreams {
        let Remade { upstreams, gone, switched } = remade;
        self.pull.replace_sites(upstreams.sites(), !gone.is_empty());
        self.server.replace_directory(upstreams.directory(&config.server.default_upstream));
        switched.iter().for_each(|(upstream, offline)| upstream.set_offline(*offline));
        for upstream in gone {
            tracing::info!(upstream = %upstream.name(), "this upstream was changed, or is none any more; downloads that have begun go on");
            upstream.retire();
        }
        upstreams
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

/// What holds from now on: what can change live as `wanted` has it, and the rest as it was `held`.
fn merged(held: &Config, wanted: &Config) -> Config {
    let mut merged = Config {
        access: wanted.access.clone(),
        upstreams: wanted.upstreams.clone(),
        freshness: wanted.freshness.clone(),
        ..held.clone()
    };
    // It is one of the upstreams, and goes with them.
    merged.server.default_upstream.clone_from(&wanted.server.default_upstream);
    // Certificates and what is demanded of clients can change; whether there is TLS at all cannot.
    if let (Some(tls), Some(wanted)) = (&mut merged.server.tls, &wanted.server.tls) {
        tls.clone_from(wanted);
    }
    if let (Some(tls), Some(wanted)) = (&mut merged.admin.tls, &wanted.admin.tls) {
        // Nor can whether a certificate is a key to the admin interface: only which ones are.
        let clients = match (&tls.clients, &wanted.clients) {
            (Some(_), Some(wanted)) => Some(wanted.clone()),
            (held, _) => held.clone(),
        };
        *tls = Tls { clients, ..wanted.clone() };
    }
    merged
}

/// The tables in which the file says other than what holds.
fn waiting(holds: &Config, wanted: &Config) -> Vec<&'static str> {
    let without_tls = |server: &Server| Server { tls: None, ..server.clone() };
    [
        ("[server]", without_tls(&holds.server) != without_tls(&wanted.server)),
        ("server.tls", holds.server.tls != wanted.server.tls),
        ("[admin]", holds.admin != wanted.admin),
        ("[cache]", holds.cache != wanted.cache),
        ("[[prefetch]]", holds.prefetch != wanted.prefetch),
        ("[import]", holds.import != wanted.import),
        ("[fill]", holds.fill != wanted.fill),
        ("[log]", holds.log != wanted.log),
    ]
    .into_iter()
    .filter_map(|(table, changed)| changed.then_some(table))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientAuth;

    fn parse(text: &str) -> Config {
        Config::parse(text, "test").unwrap()
    }

    /// What holds after a file, and what of the file waits; the same file again changes neither.
    fn reloaded(held: &Config, wanted: &Config) -> (Config, Vec<&'static str>) {
        let holds = merged(held, wanted);
        assert_eq!(merged(&holds, wanted), holds);
        let waits = waiting(&holds, wanted);
        (holds, waits)
    }

    #[test]
    fn what_waits_for_a_restart_is_named_and_stays_as_it_was() {
        let held = parse("");
        assert_eq!(reloaded(&held, &held), (held.clone(), vec![]));
        for (text, table) in [
            ("[server]\nhttp2 = false\n", "[server]"),
            ("[server]\ntls = { cert = \"a\", key = \"b\" }\n", "server.tls"),
            ("[admin]\nhosts = [\"mirror.example\"]\n", "[admin]"),
            ("[cache]\ndir = \"elsewhere\"\n", "[cache]"),
            ("[fill]\nparallel = 1\n", "[fill]"),
            ("[log]\nformat = \"json\"\n", "[log]"),
        ] {
            assert_eq!(reloaded(&held, &parse(text)), (held.clone(), vec![table]), "{text}");
        }
    }

    #[test]
    fn rules_upstreams_and_certificates_do_not_wait() {
        let held = parse("");
        for text in [
            "[[access.rule]]\nwho = \"anyone\"\n[upstream.\"ghcr.io\"]\ndeny = [\"**\"]\n",
            "[upstream.\"ghcr.io\"]\nenabled = false\n",
            "[upstream.\"ghcr.io\"]\nvisibility = \"caller\"\n",
            "[upstream.\"new.example\"]\ndeny = [\"**\"]\n",
            "[freshness]\nfresh_for = \"5m\"\n",
            "[server]\ndefault_upstream = \"ghcr.io\"\n[upstream.\"docker.io\"]\nenabled = false\n",
        ] {
            let wanted = parse(text);
            assert_eq!(reloaded(&held, &wanted), (wanted.clone(), vec![]), "{text}");
        }
        let tls = |keys: &str| parse(&format!("[server]\ntls = {{ {keys} }}\n[admin]\ntls = {{ {keys} }}\n"));
        let (held, other) = (tls(r#"cert = "a", key = "b""#), tls(r#"cert = "c", key = "d", min_version = "1.3""#));
        assert_eq!(reloaded(&held, &other), (other.clone(), vec![]));
    }

    #[test]
    fn whether_a_certificate_is_a_key_waits_and_which_ones_are_does_not() {
        let with = |ca: Option<&str>| {
            let mut config =
                parse("[server]\ntls = { cert = \"a\", key = \"b\" }\n[admin]\ntls = { cert = \"a\", key = \"b\" }\n");
            for tls in [&mut config.server.tls, &mut config.admin.tls] {
                tls.as_mut().unwrap().clients = ca.map(|ca| ClientAuth { ca: ca.into(), required: true });
            }
            config
        };
        for (held, wanted) in [(None, Some("c")), (Some("c"), None)] {
            let (held, wanted) = (with(held), with(wanted));
            // Where clients pull it is no key by itself.
            let holds = Config { server: wanted.server.clone(), ..held.clone() };
            assert_eq!(reloaded(&held, &wanted), (holds, vec!["[admin]"]));
        }
        assert_eq!(reloaded(&with(Some("c")), &with(Some("d"))), (with(Some("d")), vec![]));
    }
}

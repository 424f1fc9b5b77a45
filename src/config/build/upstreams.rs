//! `[upstream.*]`: the built-in ones with what the file says of them, and what it adds.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use url::Url;

use super::super::defaults::built_in_upstreams;
use super::super::raw;
use super::super::reach::Of;
use super::super::value::{Many, One, Size};
use super::super::{Breaker, Credentials, KeyPair, Listen, Upstream, Visibility};
use super::{Builder, Freshness, RepositoryRule, Server, check_authorities, one, timeout};
use crate::oci::MAX_MANIFEST;
use crate::oci::name::UpstreamName;

impl Builder<'_> {
    pub(super) fn upstreams(
        &mut self,
        raw: BTreeMap<UpstreamName, raw::Upstream>,
        freshness: &Freshness,
    ) -> BTreeMap<UpstreamName, Upstream> {
        let mut upstreams = built_in_upstreams(freshness);
        for (name, raw) in raw {
            let built_in = upstreams.remove(&name);
            // What is switched off may be incomplete: its password file need not be here.
            if raw.enabled != Some(false)
                && let Some(upstream) = self.upstream(&name, raw, built_in, freshness)
            {
                upstreams.insert(name, upstream);
            }
        }
        upstreams
    }

    fn upstream(
        &mut self,
        name: &UpstreamName,
        raw: raw::Upstream,
        built_in: Option<Upstream>,
        freshness: &Freshness,
    ) -> Option<Upstream> {
        let path = |key| ["upstream", name.as_str(), key];
        let default = match built_in {
            Some(upstream) => upstream,
            None => match Url::parse(&format!("https://{name}")) {
                Ok(url) => Upstream::new(url, freshness.clone()),
                Err(error) => {
                    self.document.problem(&["upstream", name.as_str()], format!("https://{name} is no address: {error}"));
                    return None;
                }
            },
        };
        let urls = raw.url.map_or(default.urls, |Many(urls)| urls);
        if urls.is_empty() {
            self.document.problem(&path("url"), "the list is empty; name at least one address");
        }
        let hosts = raw.hosts.map_or(default.hosts, |Many(hosts)| hosts.into_iter().map(|host| host.0).collect());
        let of = Of { name, hosts: &hosts };
        let credentials = match raw.credentials {
            Some(raw) => self.credentials(name, raw),
            None => default.credentials,
        };
        self.check_cloud(name, &credentials, &urls);
        self.check_prefixes(of, &credentials);
        let ca = raw.ca.map(|One(path)| path).or(default.ca);
        if let Some(file) = &ca
            && let Err(reason) = check_authorities(file)
        {
            self.document.problem(&path("ca"), reason);
        }
        let client = match (raw.client_cert, raw.client_key) {
            (Some(One(cert)), Some(One(key))) => Some(KeyPair { cert, key }),
            (None, None) => default.client,
            (cert, _) => {
                let (there, missing) = if cert.is_some() { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
                self.document.problem(&path(there), format!("{missing} is missing: a certificate is of use with its key alone"));
                None
            }
        };
        let own = self.freshness(raw.freshness, &default.freshness, &path("freshness"), Some(of));
        let repositories = RepositoryRule {
            allow: self.globs(raw.allow, default.repositories.allow, &path("allow"), Some(of)),
            deny: self.globs(raw.deny, default.repositories.deny, &path("deny"), Some(of)),
        };
        Some(Upstream {
            urls,
            visibility: one(raw.visibility, default_visibility(&credentials, client.as_ref())),
            verdict_for: timeout(raw.verdict_for, default.verdict_for),
            credentials,
            token_realms: raw
                .token_realms
                .map_or(default.token_realms, |Many(realms)| realms.into_iter().map(|host| host.0).collect()),
            ca,
            client,
            connect_timeout: timeout(raw.connect_timeout, default.connect_timeout),
            response_timeout: timeout(raw.response_timeout, default.response_timeout),
            stall_timeout: timeout(raw.stall_timeout, default.stall_timeout),
            max_connections: raw.max_connections.map_or(default.max_connections, |One(count)| count.0),
            max_fills: raw.max_fills.map(|One(count)| count.0).or(default.max_fills),
            parallel: raw.parallel.map(|One(parts)| parts.0).or(default.parallel),
            max_queue: raw.max_queue.map_or(default.max_queue, |One(count)| count.0),
            max_bandwidth: raw.max_bandwidth.map(|One(rate)| rate.0).or(default.max_bandwidth),
            max_manifest: self.max_manifest(name, raw.max_manifest, default.max_manifest),
            quota_reserve: one(raw.quota_reserve, default.quota_reserve),
            breaker: Breaker {
                failures: raw.breaker.failures.map_or(default.breaker.failures, |One(count)| count.0),
                window: timeout(raw.breaker.window, default.breaker.window),
                probe_every: timeout(raw.breaker.probe_every, default.breaker.probe_every),
            },
            blob_outage_status: one(raw.blob_outage_status, default.blob_outage_status),
            offline: raw.offline.unwrap_or(default.offline),
            repositories,
            hosts,
            freshness: own,
        })
    }

    fn max_manifest(&mut self, name: &UpstreamName, raw: Option<One<Size>>, default: u64) -> u64 {
        let Some(One(Size(bytes))) = raw else { return default };
        // The least is what registries have to take (OCI distribution-spec, *Pushing Manifests*).
        if !(4 << 20..=MAX_MANIFEST).contains(&bytes) {
            let message = "a manifest may have from 4MiB, which every registry takes, to 8MiB, which this mirror reads";
            self.document.problem(&["upstream", name.as_str(), "max_manifest"], message);
        }
        bytes
    }

    pub(super) fn check_upstreams<'u>(&mut self, upstreams: &'u BTreeMap<UpstreamName, Upstream>, server: &Server) {
        if !upstreams.contains_key(&server.default_upstream) {
            let names: Vec<_> = upstreams.keys().map(UpstreamName::as_str).collect();
            let names = if names.is_empty() { "none is left".to_owned() } else { format!("there are {}", names.join(", ")) };
            let message = format!("{:?} is the default upstream, and is not enabled; {names}", server.default_upstream.as_str());
            let switch = ["upstream", server.default_upstream.as_str(), "enabled"];
            self.document.problem_among(&[&["server", "default_upstream"], &switch], message);
        }
        let mut owners: BTreeMap<&str, &'u UpstreamName> = BTreeMap::new();
        for (name, upstream) in upstreams {
            for host in &upstream.hosts {
                if let Some(other) = owners.insert(host, name).filter(|other| *other != name) {
                    let message = format!("{host:?} is in the hosts of {other} and of {name}; it can select only one upstream");
                    let hosts = |upstream: &'u UpstreamName| ["upstream", upstream.as_str(), "hosts"];
                    self.document.problem_among(&[&hosts(name), &hosts(other)], message);
                }
            }
            if let Some(url) =
                upstream.urls.iter().find(|url| server.listen.iter().filter_map(Listen::address).any(|own| is_at(url, own)))
            {
                let message = format!("{url} is where this mirror itself listens (server.listen)");
                self.document.problem(&["upstream", name.as_str(), "url"], message);
            }
        }
    }
}

/// What the upstream gives to the mirror, by its login or its certificate, it need not give to everybody.
fn default_visibility(credentials: &Credentials, client: Option<&KeyPair>) -> Visibility {
    if *credentials == Credentials::Anonymous && client.is_none() { Visibility::Public } else { Visibility::Operator }
}

/// Whether `url` is literally `address`. Names are not looked up.
fn is_at(url: &Url, address: SocketAddr) -> bool {
    let ip = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.into(),
        Some(url::Host::Ipv6(ip)) => ip.into(),
        Some(url::Host::Domain("localhost")) if address.ip().is_loopback() => address.ip(),
        _ => return false,
    };
    url.port_or_known_default() == Some(address.port())
        && (ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback()))
}

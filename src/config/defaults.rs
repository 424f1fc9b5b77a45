//! Every default, in one place. `config.example.toml` shows them to operators, and a test keeps the two equal.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use url::Url;

use super::{
    Abandoned, Access, Admin, Amount, BlobOutage, Breaker, Cache, Config, Credentials, Eviction, Fill, Freshness, Globs, Import,
    Listen, Log, LogFormat, RepositoryRule, Reserve, Server, TagPatterns, Upstream, Visibility,
};
use crate::oci::name::UpstreamName;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The upstreams that exist without being configured: name, base URL, and the `Host` headers that select it.
const BUILT_IN: [(&str, &str, &[&str]); 8] = [
    ("docker.io", "https://registry-1.docker.io", &["docker.io", "index.docker.io", "registry-1.docker.io"]),
    ("ghcr.io", "https://ghcr.io", &["ghcr.io"]),
    ("quay.io", "https://quay.io", &["quay.io"]),
    ("registry.k8s.io", "https://registry.k8s.io", &["registry.k8s.io"]),
    ("gcr.io", "https://gcr.io", &["gcr.io"]),
    ("mcr.microsoft.com", "https://mcr.microsoft.com", &["mcr.microsoft.com"]),
    ("public.ecr.aws", "https://public.ecr.aws", &["public.ecr.aws"]),
    ("nvcr.io", "https://nvcr.io", &["nvcr.io"]),
];

/// Parses a constant of this file.
#[expect(clippy::expect_used, reason = "only constants of this file come here, and a test reads them all")]
fn constant<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a constant is right")
}

/// The built-in upstreams, with this freshness.
pub(super) fn built_in_upstreams(freshness: &Freshness) -> BTreeMap<UpstreamName, Upstream> {
    let upstream = |(name, url, hosts): (&str, &str, &[&str])| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        (constant(name), Upstream { hosts, ..Upstream::new(constant(url), freshness.clone()) })
    };
    BUILT_IN.into_iter().map(upstream).collect()
}

impl Default for Config {
    /// What holds without a file.
    fn default() -> Self {
        Self {
            server: Server::default(),
            access: Access::default(),
            admin: Admin::default(),
            cache: Cache::default(),
            upstreams: built_in_upstreams(&Freshness::default()),
            freshness: Freshness::default(),
            prefetch: Vec::new(),
            import: Import::default(),
            fill: Fill::default(),
            log: Log::default(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)))],
            socket_mode: 0o660,
            tls: None,
            http2: true,
            default_upstream: constant("docker.io"),
            max_connections: 10_000,
            max_connections_per_client: 5_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            open: false,
            htpasswd: None,
            token_lifetime: Duration::from_secs(300),
            token_key: None,
            token_url: None,
            challenge_everybody: false,
            pace: None,
            max_fills_per_client: None,
            rules: Vec::new(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Some(Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 5001)))),
            tls: None,
            token: None,
            hosts: Vec::new(),
            metrics_open: false,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            dir: "roadstead-cache".into(),
            max_size: Amount::Bytes(50 * GIB),
            min_free: Amount::Percent(5.0),
            memory: 256 * MIB,
            offline: false,
            eviction: Eviction::default(),
            verify_every: 30 * DAY,
            verify_rate: 8 * MIB,
            quotas: Vec::new(),
        }
    }
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            fresh_for: Duration::from_secs(60),
            revalidate_within: Duration::from_secs(3),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: 30 * DAY,
            negative: Duration::from_secs(10),
            immutable_tags: TagPatterns::default(),
            no_cache: false,
            rules: Vec::new(),
        }
    }
}

impl Upstream {
    /// An upstream at `url`, everything else by default.
    pub fn new(url: Url, freshness: Freshness) -> Self {
        Self {
            urls: vec![url],
            hosts: Vec::new(),
            credentials: Credentials::Anonymous,
            visibility: Visibility::Public,
            verdict_for: Duration::from_secs(300),
            token_realms: Vec::new(),
            ca: None,
            client: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            max_connections: 64,
            max_fills: None,
            parallel: None,
            max_queue: 1000,
            max_bandwidth: None,
            max_manifest: crate::oci::MAX_MANIFEST,
            quota_reserve: Reserve::Percent(10.0),
            breaker: Breaker::default(),
            blob_outage_status: BlobOutage::Unavailable,
            offline: false,
            repositories: RepositoryRule::default(),
            freshness,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, window: Duration::from_secs(30), probe_every: Duration::from_secs(5) }
    }
}

impl Default for RepositoryRule {
    #[expect(clippy::expect_used, reason = "a constant")]
    fn default() -> Self {
        Self { allow: Globs::new(["**"]).expect("a constant is right"), deny: Globs::default() }
    }
}

impl Default for Fill {
    fn default() -> Self {
        Self { abandoned: Abandoned::Finish, abandon_after: Duration::from_secs(60), parallel: 4, parallel_threshold: 64 << 20 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

//! Upstreams against a small scripted server on loopback: sign-in, redirects, bodies, proxies.

mod auth;
mod blob;
mod internet;
mod limits;
mod manifest;
mod proxy;
mod redirect;
mod registries;
mod server;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;

use super::*;
use crate::config::Secret;
use crate::metrics::Kind;
use crate::oci::{Algorithm, Digest, Reference, Repository};
use server::{Reply, Seen, Server};

/// Must never arrive anywhere but where a test says so.
const CANARY: &str = "canary-secret";
/// `mirror:canary-secret`
const CANARY_BASIC: &str = "Basic bWlycm9yOmNhbmFyeS1zZWNyZXQ=";

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn config(urls: &[&Server]) -> config::Upstream {
    config::Upstream {
        urls: urls.iter().map(|server| server.url.clone()).collect(),
        hosts: Vec::new(),
        credentials: config::Credentials::Anonymous,
        visibility: config::Visibility::Public,
        verdict_for: Duration::from_secs(300),
        token_realms: Vec::new(),
        ca: None,
        client: None,
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        max_connections: 4,
        max_fills: None,
        parallel: None,
        max_queue: 100,
        max_bandwidth: None,
        max_manifest: crate::oci::MAX_MANIFEST,
        quota_reserve: config::Reserve::Pulls(0),
        breaker: config::Breaker::default(),
        blob_outage_status: config::BlobOutage::Unavailable,
        offline: false,
        repositories: config::RepositoryRule::default(),
        freshness: config::Freshness {
            fresh_for: Duration::ZERO,
            revalidate_within: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            negative: Duration::ZERO,
            immutable_tags: config::TagPatterns::default(),
            no_cache: false,
            rules: Vec::new(),
        },
    }
}

/// An upstream in an environment of its own.
fn within(config: &config::Upstream, proxies: Matcher, variables: &[(&str, &str)]) -> Upstream {
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let env = Env::new(move |name| variables.get(name).cloned());
    let offline = watch::Sender::new(config.offline);
    Upstream::within("registry.example".parse().unwrap(), config, Arc::new(Metrics::new()), proxies, env, offline).unwrap()
}

fn build(config: &config::Upstream) -> Upstream {
    // The environment's proxies are no business of these tests.
    let none = Matcher::builder().build();
    within(config, none, &[])
}

fn anonymous(server: &Server) -> Upstream {
    build(&config(&[server]))
}

fn canary() -> config::Credentials {
    config::Credentials::Password { username: "mirror".into(), password: Secret::new(CANARY) }
}

fn with_canary(server: &Server) -> Upstream {
    build(&config::Upstream { credentials: canary(), ..config(&[server]) })
}

fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

fn tag(name: &str) -> Reference {
    Reference::Tag(name.parse().unwrap())
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A good answer to a HEAD or GET of [`MANIFEST`].
fn manifest_reply() -> Reply {
    let digest = digest_of(MANIFEST.as_bytes()).to_string();
    Reply::new(200).header("content-type", OCI).header("docker-content-digest", &digest).body(MANIFEST)
}

async fn resolve(upstream: &Upstream) -> Result<Digest, UpstreamError> {
    upstream.resolve(&repository("a/b"), &tag("latest")).await.map(|resolved| resolved.digest)
}

/// The value of a counter or gauge, by its name and labels as they stand in the exposition.
fn metric(upstream: &Upstream, name: &str) -> Option<String> {
    let text = upstream.metrics.render();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(ToOwned::to_owned))
}

/// I9: no secret in what an operator or a client may see.
fn assert_silent(upstream: &Upstream, error: Option<&UpstreamError>) {
    let seen =
        format!("{upstream:?} {} {error:?} {}", upstream.metrics.render(), error.map(ToString::to_string).unwrap_or_default());
    for secret in [CANARY, &CANARY_BASIC[6..], "presigned"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

/// I9: this server never heard of the credentials, in any form.
fn assert_innocent(server: &Server) {
    for seen in server.seen() {
        let text = format!("{seen:?}");
        assert!(!text.contains(CANARY) && !text.contains(&CANARY_BASIC[6..]) && !text.contains("mirror"), "{text}");
    }
}

/// Callers spawn them: a compile error here is the test.
#[test]
fn all_calls_can_be_spawned() {
    fn send(_: impl Send) {}
    fn all(upstream: &Upstream, name: &Repository, reference: &Reference, digest: &Digest, body: &mut BlobBody) {
        send(upstream.resolve(name, reference));
        send(upstream.manifest(name, reference));
        send(upstream.blob(name, digest, 0));
        send(upstream.blob_size(name, digest));
        send(upstream.tags(name, ""));
        send(upstream.tags(name, ""));
        send(upstream.referrers(name, digest, &[], None));
        send(body.chunk());
    }
    let _ = all;
}

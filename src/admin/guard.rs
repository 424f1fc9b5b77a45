//! Who may ask the admin interface for what: the token or certificate, the names it goes by, and the pages of other sites.
//!
//! One rule for every path, so that no handler has a lock of its own. Looks at request heads, and at what the connection
//! has shown. Called by [`super::Admin`] before anything else.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::config;

/// What a request must show.
#[derive(Debug)]
pub(super) struct Guard {
    /// The token's SHA-256: two of them are compared in a time that does not depend on what is in them.
    token: Option<[u8; 32]>,
    /// Whether a certificate is a key, too.
    certificates: bool,
    hosts: Vec<String>,
    metrics_open: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It came by a name that is not known to be ours: a web page may have given that name our address.
    #[error(
        "the admin interface is not known by the name in the Host header; ask by its IP address, or add the name to admin.hosts"
    )]
    Host,
    /// It has no token, or another one.
    #[error("this needs the token of admin.token or admin.token_file, as: Authorization: Bearer TOKEN")]
    Token,
    /// There is no token, and it has no certificate.
    #[error("this needs a client certificate of admin.tls.client_ca")]
    Certificate,
    /// A browser sent it for a page of another site.
    #[error("a page of another site may not change anything here")]
    Foreign,
}

impl Refused {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Host | Self::Certificate | Self::Foreign => StatusCode::FORBIDDEN,
        }
    }
}

/// How far the connection itself vouches for who is at its other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// No browser can have opened it (a unix socket), so that names do not matter.
    pub local: bool,
    /// Its client has shown a certificate, which was verified.
    pub certificate: bool,
}

impl Guard {
    pub fn new(config: &config::Admin) -> Self {
        let token = config.token.as_ref().map(|token| Sha256::digest(token.expose()).into());
        let certificates = config.wants_certificates();
        Self { token, certificates, hosts: config.hosts.clone(), metrics_open: config.metrics_open }
    }

    /// Whether a request may go on.
    pub fn check(&self, head: &Parts, standing: Standing) -> Result<(), Refused> {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let path = head.uri.path();
        // Health tells one word. Probes come by whatever name they like, and carry no token.
        if reads && (matches!(path, "/healthz" | "/readyz") || self.metrics_open && path == "/metrics") {
            return Ok(());
        }
        let proven = self.token.is_some_and(|token| bearer(&head.headers).is_some_and(|shown| same(&token, shown)));
        // A browser shows its certificate unasked, to whatever name led here; a token it does not.
        if !proven && !standing.local && !self.knows_host(head) {
            return Err(Refused::Host);
        }
        let proven = proven || standing.certificate;
        // The page itself says nothing; it asks for the token and sends it along.
        let page = reads && path == "/";
        if self.token.is_some() && !proven && !page {
            return Err(Refused::Token);
        }
        // A unix socket shows none. Its mode is its lock.
        if self.certificates && !proven && !page && !standing.local {
            return Err(Refused::Certificate);
        }
        if !reads && is_foreign(&head.headers) {
            return Err(Refused::Foreign);
        }
        Ok(())
    }

    /// An IP address, a name of the loopback, or a name that the operator has listed. A page that has its own name lead
    /// here (DNS rebinding) comes by that name, never by an address.
    fn knows_host(&self, head: &Parts) -> bool {
        let mut named = head.headers.get_all(header::HOST).iter();
        let text = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().ok(),
            (None, _) => head.uri.authority().map(|authority| authority.as_str()),
            (Some(_), Some(_)) => None,
        };
        let Some(text) = text else { return false };
        let name = without_port(text);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is_listed = |listed: &String| listed.eq_ignore_ascii_case(name) || listed.eq_ignore_ascii_case(text);
        bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(is_listed)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    }
}

/// The token of an `Authorization: Bearer` (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = (value.get(..7)?, value.get(7..)?);
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn same(expected: &[u8; 32], shown: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(expected, &Sha256::digest(shown)).is_ok()
}

/// Whether a browser says that another site's page sent it. Other clients say nothing.
fn is_foreign(headers: &HeaderMap) -> bool {
    let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect::<Vec<_>>();
    let host = all("host");
    let own = |origin: &&str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| host.len() == 1 && authority.eq_ignore_ascii_case(host[0]))
    };
    !all("origin").iter().all(own) || !all("sec-fetch-site").iter().all(|site| matches!(*site, "same-origin" | "none"))
}

#[cfg(test)]
mod tests;

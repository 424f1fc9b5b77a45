//! Every combination that matters of name, token and origin.

use super::*;
use crate::config::{Admin, Secret};

const TOKEN: &str = "0123456789abcdef-admin";

fn guard(token: Option<&str>, change: impl FnOnce(&mut Admin)) -> Guard {
    let mut config = Admin { token: token.map(Secret::new), ..Admin::default() };
    change(&mut config);
    Guard::new(&config)
}

fn check(guard: &Guard, line: &str, headers: &[(&str, &str)]) -> Result<(), Refused> {
    check_as(guard, line, headers, Standing::default())
}

fn check_as(guard: &Guard, line: &str, headers: &[(&str, &str)], standing: Standing) -> Result<(), Refused> {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    guard.check(&request.body(()).unwrap().into_parts().0, standing)
}

#[test]
fn names_that_a_page_could_have_made_up_are_refused() {
    let open = guard(None, |config| config.hosts = vec!["mirror.example".into(), "other.example:5001".into()]);
    for host in [
        "localhost",
        "localhost:5001",
        "LOCALHOST:5001",
        "127.0.0.1:5001",
        "127.0.0.1",
        "[::1]:5001",
        "[::1]",
        "10.1.2.3:5001",
        "[fd00::1]:80",
        "mirror.example",
        "mirror.example:5001",
        "Mirror.Example:9",
        "other.example:5001",
    ] {
        assert_eq!(check(&open, "GET /api/v1/stats", &[("host", host)]), Ok(()), "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:5001",
        "localhost.evil.example:5001",
        "127.0.0.1.evil.example",
        "mirror.example.evil",
        "",
        "127.0.0.1@evil.example",
        "localhost:5001:5001",
        "localhost:x",
        "other.example:81",
        "1.2.3",
        "0x7f.1",
        "mirror.example.",
    ] {
        for line in ["GET /", "GET /metrics", "GET /api/v1/stats", "POST /api/v1/purge?ref=x", "GET /no/such"] {
            assert_eq!(check(&open, line, &[("host", host)]), Err(Refused::Host), "{line} {host}");
        }
    }
    assert_eq!(check(&open, "GET /api/v1/stats", &[]), Err(Refused::Host), "no name at all");
    assert_eq!(check(&open, "GET /", &[("host", "localhost"), ("host", "evil.example")]), Err(Refused::Host), "two names");
    assert_eq!(check(&open, "GET http://evil.example/", &[]), Err(Refused::Host));
    let local = Standing { local: true, ..Standing::default() };
    assert_eq!(check_as(&open, "GET /api/v1/stats", &[("host", "roadstead")], local), Ok(()), "no browser opens a unix socket");
}

#[test]
fn health_is_open() {
    let locked = guard(Some(TOKEN), |_| {});
    for path in ["GET /healthz", "HEAD /readyz"] {
        assert_eq!(check(&locked, path, &[("host", "any.name")]), Ok(()), "{path}");
    }
    assert!(check(&locked, "POST /healthz", &[("host", "any.name")]).is_err());
}

#[test]
fn the_token_opens_and_nothing_else_does() {
    let locked = guard(Some(TOKEN), |_| {});
    let right = format!("Bearer {TOKEN}");
    let host = ("host", "127.0.0.1:5001");
    for line in ["GET /metrics", "GET /api/v1/stats", "POST /api/v1/purge?ref=x", "GET /no/such"] {
        assert_eq!(check(&locked, line, &[host, ("authorization", &right)]), Ok(()), "{line}");
        assert_eq!(check(&locked, line, &[host]), Err(Refused::Token), "{line}");
        let wrong =
            ["Bearer", "Bearer ", "Basic 0123456789abcdef-admin", "Bearer 0123456789abcdef-admim", "Bearer 0123456789abcdef"];
        for wrong in wrong.into_iter().chain([TOKEN]) {
            assert_eq!(check(&locked, line, &[host, ("authorization", wrong)]), Err(Refused::Token), "{line} {wrong}");
        }
        let query = format!("{line}{}token={TOKEN}", if line.contains('?') { '&' } else { '?' });
        assert_eq!(check(&locked, &query, &[host]), Err(Refused::Token), "never in an address");
    }
    assert_eq!(check(&locked, "GET /", &[host]), Ok(()), "the page asks for it");
    assert_eq!(check(&locked, "GET /api/v1/stats", &[("host", "by.any.name"), ("authorization", &right)]), Ok(()));
    let open_metrics = guard(Some(TOKEN), |config| config.metrics_open = true);
    assert_eq!(check(&open_metrics, "GET /metrics", &[("host", "roadstead:5001")]), Ok(()));
    assert_eq!(check(&open_metrics, "GET /api/v1/stats", &[host]), Err(Refused::Token));
}

#[test]
fn pages_of_other_sites_change_nothing() {
    for token in [None, Some(TOKEN)] {
        let guard = guard(token, |_| {});
        let right = format!("Bearer {TOKEN}");
        let post = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:5001"), ("authorization", right.as_str())];
            all.extend_from_slice(headers);
            check(&guard, "POST /api/v1/prefetch", &all)
        };
        assert_eq!(post(&[]), Ok(()), "no browser");
        assert_eq!(post(&[("origin", "http://127.0.0.1:5001"), ("sec-fetch-site", "same-origin")]), Ok(()), "our own page");
        assert_eq!(post(&[("origin", "https://127.0.0.1:5001")]), Ok(()));
        for origin in ["http://evil.example", "null", "", "http://127.0.0.1:5000", "http://127.0.0.1", "x//127.0.0.1:5001"] {
            assert_eq!(post(&[("origin", origin)]), Err(Refused::Foreign), "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(post(&[("sec-fetch-site", site)]), Err(Refused::Foreign), "{site}");
        }
        let two = [("origin", "http://127.0.0.1:5001"), ("origin", "http://evil.example")];
        assert_eq!(post(&two), Err(Refused::Foreign));
    }
}

#[test]
fn a_certificate_is_as_good_as_the_token_but_to_a_browser() {
    let pair = crate::config::KeyPair { cert: "a".into(), key: "b".into() };
    let clients = Some(crate::config::ClientAuth { ca: "ca".into(), required: false });
    let tls = crate::config::Tls { certificates: vec![pair], clients, min_version: crate::config::TlsVersion::V1_2 };
    let shown = Standing { certificate: true, ..Standing::default() };
    let known = ("host", "127.0.0.1:5001");
    for token in [None, Some(TOKEN)] {
        let locked = guard(token, |config| config.tls = Some(tls.clone()));
        let missing = if token.is_some() { Refused::Token } else { Refused::Certificate };
        for line in ["GET /api/v1/stats", "POST /api/v1/gc", "GET /metrics"] {
            assert_eq!(check(&locked, line, &[known]), Err(missing), "{line}");
            assert_eq!(check_as(&locked, line, &[known], shown), Ok(()), "{line}");
            assert_eq!(check_as(&locked, line, &[("host", "evil.example")], shown), Err(Refused::Host), "{line}");
        }
        for line in ["GET /healthz", "GET /readyz", "HEAD /healthz"] {
            assert_eq!(check(&locked, line, &[("host", "any.name")]), Ok(()), "{line}");
        }
        assert_eq!(check(&locked, "GET /", &[known]), Ok(()));
        let foreign = [known, ("origin", "https://evil.example")];
        assert_eq!(check_as(&locked, "POST /api/v1/gc", &foreign, shown), Err(Refused::Foreign));
        // The mode of its file is the lock of a unix socket, but where there is a token, too.
        let local = Standing { local: true, ..Standing::default() };
        let by_socket = check_as(&locked, "GET /api/v1/stats", &[], local);
        assert_eq!(by_socket, if token.is_some() { Err(Refused::Token) } else { Ok(()) });
    }
}

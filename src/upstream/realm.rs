//! Which token service may see the mirror's credentials (I9).
//!
//! A challenge names its realm, and a challenge is the word of whoever answered. A mirror that believes it sends its
//! password anywhere (CVE-2026-33540). So the list of who gets it is short and fixed before any answer: the upstream's
//! own host and port, the few public registries whose realm is known to lie elsewhere, and what the operator named in
//! `token_realms`. Sharing a parent domain is not enough: `evil.azurecr.io` is nobody's sister. Everyone else is asked
//! anonymously.

use url::Url;

/// Registries whose token service is another host of the same owner, both on https and port 443.
const KNOWN: [(&str, &str); 3] = [
    // Docker Hub: all its registry names share one token service.
    ("registry-1.docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    // GitLab.com: the registry's tokens are made by the application, `https://gitlab.com/jwt/auth`.
    ("registry.gitlab.com", "gitlab.com"),
];

/// Why a realm is not asked at all, not even anonymously.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RealmError {
    #[error("the realm of its challenge is not a URL")]
    NotUrl,
    #[error("the realm of its challenge is not https")]
    NotHttps,
    #[error("the realm of its challenge holds a user name")]
    UserInfo,
}

/// Reads a realm that `host`, the one that sent the challenge, named. http only from a host that itself speaks it.
pub(super) fn parse(host: &Url, realm: &str) -> Result<Url, RealmError> {
    let mut url = Url::parse(realm).map_err(|_| RealmError::NotUrl)?;
    url.set_fragment(None);
    match (host.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => {}
        _ => return Err(RealmError::NotHttps),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RealmError::UserInfo);
    }
    Ok(url)
}

/// Whether `realm` may receive the credentials of `upstream`. `approved` is the operator's `token_realms`.
pub(super) fn may_receive(upstream: &Url, realm: &Url, approved: &[String]) -> bool {
    let (Some(own), Some(host)) = (upstream.host_str(), realm.host_str()) else { return false };
    // A scheme below the upstream's is refused by `parse`, but the rule should hold alone.
    if realm.scheme() == "http" && upstream.scheme() != "http" {
        return false;
    }
    let same = own == host && upstream.port_or_known_default() == realm.port_or_known_default();
    let https = |url: &Url| url.scheme() == "https" && url.port().is_none();
    let known = || https(upstream) && https(realm) && KNOWN.contains(&(own, host));
    same || known() || is_listed(realm, approved)
}

/// Whether the operator listed this URL's host; an entry without a port means the scheme's own.
pub(super) fn is_listed(url: &Url, approved: &[String]) -> bool {
    let Some(host) = url.host_str() else { return false };
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    approved.iter().any(|entry| {
        (url.port().is_none() && entry.eq_ignore_ascii_case(host))
            || with_port.as_ref().is_some_and(|known| entry.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_t31_who_gets_the_credentials() {
        let approved = ["gitlab.example".to_owned(), "tokens.example:8443".to_owned()];
        for (upstream, realm, expected) in [
            ("https://r.example", "https://r.example/token", true),
            ("https://r.example", "https://R.example:443/token", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token", true),
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("https://r.example", "https://gitlab.example/jwt/auth", true),
            ("https://r.example", "https://tokens.example:8443/", true),
            // Everyone else.
            ("https://r.example", "https://evil.example/token", false),
            ("https://r.example", "https://r.example:444/token", false),
            ("https://r.example", "https://r.example.evil.example/token", false),
            ("https://r.example", "https://sub.r.example/token", false),
            ("https://victim.azurecr.io", "https://evil.azurecr.io/oauth2/token", false),
            ("https://victim.github.io", "https://evil.github.io/", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", false),
            ("https://r.example", "http://r.example:443/token", false),
            ("https://r.example", "https://tokens.example/", false),
            ("https://r.example", "https://gitlab.example:444/", false),
            ("https://r.example", "https://auth.docker.io/token", false),
            ("http://registry-1.docker.io", "https://auth.docker.io/token", false),
            ("https://registry-1.docker.io", "https://auth.docker.io:444/token", false),
        ] {
            let (upstream_url, realm_url) = (upstream.parse().unwrap(), realm.parse().unwrap());
            assert_eq!(may_receive(&upstream_url, &realm_url, &approved), expected, "{upstream} {realm}");
        }
    }

    #[test]
    fn realms_that_are_not_asked() {
        let https = "https://r.example".parse().unwrap();
        let http = "http://r.example".parse().unwrap();
        assert_eq!(parse(&https, "http://r.example/token"), Err(RealmError::NotHttps));
        assert_eq!(parse(&https, "file:///etc/passwd"), Err(RealmError::NotHttps));
        assert_eq!(parse(&https, "Registry"), Err(RealmError::NotUrl));
        assert_eq!(parse(&https, "https://u:p@r.example/"), Err(RealmError::UserInfo));
        assert!(parse(&http, "http://r.example/token").is_ok());
        assert!(parse(&http, "https://r.example/token").is_ok());
    }
}

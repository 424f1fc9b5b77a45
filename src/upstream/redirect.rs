//! Where a redirect leads, decided without any I/O.
//!
//! Registries redirect blobs, and some of them manifests, to storage. What is kept on the way: method, `Accept`,
//! `Range`. What is not: `Authorization`, from the first change of scheme, host or port on (I9). Addresses that are
//! out of bounds are refused where the connection is made, by [`super::connect`].

use http::{HeaderMap, StatusCode, header};
use url::Url;

/// Redirects that are followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// No `Location`, or more than one.
    #[error("it does not say where to")]
    NoLocation,
    /// `Location` is not a URL.
    #[error("its Location is not a URL")]
    NotUrl,
    /// Neither http nor https.
    #[error("its Location is neither http nor https")]
    Scheme,
    /// From https to http.
    #[error("it leads from https to http")]
    Downgrade,
    /// A user or password in the URL.
    #[error("its Location holds a user name")]
    UserInfo,
    /// More than five in a row.
    #[error("there are too many of them")]
    TooMany,
    /// A request that carries credentials would leave its host.
    #[error("it would take credentials to another host")]
    Credentials,
}

/// Whether this status sends the client elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The URL that a redirect answer to a request for `current` leads to.
pub(super) fn target(current: &Url, headers: &HeaderMap) -> Result<Url, RedirectError> {
    let mut locations = headers.get_all(header::LOCATION).iter();
    let (Some(location), None) = (locations.next(), locations.next()) else { return Err(RedirectError::NoLocation) };
    let location = location.to_str().map_err(|_| RedirectError::NotUrl)?;
    let mut target = current.join(location).map_err(|_| RedirectError::NotUrl)?;
    target.set_fragment(None);
    match (current.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(RedirectError::Downgrade),
        _ => return Err(RedirectError::Scheme),
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(RedirectError::UserInfo);
    }
    Ok(target)
}

/// Same scheme, host and port: the only place that may get what the other gets.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(current: &str, location: &str) -> Result<String, RedirectError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().unwrap());
        target(&current.parse().unwrap(), &headers).map(Into::into)
    }

    #[test]
    fn t34_locations_are_resolved() {
        let from = "https://r.example/v2/a/blobs/x?y=z";
        for (location, expected) in [
            ("https://cdn.example/b?sig=%2F%3D#frag", "https://cdn.example/b?sig=%2F%3D"),
            ("/elsewhere", "https://r.example/elsewhere"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("other", "https://r.example/v2/a/blobs/other"),
        ] {
            assert_eq!(to(from, location).as_deref(), Ok(expected), "{location}");
        }
        assert_eq!(to("http://r.example/", "https://cdn.example/").as_deref(), Ok("https://cdn.example/"));
    }

    #[test]
    fn t37_bad_redirects() {
        for (location, expected) in [
            ("http://cdn.example/", RedirectError::Downgrade),
            ("ftp://cdn.example/", RedirectError::Scheme),
            ("file:///etc/passwd", RedirectError::Scheme),
            ("https://user@cdn.example/", RedirectError::UserInfo),
            ("https://:pw@cdn.example/", RedirectError::UserInfo),
            ("https://", RedirectError::NotUrl),
        ] {
            assert_eq!(to("https://r.example/", location), Err(expected), "{location}");
        }
        let current: Url = "https://r.example/".parse().unwrap();
        assert_eq!(target(&current, &HeaderMap::new()), Err(RedirectError::NoLocation));
        let mut two = HeaderMap::new();
        two.append(header::LOCATION, "/a".parse().unwrap());
        two.append(header::LOCATION, "/b".parse().unwrap());
        assert_eq!(target(&current, &two), Err(RedirectError::NoLocation));
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://r.example/a", "https://R.example:443/b"));
        assert!(!same("https://r.example/", "https://cdn.r.example/"));
        assert!(!same("https://r.example/", "https://r.example:444/"));
        assert!(!same("https://r.example/", "http://r.example:443/"));
    }
}

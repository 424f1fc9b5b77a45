//! The pure parsers: no I/O, so a good fuzzer tries tens of thousands of inputs a second.

use roadstead::config::{Config, ConfigError};
use roadstead::oci::route::next_link;
use roadstead::oci::{Directory, Manifest, RangeHeader, Reference, Repository, Route, Selection, Tag, Target, Wanted};
use roadstead::upstream::challenge as grammar;

/// Three lines: path, query, `Host`.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let path = lines.next().unwrap_or_default();
    let (query, host) = (lines.next(), lines.next());
    let (hub, other) = ("docker.io".parse().unwrap(), "registry.example:5000".parse().unwrap());
    let hosts = [(&hub, &["docker.io".to_owned()][..]), (&other, &["mirror.example".to_owned()][..])];
    let directory = Directory::new("docker.io".parse().unwrap(), hosts);
    let route = match Route::parse(path, query, host, &directory) {
        Ok(route) => route,
        Err(error) => {
            assert!(error.code.status().is_client_error(), "{error}");
            assert!(!error.message.contains(['\n', '\r', '\0']), "{error:?}: a line of a log could be forged");
            assert!(error.message.len() < 2000, "an answer that grows with the request");
            return;
        }
    };
    assert!(route.upstream == hub || route.upstream == other);
    let link = next_link(path, route.namespace.as_deref(), query.unwrap_or_default());
    assert!(link.starts_with('<') && link.matches('>').count() == 1 && link.is_ascii(), "{link:?}");
    assert!(!link.contains(['\r', '\n']), "{link:?}");
    let Target::Content(repository, wanted) = route.target else { return };
    let name = repository.as_str();
    assert_eq!(name.parse::<Repository>().as_ref(), Ok(&repository));
    assert!(name.split('/').all(is_component), "{name:?} becomes a path");
    if let Wanted::Manifest(Reference::Tag(tag)) = wanted {
        assert_eq!(tag.as_str().parse::<Tag>().as_ref(), Ok(&tag));
        assert!(is_component(tag.as_str()), "{tag} becomes a file's name");
    }
}

/// Whether it is one component of a path, and neither the folder itself nor the one above.
fn is_component(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '\\', '\0']) && text != "." && text != ".." && text.is_ascii()
}

/// Eight bytes of size, then the header.
pub fn range(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<8>() else { return };
    // Sizes of blobs, the very small ones often.
    let size = u64::from_le_bytes(*size) >> (size[0] % 64);
    let Ok(header) = std::str::from_utf8(header) else { return };
    let _ = roadstead::oci::ContentRange::parse(header);
    let Some(parsed) = RangeHeader::parse(header) else { return };
    let check = |range: &std::ops::Range<u64>| assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    match parsed.resolve(size) {
        Selection::Whole | Selection::Unsatisfiable => {}
        Selection::One(range) => check(&range),
        Selection::Many(ranges) => {
            ranges.iter().for_each(check);
            assert!((2..=1024).contains(&ranges.len()));
            let sum: u128 = ranges.iter().map(|range| u128::from(range.end - range.start)).sum();
            assert!(sum <= u128::from(size), "more than there is");
        }
    }
}

/// The value of a `WWW-Authenticate`.
pub fn challenge(data: &[u8]) {
    if let Ok(value) = http::HeaderValue::from_bytes(data) {
        let mut headers = http::HeaderMap::new();
        headers.append(http::header::WWW_AUTHENTICATE, value);
        let _ = grammar::preferred(&grammar::challenges(&headers));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = grammar::parse(text);
    assert!(parsed.len() <= text.len());
    for challenge in &parsed {
        let size: usize = challenge.parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(size <= text.len(), "it grew");
        assert!(!challenge.scheme.is_empty());
    }
}

/// A manifest or index, after one byte that chooses its `Content-Type`.
pub fn manifest(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let kind = match kind % 6 {
        0 => None,
        1 => Some("application/vnd.oci.image.manifest.v1+json"),
        2 => Some("application/vnd.oci.image.index.v1+json"),
        3 => Some("application/vnd.docker.distribution.manifest.v2+json"),
        4 => Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        _ => Some("text/html; charset=utf-8"),
    };
    let _ = Manifest::parse(bytes, kind);
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // It may name files, and there are some that do not end.
    if ["dev", "proc", "sys", "\\"].iter().any(|word| text.contains(word)) {
        return;
    }
    if let Err(ConfigError::Invalid(problems)) = Config::parse(text, "fuzz.toml") {
        assert!(!problems.is_empty());
        for problem in problems {
            let line = text.split('\n').nth(problem.line - 1).unwrap_or_else(|| panic!("no such line: {problem}"));
            assert!(problem.column <= line.chars().count() + 1, "no such column: {problem}");
        }
    }
}

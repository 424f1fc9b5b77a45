use super::*;
use crate::oci::Algorithm;
use proptest::prelude::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn directory() -> Directory {
    let names: Vec<UpstreamName> =
        ["docker.io", "quay.io", "registry.example:5000"].iter().map(|name| name.parse().unwrap()).collect();
    let hosts = [vec!["registry-1.docker.io".to_owned(), "index.docker.io".to_owned()], vec!["quay.site".to_owned()], vec![]];
    Directory::new("docker.io".parse().unwrap(), names.iter().zip(hosts.iter().map(Vec::as_slice)))
}

fn parse(url: &str, host: &str) -> Result<Route, RouteError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    Route::parse(path, query, Some(host), &directory())
}

fn manifest(url: &str) -> String {
    let route = parse(url, "127.0.0.1:5000").unwrap_or_else(|error| panic!("{url}: {error:?}"));
    match (&route.target, route.scope()) {
        (Target::Content(_, Wanted::Manifest(reference)), Some(scope)) => format!("{scope}:{reference}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn t4_t5_every_form_of_addressing() {
    for url in [
        "/v2/library/alpine/manifests/3.20?ns=docker.io",
        "/docker.io/v2/library/alpine/manifests/3.20?ns=docker.io",
        "/v2/docker.io/library/alpine/manifests/3.20?ns=docker.io",
        "/v2/library/alpine/manifests/3.20",
        "/v2/alpine/manifests/3.20",
        "/docker.io/v2/library/alpine/manifests/3.20",
        "/docker.io/v2/alpine/manifests/3.20",
        "/v2/docker.io/library/alpine/manifests/3.20",
        "/v2/index.docker.io/library/alpine/manifests/3.20",
        "/v2/alpine/manifests/3.20?ns=registry-1.docker.io",
        "/v2/library/alpine/manifests/3%2E20",
    ] {
        assert_eq!(manifest(url), "docker.io/library/alpine:3.20", "{url}");
    }
    for url in ["/v2/a/manifests/t?ns=quay.io", "/quay.io/v2/a/manifests/t", "/v2/quay.io/a/manifests/t"] {
        assert_eq!(manifest(url), "quay.io/a:t", "{url}");
    }
    for url in [
        "/v2/a/b/manifests/t?ns=registry.example%3A5000",
        "/v2/a/b/manifests/t?ns=registry.example:5000",
        "/registry.example:5000/v2/a/b/manifests/t",
        "/v2/registry.example%3A5000/a/b/manifests/t",
    ] {
        assert_eq!(manifest(url), "registry.example:5000/a/b:t", "{url}");
    }
    let route = parse("/v2/a/manifests/t?ns=registry.example%3A5000", "x").unwrap();
    assert_eq!(route.namespace.as_deref(), Some("registry.example:5000"));
}

#[test]
fn the_host_header_selects_where_it_is_listed() {
    for (host, upstream) in
        [("quay.site", "quay.io"), ("QUAY.site:443", "quay.io"), ("quay.io", "docker.io"), ("127.0.0.1:5000", "docker.io")]
    {
        assert_eq!(parse("/v2/a/b/tags/list", host).unwrap().upstream.as_str(), upstream, "{host}");
    }
    assert_eq!(parse("/v2/a/b/tags/list?ns=docker.io", "quay.site").unwrap().upstream.as_str(), "docker.io");
}

#[test]
fn the_base_in_all_its_forms() {
    for url in ["/v2", "/v2/", "/docker.io/v2", "/docker.io/v2/", "/v2/docker.io", "/v2/docker.io/", "/v2/?ns=quay.io"] {
        assert_eq!(parse(url, "x").unwrap().target, Target::Base, "{url}");
    }
}

#[test]
fn what_the_last_two_segments_say() {
    assert_eq!(manifest("/v2/a/manifests/b/blobs/manifests/t"), "docker.io/a/manifests/b/blobs:t");
    assert_eq!(manifest(&format!("/v2/a/b/manifests/{DIGEST}")), format!("docker.io/a/b:{DIGEST}"));
    assert_eq!(manifest(&format!("/v2/a/b/manifests/{}", DIGEST.replace(':', "%3A"))), format!("docker.io/a/b:{DIGEST}"));
    let sha512 = Digest::of(Algorithm::Sha512, b"");
    assert_eq!(
        parse(&format!("/v2/a/b/blobs/{sha512}"), "x").unwrap().target,
        Target::Content("a/b".parse().unwrap(), Wanted::Blob(sha512))
    );
    let Target::Content(_, Wanted::Tags(page)) =
        parse("/v2/manifests/x/tags/list?n=5&last=v1%2B&ns=quay.io", "x").unwrap().target
    else {
        panic!()
    };
    assert_eq!(page, Page { n: Some(5), last: Some("v1+".into()), rest: String::new() });
    assert_eq!(page.query(), "n=5&last=v1%2B");
    let url = format!("/v2/a/referrers/{DIGEST}?artifactType=application/x%2By&page=2&digest=%3A");
    let Target::Content(_, Wanted::Referrers(_, query)) = parse(&url, "x").unwrap().target else { panic!() };
    assert_eq!(query, ReferrersQuery { artifact_type: Some("application/x+y".into()), rest: "page=2&digest=%3A".into() });
    assert_eq!(query.page().unwrap(), "page=2&digest=%3A&artifactType=application%2Fx%2By");
}

#[test]
fn t18_what_is_refused_and_how() {
    let long = format!("/v2/{}/manifests/t", "a".repeat(256));
    let short = format!("/v2/a/b/blobs/{}", &DIGEST[..70]);
    use ErrorCode::*;
    for (url, code, kind, upstream) in [
        ("/v2/a/manifests/t?ns=evil.example", NameUnknown, Kind::Other, None),
        ("/evil.example/v2/a/manifests/t", NameUnknown, Kind::Other, None),
        ("/docker.io/v2/a/manifests/t?ns=quay.io", NameInvalid, Kind::Other, None),
        ("/v2/docker.io/a/b/manifests/t?ns=quay.io", NameInvalid, Kind::Other, None),
        ("/", NameUnknown, Kind::Other, None),
        ("/v1/search", NameUnknown, Kind::Other, None),
        ("/v22/a/manifests/t", NameUnknown, Kind::Other, None),
        ("/a/b/v2/a/manifests/t", NameUnknown, Kind::Other, None),
        ("/v2/_catalog", Unsupported, Kind::Other, Some("docker.io")),
        ("/v2/a/b/uploads/", NameUnknown, Kind::Other, Some("docker.io")),
        ("/v2/a/../b/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/%2e%2e/b/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a//b/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2//manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/Alpine/manifests/t?ns=quay.io", NameInvalid, Kind::Manifest, Some("quay.io")),
        ("/v2/a%2fb/manifests/t", NameInvalid, Kind::Other, None),
        ("/v2/a%5cb/manifests/t", NameInvalid, Kind::Other, None),
        ("/v2/a%00b/manifests/t", NameInvalid, Kind::Other, None),
        ("/v2/a%ffb/manifests/t", NameInvalid, Kind::Other, None),
        ("/v2/a%252fb/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        (&long, NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/.t", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/sha256:baddigeststring", DigestInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/blobs/latest", DigestInvalid, Kind::Blob, Some("docker.io")),
        (&short, DigestInvalid, Kind::Blob, Some("docker.io")),
        ("/v2/a/b/referrers/md5:00", DigestInvalid, Kind::Referrers, Some("docker.io")),
        ("/v2/a/b/tags/list?n=-1", PaginationNumberInvalid, Kind::Tags, Some("docker.io")),
    ] {
        let error = parse(url, "x").expect_err(url);
        assert_eq!((error.code, error.kind), (code, kind), "{url}: {error}");
        assert_eq!(error.upstream.as_ref().map(UpstreamName::as_str), upstream, "{url}");
    }
}

#[test]
fn t21_the_next_page_is_asked_of_the_mirror() {
    assert_eq!(
        next_link("/docker.io/v2/a/tags/list", Some("registry.example:5000"), "n=2&last=b"),
        r#"</docker.io/v2/a/tags/list?n=2&last=b&ns=registry.example%3A5000>; rel="next""#
    );
    assert_eq!(next_link("/v2/a/tags/list", None, "last=b"), r#"</v2/a/tags/list?last=b>; rel="next""#);
}

proptest! {
    /// Whatever comes in, what comes out cannot leave a folder.
    #[test]
    fn nothing_panics_and_names_stay_in_place(
        path in prop_oneof![
            any::<String>(),
            "(/[a-z.%2ef\\\\A0-9:]{0,8}){0,5}",
            "/v2(/[a-z.%2ef]{0,6}){1,3}/(manifests|blobs|tags|referrers)/[a-z0-9.:%]{0,12}",
        ],
        query in prop::option::of("[a-z=&%0-9:./]{0,30}"),
        host in prop::option::of("[a-zA-Z.:0-9]{0,12}"),
    ) {
        if let Ok(route) = Route::parse(&path, query.as_deref(), host.as_deref(), &directory())
            && let Some(scope) = route.scope()
        {
            let joined = std::path::Path::new("root").join(scope.upstream.as_str()).join(scope.repository.as_str());
            prop_assert!(joined.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{joined:?}");
        }
    }

    /// What is written in any form comes back.
    #[test]
    fn round_trip(repository in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){1,3}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", form in 0..3) {
        let url = match form {
            0 => format!("/v2/{repository}/manifests/{tag}?ns=quay.io"),
            1 => format!("/quay.io/v2/{repository}/manifests/{tag}"),
            _ => format!("/v2/quay.io/{repository}/manifests/{tag}"),
        };
        prop_assert_eq!(manifest(&url), format!("quay.io/{repository}:{tag}"));
    }
}

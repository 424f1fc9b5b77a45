use super::*;
use crate::oci::Algorithm;
use proptest::prelude::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn directory() -> Directory {
    let names: Vec<UpstreamName> =
        ["docker.io", "quay.io", "registry.example:5000", "localhost:5000"].iter().map(|name| name.parse().unwrap()).collect();
    let hosts =
        [vec!["registry-1.docker.io".to_owned(), "index.docker.io".to_owned()], vec!["quay.site".to_owned()], vec![], vec![]];
    Directory::new("docker.io".parse().unwrap(), names.iter().zip(hosts.iter().map(Vec::as_slice)))
}

fn parse(url: &str, host: &str) -> Result<Route, RouteError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    Route::parse(path, query, Some(host), &directory())
}

fn refused(url: &str) -> (ErrorCode, Kind, Option<String>) {
    match parse(url, "x") {
        Ok(route) => panic!("{url} is taken for {route:?}"),
        Err(error) => (error.code, error.kind, error.upstream.map(|upstream| upstream.to_string())),
    }
}

fn wanted(url: &str) -> Wanted {
    match parse(url, "x").unwrap_or_else(|error| panic!("{url}: {error:?}")).target {
        Target::Content(_, wanted) => wanted,
        Target::Base => panic!("{url}"),
    }
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
        "/v2/library/%61lpine/manifests/3%2E20?%6es=docker%2eio",
        "/%762/library/alpine/%6danifests/3.20",
        "/v2/library/alpine/manifests/3.20?ns=Docker.IO",
        "/v2/library/alpine/manifests/3.20?ns=Index.Docker.IO",
        "/Docker.IO/v2/library/alpine/manifests/3.20",
        "/v2/Docker.IO/library/alpine/manifests/3.20",
        "/v2/library/alpine/manifests/3.20?ns=",
        "/v2/library/alpine/manifests/3.20?ns=&a=b&&n=x&ns=docker.io&ns=DOCKER.io",
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
        "/registry.example%3A5000/v2/a/b/manifests/t",
        "/v2/registry.example%3A5000/a/b/manifests/t",
    ] {
        assert_eq!(manifest(url), "registry.example:5000/a/b:t", "{url}");
    }
    assert_eq!(manifest("/localhost%3A5000/v2/a/manifests/t"), "localhost:5000/a:t");
    let route = parse("/v2/a/manifests/t?ns=&ns=", "quay.site").unwrap();
    assert_eq!((route.upstream.as_str(), route.namespace), ("quay.io", None));
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
    assert_eq!(query, ReferrersQuery { artifact_types: vec!["application/x+y".into()], rest: "page=2&digest=%3A".into() });
    assert_eq!(query.page().unwrap(), "page=2&digest=%3A&artifactType=application%2Fx%2By");
}

#[test]
fn ns_and_path_agree_or_the_path_is_the_repository_s() {
    for url in [
        "/quay.io/v2/a/b/manifests/t?ns=docker.io",
        "/docker.io/v2/a/b/manifests/t?ns=quay.io",
        "/v2/quay.io/a/b/manifests/t?ns=docker.io",
        "/v2/quay.io/a/b/manifests/t?ns=Index.docker.io",
    ] {
        assert_eq!(refused(url), (ErrorCode::NameInvalid, Kind::Manifest, None), "{url}");
    }
    for (url, whose) in [
        // Registries that have repositories called after a host.
        ("/v2/docker.io/library/alpine/manifests/t?ns=quay.io", "quay.io/docker.io/library/alpine:t"),
        ("/quay.io/v2/docker.io/library/alpine/manifests/t", "quay.io/docker.io/library/alpine:t"),
        ("/v2/quay.io/docker.io/alpine/manifests/t", "quay.io/docker.io/alpine:t"),
        ("/v2/quay.io/a/manifests/t?ns=quay.io", "quay.io/a:t"),
        // No upstream of ours, and so a component like any other.
        ("/v2/evil.example/alpine/manifests/t", "docker.io/evil.example/alpine:t"),
    ] {
        assert_eq!(manifest(url), whose, "{url}");
    }
    let no_name = "/v2/localhost:5000/a/manifests/t?ns=quay.io";
    assert_eq!(refused(no_name), (ErrorCode::NameInvalid, Kind::Manifest, Some("quay.io".into())));
}

#[test]
fn two_values_of_ns_are_refused() {
    for url in ["/v2/a/b/blobs/x?ns=docker.io&ns=quay.io", "/v2/a/b/blobs/x?ns=docker.io&a=b&%6Es=quay.io"] {
        assert_eq!(refused(url), (ErrorCode::NameInvalid, Kind::Blob, None), "{url}");
    }
    assert_eq!(ErrorCode::NameInvalid.status().as_u16(), 400);
    assert_eq!(manifest("/v2/a/manifests/t?ns=quay.io&ns=Quay.IO&ns="), "quay.io/a:t");
}

#[test]
fn pages_of_tags() {
    let page = |query: &str| match wanted(&format!("/v2/a/b/tags/list?{query}")) {
        Wanted::Tags(page) => page,
        other => panic!("{other:?}"),
    };
    assert_eq!(page("n=&last="), Page::default());
    assert_eq!(page("n=&n=5").n, Some(5));
    assert_eq!(page("n=0").n, Some(0));
    assert_eq!(page("last=v1+x").last.as_deref(), Some("v1+x"));
    assert_eq!(page("last=v1+x").query(), "last=v1%2Bx");
    // What an upstream pages by comes back to it as it was.
    let token = page("next_page=gA+A%3D%3D&n=2&ns=quay.io&b=<\">");
    assert_eq!(token.rest, "next_page=gA+A%3D%3D&b=%3C%22%3E");
    assert_eq!(token.query(), "next_page=gA+A%3D%3D&b=%3C%22%3E&n=2");
    for n in ["x", "-1", "+5", "%2B5", "1.5", "%205", "0x1", "18446744073709551616"] {
        let url = format!("/v2/a/b/tags/list?n={n}");
        assert_eq!(refused(&url), (ErrorCode::PaginationNumberInvalid, Kind::Tags, Some("docker.io".into())), "{url}");
    }
}

#[test]
fn t22_no_filter_of_referrers_is_lost_and_a_plus_is_a_plus() {
    let query = |query: &str| match wanted(&format!("/v2/a/b/referrers/{DIGEST}?{query}")) {
        Wanted::Referrers(_, query) => query,
        other => panic!("{other:?}"),
    };
    let several = query("artifactType=application/spdx+json&artifactType=a%2Fb%2Bc&artifactType=&page=2");
    assert_eq!(several.artifact_types, ["a/b+c", "application/spdx+json"]);
    assert_eq!(several.page().unwrap(), "page=2&artifactType=a%2Fb%2Bc&artifactType=application%2Fspdx%2Bjson");
    assert!(several.wants(Some("application/spdx+json")) && several.wants(Some("a/b+c")));
    assert!(!several.wants(Some("application/spdx json")) && !several.wants(None) && !several.wants(Some("")));
    let none = query("artifactType=");
    assert!(none.wants(Some("x/y")) && none.wants(None) && none.page().is_none() && none.filter().is_none());
    // One question, however it is written.
    let as_said = "artifactType=a%2Fb%2Bc&artifactType=application/spdx%2Bjson&artifactType=a/b%2Bc&page=2";
    assert_eq!(query(as_said), several);
    // What answers are kept under.
    let keys = ["artifactType=a", "artifactType=b", "artifactType=a&artifactType=b", "artifactType=a%26artifactType=b"];
    let keys: std::collections::BTreeSet<_> = keys.map(|key| query(key).filter().unwrap()).into();
    assert_eq!(keys.len(), 4);
}

#[test]
fn t18_what_is_refused_and_how() {
    let long = format!("/v2/{}/manifests/t", "a".repeat(256));
    let short = format!("/v2/a/b/blobs/{}", &DIGEST[..70]);
    use ErrorCode::*;
    let none = format!("/v2/{}/blobs/{DIGEST}", "a".repeat(248));
    for (url, code, kind, upstream) in [
        ("/v2/a/manifests/t?ns=evil.example", NameUnknown, Kind::Manifest, None),
        ("/v2/a/tags/list?ns=evil.example", NameUnknown, Kind::Tags, None),
        ("/v2/a/blobs/x?ns=docker.io%00", NameUnknown, Kind::Blob, None),
        ("/v2/a/referrers/x?ns=docker.io%2F", NameUnknown, Kind::Referrers, None),
        ("/v2/?ns=evil.example", NameUnknown, Kind::Other, None),
        ("/evil.example/v2/a/manifests/t", NameUnknown, Kind::Manifest, None),
        ("/docker.io/v2/a/manifests/t?ns=quay.io", NameInvalid, Kind::Manifest, None),
        ("/docker.io%2Fv2/v2/a/manifests/t", NameUnknown, Kind::Manifest, None),
        ("/", NameUnknown, Kind::Other, None),
        (&none, NameInvalid, Kind::Blob, Some("docker.io")),
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
        ("/v2/a%2fb/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%5cb/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a\\b/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%00b/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%0d%0ab/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%ffb/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%zz/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a%252fb/manifests/t", NameInvalid, Kind::Manifest, Some("docker.io")),
        (&long, NameInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/x%2Fy", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/x%00", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/x%5cy", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/%2e%2e", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/%ff", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/", ManifestUnknown, Kind::Manifest, Some("docker.io")),
        ("/v2/a/b/manifests/sha256:..%2fx", DigestInvalid, Kind::Manifest, Some("docker.io")),
        ("/v2/A/manifests/.x", NameInvalid, Kind::Manifest, Some("docker.io")),
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
        assert!(error.message.len() < 500 && !error.message.contains(|c: char| c.is_control()), "{error}");
    }
    for url in [format!("/v2/a/b/tags/list?ns=%0d%0a{}", "x".repeat(5000)), format!("/%0d%0a{}", "x".repeat(5000))] {
        let message = parse(&url, "x").unwrap_err().message;
        assert!(message.len() < 300 && !message.contains(['\r', '\n']), "{message}");
    }
}

#[test]
fn t21_the_next_page_is_asked_of_the_mirror() {
    assert_eq!(
        next_link("/docker.io/v2/a/tags/list", Some("registry.example:5000"), "n=2&last=b"),
        r#"</docker.io/v2/a/tags/list?n=2&last=b&ns=registry.example%3A5000>; rel="next""#
    );
    assert_eq!(next_link("/v2/a/tags/list", None, "last=b"), r#"</v2/a/tags/list?last=b>; rel="next""#);
    // The upstream's own ns is not for this mirror.
    for query in ["n=2&last=x&ns=evil.example", "ns=evil.example&n=2&&last=x&%6es=evil.example", "n=2&ns&last=x"] {
        assert_eq!(next_link("/v2/a/tags/list", None, query), r#"</v2/a/tags/list?n=2&last=x>; rel="next""#, "{query}");
        let own = r#"</v2/a/tags/list?n=2&last=x&ns=quay.io>; rel="next""#;
        assert_eq!(next_link("/v2/a/tags/list", Some("quay.io"), query), own, "{query}");
    }
    // Nothing ends the link, or the header.
    let hostile = next_link("/v2/a/tags/list", None, "last=a>; rel=\"x\"\r\nSet-Cookie: é\\#&b=%0d\0");
    let inside = hostile.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert_eq!(inside, "/v2/a/tags/list?last=a%3E;%20rel=%22x%22%0D%0ASet-Cookie:%20%C3%A9%5C%23&b=%0d%00");
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

    /// Whatever an upstream links to, the link is one link to the same path of the mirror.
    #[test]
    fn a_link_is_one_link(query in "\\PC{0,20}|[a-zA-Z0-9%&=?#<>\" ]{0,30}", ns in prop::option::of(Just("quay.io"))) {
        let link = next_link("/v2/a/tags/list", ns, &query);
        let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
        prop_assert!(target.bytes().all(|c| c.is_ascii_graphic() && !b"<>\"#\\".contains(&c)), "{link}");
        match parse(target, "x") {
            Ok(route) => prop_assert_eq!((route.upstream.as_str(), route.namespace.as_deref()), (ns.unwrap_or("docker.io"), ns)),
            Err(error) => prop_assert_eq!(error.code, ErrorCode::PaginationNumberInvalid),
        }
    }

    /// Escapes change nothing.
    #[test]
    fn escapes_change_nothing(repository in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){1,3}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", keep in any::<u64>()) {
        let escaped: String = format!("/localhost:5000/v2/{repository}/manifests/{tag}").chars().enumerate().map(|(at, c)| {
            if c == '/' || keep >> (at % 64) & 1 == 1 { c.to_string() } else { format!("%{:02x}", c as u32) }
        }).collect();
        prop_assert_eq!(manifest(&escaped), format!("localhost:5000/{repository}:{tag}"));
    }
}

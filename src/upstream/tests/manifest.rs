//! Manifests, tags and lists: what is asked, and what each kind of answer means (T40, T14, T21, T22).

use super::*;

const MAX_MANIFEST: usize = crate::oci::MAX_MANIFEST as usize;

async fn always(reply: Reply) -> Server {
    Server::start(move |_| reply.clone()).await
}

#[tokio::test]
async fn requests_are_built_from_scratch() {
    let server = always(manifest_reply()).await;
    let upstream = anonymous(&server);
    resolve(&upstream).await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!(
        seen.headers,
        [
            (
                "accept".to_owned(),
                "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
            application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
            application/vnd.oci.artifact.manifest.v1+json, */*"
                    .to_owned()
            ),
            ("user-agent".to_owned(), format!("roadstead/{}", env!("CARGO_PKG_VERSION"))),
            ("accept-encoding".to_owned(), "identity".to_owned()),
            ("host".to_owned(), server.authority()),
        ]
    );
    let requests = r#"roadstead_upstream_requests_total{code="200",kind="manifest",method="HEAD",upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, requests).as_deref(), Some("1"));
}

#[tokio::test]
async fn a_base_path_is_kept() {
    let server = always(manifest_reply()).await;
    let mut config = config(&[&server]);
    config.urls = vec![server.url.join("artifactory/api/docker/remote/").unwrap()];
    resolve(&build(&config)).await.unwrap();
    assert_eq!(server.lines(), ["HEAD /artifactory/api/docker/remote/v2/a/b/manifests/latest"]);
}

#[tokio::test]
async fn a_head_that_tells_no_digest_becomes_one_get() {
    for head in [Reply::new(200).body(MANIFEST), Reply::new(200).header("docker-content-digest", "sha256:xyz"), Reply::new(405)] {
        let server =
            Server::start(move |seen| if seen.method == "HEAD" { head.clone() } else { Reply::new(200).body(MANIFEST) }).await;
        let resolved = anonymous(&server).resolve(&repository("a/b"), &tag("latest")).await.unwrap();
        let digest = digest_of(MANIFEST.as_bytes());
        assert_eq!(resolved.digest, digest);
        let fetched = resolved.fetched.unwrap();
        assert_eq!((fetched.bytes, fetched.digest, fetched.claimed), (MANIFEST.into(), digest, None));
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn t40_no_other_failure_of_a_head_becomes_a_get() {
    for (reply, class) in [
        (Reply::new(404), Class::NotFound),
        (Reply::new(410), Class::NotFound),
        (Reply::new(403), Class::Denied),
        (Reply::new(451), Class::Denied),
        (Reply::new(429), Class::RateLimited { retry_after: None }),
        (Reply::new(429).header("retry-after", "7"), Class::RateLimited { retry_after: Some(Duration::from_secs(7)) }),
        (Reply::new(500), Class::Unavailable),
        (Reply::new(503), Class::Unavailable),
        (Reply::new(408), Class::Unavailable),
        (Reply::new(400), Class::Invalid),
        (Reply::new(304), Class::Invalid),
        (Reply::vanish(), Class::Unavailable),
    ] {
        let server = always(reply.clone()).await;
        let error = resolve(&anonymous(&server)).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(server.lines().iter().all(|line| line.starts_with("HEAD ")), "{reply:?}: {:?}", server.lines());
    }
}

#[tokio::test]
async fn t40_limits_are_read_and_counted() {
    let server =
        always(manifest_reply().header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", "76;w=21600")).await;
    let upstream = anonymous(&server);
    assert_eq!(upstream.quota(), None);
    resolve(&upstream).await.unwrap();
    assert_eq!(upstream.quota().unwrap().remaining, 76);
    let gauge = |name: &str| metric(&upstream, &format!("roadstead_upstream_ratelimit_{name}{{upstream=\"registry.example\"}}"));
    assert_eq!((gauge("limit").as_deref(), gauge("remaining").as_deref()), (Some("100"), Some("76")));

    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 2.5s, allowed: 44000/minute"}]}"#;
    let server = always(Reply::new(429).body(body)).await;
    let upstream = anonymous(&server);
    let error = upstream.manifest(&repository("a/b"), &tag("latest")).await.unwrap_err();
    assert_eq!(error.class(), Class::RateLimited { retry_after: Some(Duration::from_millis(2500)) });
    let throttled = r#"roadstead_upstream_throttled_total{upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, throttled).as_deref(), Some("1"));

    let server = always(Reply::new(429).header("content-type", "text/html").body("<html>Too Many Requests</html>")).await;
    assert_eq!(resolve(&anonymous(&server)).await.unwrap_err().class(), Class::RateLimited { retry_after: None });
}

#[tokio::test]
async fn i10_a_manifest_comes_as_it_is() {
    let server = always(manifest_reply()).await;
    let upstream = anonymous(&server);
    let fetched = upstream.manifest(&repository("a/b"), &tag("latest")).await.unwrap();
    let digest = digest_of(MANIFEST.as_bytes());
    assert_eq!((fetched.bytes, fetched.digest, fetched.claimed), (MANIFEST.into(), digest, Some(digest)));
    assert_eq!(fetched.content_type.as_deref(), Some(OCI));
    let bytes = r#"roadstead_upstream_bytes_total{upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, bytes), Some(MANIFEST.len().to_string()));

    // By the algorithm of the digest asked for; also when it is large enough to leave the reactor.
    let large = vec![b' '; 200_000];
    let server = always(Reply::new(200).body(large.clone())).await;
    let asked = Digest::of(Algorithm::Sha512, &large);
    let fetched = anonymous(&server).manifest(&repository("a/b"), &Reference::Digest(asked)).await.unwrap();
    assert_eq!(fetched.digest, asked);
}

#[tokio::test]
async fn t12_a_head_by_digest_that_says_another_digest() {
    let server = always(manifest_reply()).await;
    let reference = Reference::Digest(digest_of(b"something else"));
    let error = anonymous(&server).resolve(&repository("a/b"), &reference).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid, "{error}");
    let silent = always(Reply::new(200)).await;
    let resolved = anonymous(&silent).resolve(&repository("a/b"), &reference).await.unwrap();
    assert_eq!(resolved.digest, digest_of(b"something else"), "the question is the answer");
}

/// What opens something is a registry's word, not that of whoever stands between and is cheerful about everything.
#[tokio::test]
async fn what_is_no_word_on_a_manifest() {
    let config =
        format!(r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}}"#, digest_of(b"{}"));
    let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
    let digest = digest_of(image.as_bytes());
    let reference = Reference::Digest(digest);
    let page = || Reply::new(200).header("content-type", "text/html").body("<html>sign in</html>");
    let message = || Reply::new(200).header("content-type", "application/json").body(r#"{"code":302}"#);
    for reply in [page(), message(), Reply::new(200)] {
        for reference in [&reference, &tag("latest")] {
            let server = always(reply.clone()).await;
            let error = anonymous(&server).has_manifest(&repository("a/b"), reference).await.unwrap_err();
            assert_eq!(error.class(), Class::Invalid, "{reply:?} {reference}: {error}");
        }
    }
    let typed = Reply::new(200).header("content-type", OCI);
    let named = Reply::new(200).header("docker-content-digest", &digest.to_string());
    for (head, requests) in [(named, 1), (typed.clone(), 1), (Reply::new(200), 2), (Reply::new(405), 2)] {
        let get = typed.clone().body(image.clone());
        let server = Server::start(move |seen| if seen.method == "HEAD" { head.clone() } else { get.clone() }).await;
        let found = anonymous(&server).has_manifest(&repository("a/b"), &reference).await.unwrap();
        assert_eq!((found, server.seen().len()), (digest, requests));
    }
}

/// distribution names a manifest's sha256 whatever digest it is asked for by: that says nothing against the other one.
#[tokio::test]
async fn a_digest_of_another_algorithm_contradicts_nothing() {
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let sha512 = Digest::of(Algorithm::Sha512, index.as_bytes());
    let (repository, asked) = (repository("a/b"), Reference::Digest(sha512));
    let named = |digest: &Digest| Reply::new(200).header("docker-content-digest", &digest.to_string()).body(index);
    let good = named(&digest_of(index.as_bytes()));
    for head in [good.clone(), Reply::new(405)] {
        let good = good.clone();
        let server = Server::start(move |seen| if seen.method == "HEAD" { head.clone() } else { good.clone() }).await;
        let upstream = anonymous(&server);
        assert_eq!(upstream.resolve(&repository, &asked).await.unwrap().digest, sha512);
        assert_eq!(upstream.has_manifest(&repository, &asked).await.unwrap(), sha512);
    }
    // One of the same algorithm does, and so do other bytes.
    for reply in [named(&Digest::of(Algorithm::Sha512, b"")), good.body("{}")] {
        let server = Server::start(move |seen| if seen.method == "HEAD" { Reply::new(405) } else { reply.clone() }).await;
        let found = anonymous(&server).has_manifest(&repository, &asked).await;
        assert!(found.is_err(), "{found:?}");
    }
}

#[tokio::test]
async fn bad_manifests() {
    let chunked = |size: usize| {
        let mut body = format!("{size:x}\r\n").into_bytes();
        body.extend(std::iter::repeat_n(b' ', size));
        body.extend(b"\r\n0\r\n\r\n");
        Reply::new(200).header("transfer-encoding", "chunked").body(body)
    };
    for (reply, class) in [
        (Reply::new(200).header("content-type", "text/html; charset=utf-8").body("<html>"), Class::Invalid),
        (manifest_reply().header("content-encoding", "gzip"), Class::Invalid),
        (Reply::new(200).header("content-length", "8388609").stalled(0), Class::Invalid),
        (chunked(MAX_MANIFEST + 1), Class::Invalid),
        (Reply::new(204), Class::Invalid),
        (manifest_reply().truncated(10), Class::Broken),
    ] {
        let server = always(reply).await;
        let error = anonymous(&server).manifest(&repository("a/b"), &tag("latest")).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
    }
    // What was named is what was sent: too large for this mirror, and no fault of the address's.
    let named = chunked(MAX_MANIFEST + 1).header("docker-content-digest", &digest_of(b"").to_string());
    let asked = Reference::Digest(digest_of(b""));
    for (reply, reference, class) in [
        (named.clone(), tag("latest"), Class::Refused),
        (named.clone(), asked.clone(), Class::Refused),
        (named, Reference::Digest(digest_of(b"other")), Class::Invalid),
        (chunked(MAX_MANIFEST + 1), asked, Class::Refused),
    ] {
        let server = always(reply).await;
        let error = anonymous(&server).manifest(&repository("a/b"), &reference).await.unwrap_err();
        assert_eq!((error.class(), server.seen().len()), (class, 1), "{error}");
    }
    let server = always(chunked(MAX_MANIFEST)).await;
    assert_eq!(anonymous(&server).manifest(&repository("a/b"), &tag("latest")).await.unwrap().bytes.len(), MAX_MANIFEST);
}

/// T12: what went astray on the way is asked for once more, where there is one address or several.
#[tokio::test]
async fn a_manifest_that_did_not_come_whole_is_asked_for_once_more() {
    let wrong = || manifest_reply().body(MANIFEST.replace('2', "3"));
    for bad in [manifest_reply().truncated(10), wrong()] {
        for (times, good) in [(1, true), (2, false)] {
            let (count, reply) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), bad.clone());
            let server = Server::start(move |_| {
                let first = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < times;
                if first { reply.clone() } else { manifest_reply() }
            })
            .await;
            let asked = Reference::Digest(digest_of(MANIFEST.as_bytes()));
            for reference in [tag("latest"), asked].into_iter().take(if good { 2 } else { 1 }) {
                let before = server.seen().len();
                let fetched = anonymous(&server).manifest(&repository("a/b"), &reference).await;
                let sound = fetched.as_ref().is_ok_and(|fetched| !fetched.is_other_than(&digest_of(MANIFEST.as_bytes())));
                assert_eq!(sound, good, "{fetched:?}");
                assert!(server.seen().len() - before <= 2);
            }
        }
    }
    // Of two addresses the other one is asked.
    let (broken, good) = (always(manifest_reply().truncated(10)).await, always(manifest_reply()).await);
    let asked = Reference::Digest(digest_of(MANIFEST.as_bytes()));
    build(&config(&[&broken, &good])).manifest(&repository("a/b"), &asked).await.unwrap();
    assert_eq!((broken.seen().len(), good.seen().len()), (1, 1));
    // One that takes too long to break off has used the request's time up.
    let slow = always(manifest_reply().stalled(10)).await;
    let patience = Duration::from_millis(200);
    let upstream = build(&config::Upstream { response_timeout: patience, stall_timeout: 2 * patience, ..config(&[&slow]) });
    assert_eq!(upstream.manifest(&repository("a/b"), &tag("latest")).await.unwrap_err().class(), Class::Broken);
    assert_eq!(slow.seen().len(), 1);
}

#[tokio::test]
async fn t14_an_upstream_that_never_answers() {
    let server = always(Reply::silence()).await;
    let upstream = build(&config::Upstream { response_timeout: Duration::from_millis(200), ..config(&[&server]) });
    let started = std::time::Instant::now();
    let error = resolve(&upstream).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Timeout(_)), "{error}");
    assert!(error.retry() && started.elapsed() < Duration::from_secs(3));
    let counted = r#"roadstead_upstream_requests_total{code="error",kind="manifest",method="HEAD",upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, counted).as_deref(), Some("1"));
}

#[tokio::test]
async fn the_next_address_is_asked_and_a_dead_one_is_avoided() {
    // A port that was free a moment ago.
    let mut config = config(&[&always(Reply::new(500)).await, &always(manifest_reply()).await]);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = always(Reply::new(404)).await;
    config.urls.insert(0, missing.url.clone());
    config.urls.insert(0, format!("http://{dead}/").parse().unwrap());
    let upstream = build(&config);
    resolve(&upstream).await.unwrap();
    resolve(&upstream).await.unwrap();
    assert_eq!(missing.seen().len(), 2);
    let refused = r#"roadstead_upstream_requests_total{code="error",kind="manifest",method="HEAD",upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, refused).as_deref(), Some("1"), "the second time it was not tried");

    // "Not found" beside an address that is down is no authority.
    config.urls.truncate(2);
    assert_eq!(resolve(&build(&config)).await.unwrap_err().class(), Class::Unavailable);
    config.urls = vec![missing.url.clone(), missing.url.clone()];
    assert_eq!(resolve(&build(&config)).await.unwrap_err().class(), Class::NotFound);
}

#[tokio::test]
async fn a_pooled_connection_that_died_is_not_noticed() {
    // Each connection serves one request and closes after having promised to stay.
    let server = always(manifest_reply().closing()).await;
    let upstream = anonymous(&server);
    for _ in 0..20 {
        resolve(&upstream).await.unwrap();
    }
    // And the worst case: it dies after the second request has arrived.
    let server =
        Server::start(
            |seen| if seen.connection == 0 && seen.path().ends_with("second") { Reply::vanish() } else { manifest_reply() },
        )
        .await;
    let upstream = anonymous(&server);
    for name in ["first", "second"] {
        upstream.resolve(&repository("a/b"), &tag(name)).await.unwrap();
    }
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.seen()[2].connection, 1);
}

#[tokio::test]
async fn t21_tags() {
    let server = Server::start(|_| {
        Reply::new(200).header("link", "</v2/a/b/tags/list?last=x&n=2>; rel=\"next\"").body(r#"{"name":"a/b","tags":["w","x"]}"#)
    })
    .await;
    let upstream = anonymous(&server);
    let listing = upstream.tags(&repository("a/b"), "n=2&last=v+w").await.unwrap();
    assert_eq!(listing.bytes, r#"{"name":"a/b","tags":["w","x"]}"#);
    assert_eq!(listing.next.as_deref(), Some("last=x&n=2"));
    upstream.tags(&repository("a/b"), "last=x&n=2").await.unwrap();
    upstream.tags(&repository("a/b"), "").await.unwrap();
    let targets: Vec<_> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/v2/a/b/tags/list?n=2&last=v+w", "/v2/a/b/tags/list?last=x&n=2", "/v2/a/b/tags/list"]);

    for (body, good) in [
        (r#"{"tags":null}"#, true),
        (r#"{"name":"a/b"}"#, false),
        ("{}", false),
        (r#"{"tags":[1]}"#, false),
        ("[]", false),
        ("<html>", false),
    ] {
        let server = always(Reply::new(200).body(body)).await;
        let outcome = anonymous(&server).tags(&repository("a/b"), "").await;
        assert_eq!(outcome.is_ok(), good, "{body}");
        assert!(outcome.err().is_none_or(|error| error.class() == Class::Invalid));
    }
    let missing = always(Reply::new(404)).await;
    assert_eq!(anonymous(&missing).tags(&repository("a/b"), "").await.unwrap_err().class(), Class::NotFound);
}

/// As many large pages as there are places; a further one waits until somebody has done with theirs.
#[tokio::test]
async fn large_pages_of_tags_take_turns() {
    let tags = |size: usize| format!(r#"{{"tags":["{}"]}}"#, "v".repeat(size));
    let (large, small) = (always(Reply::new(200).body(tags(5 << 20))).await, always(Reply::new(200).body(tags(1 << 20))).await);
    let (large, small) = (anonymous(&large), anonymous(&small));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(large.tags(&repository("a/b"), "").await.unwrap().bytes);
    }
    assert!(held[0].len() > 5 << 20);
    let next = tokio::spawn(async move { large.tags(&repository("a/b"), "").await });
    small.tags(&repository("a/b"), "").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!next.is_finished());
    held.pop();
    assert_eq!(next.await.unwrap().unwrap().bytes, held[0]);

    let huge = always(Reply::new(200).body(tags(32 << 20))).await;
    assert_eq!(anonymous(&huge).tags(&repository("a/b"), "").await.unwrap_err().class(), Class::Refused);
}

#[tokio::test]
async fn t22_referrers() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let body = r#"{"schemaVersion":2,"manifests":[]}"#;
    let digest = digest_of(b"");
    let good = Reply::new(200).header("content-type", "application/vnd.oci.image.index.v1+json; charset=utf-8").body(body);
    let server = always(good.header("oci-filters-applied", "artifactType")).await;
    let upstream = anonymous(&server);
    let referrers = upstream.referrers(&repository("a/b"), &digest, &["a/b+c".into()], None).await.unwrap().unwrap();
    assert_eq!((referrers.bytes, referrers.filters_applied.as_deref()), (body.into(), Some("artifactType")));
    assert_eq!(server.seen()[0].target, format!("/v2/a/b/referrers/{digest}?artifactType=a%2Fb%2Bc"));
    upstream.referrers(&repository("a/b"), &digest, &["ignored".into()], Some("page=2")).await.unwrap();
    assert_eq!(server.seen()[1].target, format!("/v2/a/b/referrers/{digest}?page=2"));
    upstream.referrers(&repository("a/b"), &digest, &["a/b".into(), "c/d".into()], None).await.unwrap();
    assert_eq!(server.seen()[2].target, format!("/v2/a/b/referrers/{digest}?artifactType=a%2Fb&artifactType=c%2Fd"));

    for reply in [
        Reply::new(400),
        Reply::new(404),
        Reply::new(405),
        Reply::new(406),
        Reply::new(410),
        Reply::new(501),
        Reply::new(200).header("content-type", "application/json").body(body),
        Reply::new(200).body(body),
    ] {
        let server = always(reply.clone()).await;
        assert_eq!(anonymous(&server).referrers(&repository("a/b"), &digest, &[], None).await.unwrap(), None, "{reply:?}");
    }
    for (reply, class) in [
        (Reply::new(200).header("content-type", INDEX).body("{}"), Class::Refused),
        (Reply::new(500), Class::Unavailable),
        (Reply::new(403), Class::Denied),
    ] {
        let server = always(reply).await;
        let error = anonymous(&server).referrers(&repository("a/b"), &digest, &[], None).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
    }
    for (reply, class) in [
        (Reply::new(400), Class::Invalid),
        (Reply::new(404), Class::Invalid),
        (Reply::new(405), Class::Invalid),
        (Reply::new(410), Class::Invalid),
        (Reply::new(501), Class::Unavailable),
        (Reply::new(200).header("content-type", "application/json").body(body), Class::Invalid),
    ] {
        let server = always(reply.clone()).await;
        let page = anonymous(&server).referrers(&repository("a/b"), &digest, &[], Some("page=2&n=5")).await;
        assert_eq!(page.unwrap_err().class(), class, "there was a first page: {reply:?}");
    }
    let server = always(Reply::new(404)).await;
    let first = anonymous(&server).referrers(&repository("a/b"), &digest, &[], Some("n=5&artifactType=a%2Fb")).await;
    assert_eq!(first.unwrap(), None, "so much of it at once is the first page");
}

//! T34 to T39: where redirects lead, and what goes along.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A registry with Basic sign-in that answers everything signed in by `reply`.
async fn registry(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match seen.header("authorization") {
        Some(CANARY_BASIC) => reply(seen),
        _ => Reply::challenge("Basic realm=\"r\"").header("set-cookie", "session=canary-secret"),
    })
    .await
}

async fn read(answer: &mut BlobAnswer) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.chunk().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn i9_t34_another_host_gets_range_but_no_credentials() {
    let cdn = Server::start(|_| Reply::new(206).header("content-range", "bytes 4-9/10").body("456789")).await;
    let target = format!("{}bucket/blob?presigned=secret%2Fsignature", cdn.url);
    let server = registry(move |_| Reply::redirect(&target).header("cache-control", "max-age=31536000")).await;
    let upstream = with_canary(&server);
    let mut answer = upstream.blob(&repository("a/b"), &digest_of(b""), 4).await.unwrap();
    assert_eq!((answer.start, answer.total), (4, Some(10)));
    assert!(!format!("{answer:?}").contains("presigned"), "{answer:?}");
    assert_eq!(read(&mut answer).await.unwrap(), b"456789");

    let seen = &cdn.seen()[0];
    assert_eq!(seen.target, "/bucket/blob?presigned=secret%2Fsignature", "as it was signed");
    assert_eq!(seen.header("range"), Some("bytes=4-"));
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "host", "range", "user-agent"], "and nothing else");
    assert_innocent(&cdn);

    // A redirect is asked for anew, whatever its Cache-Control says.
    drop(upstream.blob(&repository("a/b"), &digest_of(b""), 4).await.unwrap());
    assert_eq!(server.seen().len(), 3);
    assert!(server.lines().iter().all(|line| line.starts_with("GET ")), "T36: never HEAD");
    assert_silent(&upstream, None);
}

#[tokio::test]
async fn i9_t34_back_from_elsewhere_without_credentials() {
    let server_url = Arc::new(std::sync::OnceLock::new());
    let elsewhere = Server::start({
        let server_url = Arc::clone(&server_url);
        move |_| Reply::redirect(&format!("{}somewhere", server_url.get().unwrap()))
    })
    .await;
    let target = elsewhere.url.to_string();
    let server = registry(move |seen| if seen.path() == "/somewhere" { Reply::new(200) } else { Reply::redirect(&target) }).await;
    server_url.set(server.url.clone()).unwrap();
    let error = with_canary(&server).blob(&repository("a/b"), &digest_of(b""), 0).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied);
    let back: Vec<_> = server.seen().into_iter().filter(|seen| seen.path() == "/somewhere").collect();
    assert!(!back.is_empty() && back.iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn a_redirect_on_the_same_host_stays_signed_in() {
    let server = registry(|seen| if seen.path() == "/real" { manifest_reply() } else { Reply::redirect("/real") }).await;
    resolve(&with_canary(&server)).await.unwrap();
}

#[tokio::test]
async fn t35_head_of_a_url_presigned_for_get() {
    for (status, path) in [(403, ""), (405, ""), (403, "same/host"), (405, "same/host")] {
        let storage = Server::start(move |seen| if seen.method == "HEAD" { Reply::new(status) } else { manifest_reply() }).await;
        let target = if path.is_empty() { storage.url.to_string() } else { format!("/{path}") };
        let server = registry(move |seen| match (seen.path(), seen.method.as_str()) {
            ("/same/host", "HEAD") => Reply::new(status),
            ("/same/host", _) => manifest_reply(),
            _ => Reply::redirect(&target),
        })
        .await;
        let upstream = with_canary(&server);
        let resolved = upstream.resolve(&repository("a/b"), &tag("latest")).await.unwrap();
        assert_eq!(resolved.digest, digest_of(MANIFEST.as_bytes()));
        assert_eq!(resolved.fetched.unwrap().bytes, MANIFEST, "one GET is enough");
        let asked = if path.is_empty() { storage.lines() } else { server.lines().split_off(2) };
        let good = [format!("HEAD /{path}"), format!("GET /{path}")];
        assert_eq!(asked.iter().filter(|line| good.contains(line)).count(), 2, "{asked:?}");
        assert_innocent(&storage);
    }
}

#[tokio::test]
async fn t37_loops_and_bad_targets() {
    for (location, requests) in [("/again", 6), ("http://169.254.169.254/latest", 1), ("http://[fe80::1]/", 1), ("ftp://x/", 1)] {
        let server = Server::start(move |_| Reply::redirect(location)).await;
        let error = anonymous(&server).blob(&repository("a/b"), &digest_of(b""), 0).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert_eq!(server.seen().len(), requests, "{location}");
    }
}

#[tokio::test]
async fn t38_an_expired_presigned_url_is_asked_for_again_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let cdn = Server::start(|seen| match seen.query("sig").as_slice() {
        [good] if good == "2" => Reply::new(206).header("content-range", "bytes 1-2/3").body("bc"),
        _ => Reply::new(403).body("<Error>expired</Error>"),
    })
    .await;
    let target = cdn.url.clone();
    let server =
        Server::start(move |_| Reply::redirect(&format!("{target}?sig={}", count.fetch_add(1, Ordering::SeqCst) + 1))).await;
    let upstream = anonymous(&server);
    let mut answer = upstream.blob(&repository("a/b"), &digest_of(b""), 1).await.unwrap();
    assert_eq!(read(&mut answer).await.unwrap(), b"bc");
    assert_eq!((server.seen().len(), cdn.seen().len()), (2, 2));
    let error = upstream.blob(&repository("a/b"), &digest_of(b""), 1).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert_eq!((server.seen().len(), cdn.seen().len()), (4, 4), "once, not for ever");
    assert!(!error.to_string().contains("sig="), "{error}");
}

#[tokio::test]
async fn t39_manifests_are_redirected_to_a_registry_that_wants_a_token() {
    let regional = Server::start(|seen| match (seen.path(), seen.header("authorization")) {
        ("/token", None) => Reply::token("anonymous"),
        (_, Some("Bearer anonymous")) => manifest_reply(),
        _ => Reply::challenge(&format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap())),
    })
    .await;
    let target = regional.url.clone();
    let server = registry(move |seen| Reply::redirect(target.join(seen.path()).unwrap().as_str())).await;
    assert_eq!(resolve(&with_canary(&server)).await.unwrap(), digest_of(MANIFEST.as_bytes()));
    let path = "HEAD /v2/a/b/manifests/latest";
    assert_eq!(regional.lines(), [path, "GET /token", path]);
    assert_innocent(&regional);
}

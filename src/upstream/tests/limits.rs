//! T40: whom a 429 silences and for how long, and whose quota is shown.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:word")))
}

/// A registry to which alice is one too many, by token or by Basic. `at_token`: it is its token service that says so.
async fn too_much_for_alice(bearer: bool, at_token: bool) -> Server {
    let limited = || Reply::new(429).header("retry-after", "3600").header("ratelimit-remaining", "0");
    Server::start(move |seen| {
        let user = ["alice", "bob", "mirror"].into_iter().find(|user| {
            let sent = seen.header("authorization").unwrap_or_default();
            sent == basic(user) || sent == format!("Bearer {user}")
        });
        match (seen.path(), user) {
            ("/token", Some("alice")) if at_token => limited(),
            ("/token", user) => Reply::token(user.unwrap_or("nobody")),
            (_, None) if bearer => Reply::challenge(&format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap())),
            (_, None) => Reply::challenge("Basic realm=\"r\""),
            (_, Some("alice")) if !at_token && seen.method == "GET" => limited(),
            (_, Some("mirror")) => manifest_reply().header("ratelimit-limit", "100").header("ratelimit-remaining", "76"),
            _ => manifest_reply().header("ratelimit-remaining", "5"),
        }
    })
    .await
}

fn caller(upstream: &Upstream, user: &str) -> Upstream {
    upstream.signed_in_as(user, &Secret::new("word"), TokenAge::Any)
}

async fn pull(upstream: &Upstream, name: &str) -> Result<FetchedManifest, UpstreamError> {
    upstream.manifest(&repository(name), &tag("latest")).await
}

fn assert_held_back(error: &UpstreamError) {
    assert_eq!(error.label(), "held_back", "{error}");
    assert!(error.retry_in().is_some_and(|wait| wait <= Duration::from_secs(60)), "an hour is not believed: {error}");
}

#[tokio::test]
async fn a_429_to_one_caller_is_nobody_elses() {
    for (bearer, at_token) in [(true, false), (false, false), (true, true)] {
        let server = too_much_for_alice(bearer, at_token).await;
        let upstream = anonymous(&server);
        // Alice is the first to come, too: what she is told teaches the mirror how one signs in.
        let (alice, bob) = (caller(&upstream, "alice"), caller(&upstream, "bob"));
        let refused = pull(&alice, "a/b").await.unwrap_err();
        assert_eq!(refused.label(), "rate_limited", "{refused}");
        pull(&bob, "a/b").await.unwrap();
        pull(&caller(&upstream, "bob"), "a/b").await.unwrap();
        let asked = server.seen().len();
        assert_held_back(&pull(&alice, "a/b").await.unwrap_err());
        assert_held_back(&pull(&caller(&upstream, "alice"), "a/b").await.unwrap_err());
        assert_eq!(server.seen().len(), asked, "she is not asked for");
        // Another login, whoever says to be her.
        assert!(pull(&upstream.signed_in_as("alice", &Secret::new("other"), TokenAge::Any), "a/b").await.is_err());
        assert!(server.seen().len() > asked);
        // Neither silence nor quota of a caller is the mirror's.
        assert_eq!(upstream.quota(), None);
        upstream.measure();
        let held = r#"roadstead_upstream_held_back_seconds{upstream="registry.example"}"#;
        assert_eq!(metric(&upstream, held).as_deref(), Some("0"));
        assert_eq!(upstream.status()["addresses"][0]["held_back_seconds"]["manifests"], serde_json::Value::Null);
        assert!(matches!(upstream.readiness(), Readiness::Ready));
    }
}

#[tokio::test]
async fn a_429_before_signing_in_is_the_anonymous_ones() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(_) => manifest_reply(),
        None if seen.path().contains("first") => Reply::challenge("Basic realm=\"r\""),
        None => Reply::new(429),
    })
    .await;
    let upstream = anonymous(&server);
    let bob = caller(&upstream, "bob");
    assert_eq!(pull(&bob, "a/b").await.unwrap_err().label(), "rate_limited");
    assert_held_back(&pull(&bob, "first").await.unwrap_err());
    assert_eq!(server.seen().len(), 1, "a bare request is the same whoever sends it");
    let checked = resolve(&with_canary(&server)).await;
    assert_eq!(checked.unwrap_err().label(), "rate_limited", "another mirror knows nothing of it");
}

#[tokio::test]
async fn a_429_to_one_of_the_mirrors_accounts_is_not_the_others() {
    let server = too_much_for_alice(true, false).await;
    let account = |prefix: &str, user: &str| config::ScopedCredentials {
        prefix: prefix.into(),
        credentials: config::Credentials::Password { username: user.into(), password: Secret::new("word") },
    };
    let list = vec![account("team", "alice"), account("", "mirror")];
    let upstream = build(&config::Upstream { credentials: config::Credentials::ByRepository(list), ..config(&[&server]) });
    assert_eq!(pull(&upstream, "team/a").await.unwrap_err().label(), "rate_limited");
    pull(&upstream, "other/a").await.unwrap();
    assert_held_back(&pull(&upstream, "team/b").await.unwrap_err());
    assert!(matches!(upstream.readiness(), Readiness::Ready), "one of them may ask");
    // The worst of them is shown.
    upstream.measure();
    let held = r#"roadstead_upstream_held_back_seconds{upstream="registry.example"}"#;
    assert!(metric(&upstream, held).is_some_and(|held| (50..=60).contains(&held.parse::<u64>().unwrap())));
    let left = r#"roadstead_upstream_ratelimit_remaining{upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, left).as_deref(), Some("0"));

    // A caller's quota changes nothing of it.
    let upstream = build(&config::Upstream {
        credentials: config::Credentials::Password { username: "mirror".into(), password: Secret::new("word") },
        ..config(&[&server])
    });
    pull(&upstream, "a").await.unwrap();
    pull(&caller(&upstream, "bob"), "a").await.unwrap();
    assert_eq!((upstream.quota().unwrap().remaining, metric(&upstream, left).as_deref()), (76, Some("76")));
}

/// GHCR's: each says how many microseconds it would like to have.
fn moment() -> Reply {
    Reply::new(429).header("retry-after", "880.092µs").body("toomanyrequests: retry-after: 880.092µs, allowed: 44000/minute")
}

#[tokio::test]
async fn t40_a_429_of_a_moment_is_waited_out_by_all() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let count = Arc::clone(&count);
        move |_| if count.fetch_add(1, Ordering::SeqCst) < 2 { moment() } else { manifest_reply() }
    })
    .await;
    let upstream = Arc::new(anonymous(&server));
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { pull(&upstream, &format!("a/b{number}")).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let counted = |name: &str| metric(&upstream, &format!("roadstead_upstream_{name}_total{{upstream=\"registry.example\"}}"));
    assert_eq!(counted("throttled").as_deref(), Some("2"));
    assert_eq!(counted("retries").as_deref(), Some("2"), "the others have waited, and were sent once");
    assert_eq!(server.seen().len(), 22);
}

#[tokio::test]
async fn t40_moments_without_end_are_told() {
    let server = Server::start(|_| moment()).await;
    let upstream = anonymous(&server);
    let started = std::time::Instant::now();
    let error = pull(&upstream, "a/b").await.unwrap_err();
    assert_eq!((error.label(), server.seen().len()), ("rate_limited", 4), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(150), "with pauses");
    // From now on it is a silence as any other.
    assert_held_back(&pull(&upstream, "a/b").await.unwrap_err());
    assert_eq!(server.seen().len(), 4);

    // Its patience is that of an answer.
    let server = Server::start(|_| Reply::new(429).header("retry-after", "2")).await;
    let upstream = build(&config::Upstream { response_timeout: Duration::from_secs(1), ..config(&[&server]) });
    assert_eq!(pull(&upstream, "a/b").await.unwrap_err().label(), "rate_limited");
    assert_eq!(server.seen().len(), 1);
}

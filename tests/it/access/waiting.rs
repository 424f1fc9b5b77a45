//! SIGHUP with what cannot change live: it stays as it was, and is named; what can, upstreams among it, changes beside it.

use super::reload::said;
use super::{PUBLIC, SHARED, TEAM, basic, upstream};
use crate::support::client::{self, Response};
use crate::support::mirror::{Process, Settings};
use crate::support::until;
use crate::support::upstream::{Accounts, Auth};

const READ: &str = "the configuration was read again";
const WAITS: &str = "these have changed, and take effect after a restart";

async fn get(process: &Process, path: &str, authorization: Option<&str>) -> Response {
    let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
    client::get(process.address(), path, &headers).await
}

/// Writes another file, sends SIGHUP, and waits until it was read for the `time`th time. The line of what waits, if any.
async fn reload(process: &mut Process, time: usize, change: impl FnOnce(&mut Settings)) -> Option<String> {
    process.configure(change);
    let before = said(process, WAITS);
    process.hang_up();
    until("the configuration to be read", || said(process, READ) == time).await;
    let log = process.log();
    let mut lines = log.lines().filter(|line| line.contains(WAITS)).skip(before);
    lines.next().map(str::to_owned)
}

/// An offline mirror serves what it has of an upstream that is not in its file, whether or not the file is read again.
#[tokio::test]
async fn what_an_offline_mirror_found_stays() {
    let (up, _) = upstream().await;
    let process = Process::with(&up, |settings| {
        settings.add("old.example", &up);
    })
    .await;
    let path = "/v2/old.example/team/app/manifests/latest";
    assert_eq!(get(&process, path, None).await.status(), 200);
    let gone = |settings: &mut Settings| {
        settings.set("cache", "offline", true).upstream("old.example", "enabled", false);
    };
    let mut process = process.kill().await.start_with(gone).await;
    assert_eq!(get(&process, path, None).await.status(), 200, "found in the cache");
    assert_eq!(reload(&mut process, 1, |_| {}).await, None, "the file is the same");
    let answer = get(&process, path, None).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    // What can change live does so for it, too.
    let denied = |settings: &mut Settings| {
        settings.set("access", "rule", vec![toml::Value::from(toml::toml! { who = "anyone" pull = "docker.io" })]);
    };
    assert_eq!(reload(&mut process, 2, denied).await, None);
    assert_eq!(get(&process, path, None).await.error_code(), "DENIED");
}

/// `enabled = false` holds at once, as rules in the same file do; so does its end. What waits is named beside it.
#[tokio::test]
async fn an_upstream_that_is_switched_off_is_none_at_once() {
    let (up, _) = upstream().await;
    let mut process = Process::with(&up, |settings| {
        settings.add("ghcr.io", &up);
    })
    .await;
    assert_eq!(get(&process, SHARED, None).await.status(), 200);
    let off = |settings: &mut Settings| {
        settings.upstream("ghcr.io", "enabled", false).hub("deny", vec!["team/**"]).set("fill", "parallel", 2);
    };
    let line = reload(&mut process, 1, off).await.expect("something waits");
    assert!(line.contains("[fill]") && !line.contains("[upstream]"), "{line}");
    assert_eq!(get(&process, SHARED, None).await.status(), 404, "a repository of docker.io now, which has none such");
    assert_eq!(get(&process, TEAM, None).await.error_code(), "DENIED");
    assert_eq!(get(&process, PUBLIC, None).await.status(), 200);
    let on = |settings: &mut Settings| {
        settings.upstream("ghcr.io", "enabled", true).hub("deny", Vec::<String>::new());
    };
    assert!(reload(&mut process, 2, on).await.is_some_and(|line| line.contains("[fill]")), "it waits yet");
    for path in [SHARED, TEAM, PUBLIC] {
        assert_eq!(get(&process, path, None).await.status(), 200, "{path}");
    }
}

/// Whose content is whose changes at once, and with it whose logins are for the upstream.
#[tokio::test]
async fn another_visibility_holds_at_once() {
    let (up, _) = upstream().await;
    let accounts = Accounts::default();
    accounts.set("alice", "word", &["team/app"]);
    up.require(Auth::bearer(&up));
    up.with_tokens(|tokens| tokens.accounts = Some(accounts.clone()));
    let mut process = Process::with(&up, |settings| {
        settings.hub("visibility", "caller");
    })
    .await;
    let login = basic("alice", "word");
    let answer = get(&process, "/token?service=roadstead&scope=repository:team/app:pull", Some(&login)).await;
    let token = format!("Bearer {}", answer.json()["token"].as_str().expect("a token"));
    for (time, visibility, anonymous) in [(0, "caller", 401), (1, "operator", 200), (2, "caller", 401), (3, "public", 200)] {
        if time > 0 {
            let change = |settings: &mut Settings| {
                settings.hub("visibility", visibility);
            };
            assert_eq!(reload(&mut process, time, change).await, None, "{visibility}");
        }
        assert_eq!(get(&process, TEAM, None).await.status(), anonymous, "{visibility}");
        for who in [&login, &token].into_iter().filter(|_| visibility == "caller") {
            let answer = get(&process, TEAM, Some(who)).await;
            assert_eq!(answer.status(), 200, "{visibility}: {}", answer.text());
        }
        if time == 0 {
            assert_eq!(get(&process, TEAM, Some(&login)).await.status(), 200, "it is cached from here on");
        }
    }
}

//! Tokens of the mirror's own: how a client comes by one, what it opens, and what is none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{CLOSED, PUBLIC, RULES, SHARED, TEAM, Users, basic, challenge, get, login, mirror, token, upstream, with_access};
use crate::support::client::Connection;
use crate::support::mirror::Mirror;
use crate::support::upstream::Auth;

#[tokio::test]
async fn a_challenge_leads_to_a_token_that_opens() {
    let (up, image) = upstream().await;
    let (mirror, _users) = mirror(&up, RULES).await;
    let refused = get(&mirror, TEAM, None).await;
    let expected = format!(
        "Bearer realm=\"http://{}/token\",service=\"roadstead\",scope=\"repository:docker.io/team/app:pull\"",
        mirror.address()
    );
    assert_eq!(challenge(&refused), expected);
    let answer =
        get(&mirror, "/token?service=roadstead&account=alice&scope=repository:team/app:pull", Some(&login("alice"))).await;
    assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-store")));
    let json = answer.json();
    assert_eq!((&json["token"], &json["expires_in"]), (&json["access_token"], &serde_json::json!(300)));
    assert!(json["issued_at"].as_str().unwrap().ends_with('Z'), "{json}");
    let bearer = format!("Bearer {}", json["token"].as_str().unwrap());
    let manifest = get(&mirror, TEAM, Some(&bearer)).await;
    assert_eq!((manifest.status(), &*manifest.body), (200, &*image.manifest.bytes));
    assert_eq!(get(&mirror, "/v2/", Some(&bearer)).await.status(), 200);
    // It is bob's, and stays bob's.
    let bobs = token(&mirror, Some(&login("bob"))).await;
    assert_eq!(get(&mirror, TEAM, Some(&bobs)).await.status(), 403);
    assert_eq!(get(&mirror, SHARED, Some(&bobs)).await.status(), 200);
    // Nobody's. The client is told that the same token will not do a second time.
    let nobodys = get(&mirror, TEAM, Some(&token(&mirror, None).await)).await;
    assert_eq!((nobodys.status(), challenge(&nobodys)), (401, format!("{expected},error=\"insufficient_scope\"")));
    assert_eq!(get(&mirror, "/token", Some(&basic("alice", "wrong"))).await.status(), 401);
    assert_eq!(mirror.metric("roadstead_password_checks_total", &[("result", "right")]).await, 2.0);
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_with_a_fresh_challenge() {
    let (up, _) = upstream().await;
    let (mirror, _users) = mirror(&up, RULES).await;
    let (other, _users2) = super::mirror(&up, RULES).await;
    let good = token(&mirror, Some(&login("alice"))).await;
    let mut bytes = URL_SAFE_NO_PAD.decode(good.strip_prefix("Bearer ").unwrap()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let tampered = format!("Bearer {}", URL_SAFE_NO_PAD.encode(bytes));
    let foreign = token(&other, Some(&login("alice"))).await;
    for bad in [tampered.as_str(), &foreign, "Bearer x", "Bearer eyJhbGciOiJub25lIn0.e30."] {
        for path in [TEAM, PUBLIC, "/v2/"] {
            let answer = get(&mirror, path, Some(bad)).await;
            assert_eq!((answer.status(), &*answer.error_code()), (401, "UNAUTHORIZED"), "{path} {bad}");
            assert!(challenge(&answer).ends_with(",error=\"invalid_token\""), "{}", challenge(&answer));
        }
    }
    assert_eq!(get(&mirror, TEAM, Some(&good)).await.status(), 200);
}

/// Mirrors behind one address share a key, and what one gives another takes.
#[tokio::test]
async fn a_key_that_is_shared_makes_tokens_that_are() {
    let (up, _) = upstream().await;
    let users = Users::new(&["alice"]);
    let key = users.0.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let text = format!("token_key_file = {key:?}\ntoken_url = \"https://mirror.example/auth/token\"\n{CLOSED}");
    let one = Mirror::with(&up, |settings| with_access(settings, &up, &users, &text)).await;
    let two = Mirror::with(&up, |settings| with_access(settings, &up, &users, &text)).await;
    let bearer = token(&one, Some(&login("alice"))).await;
    assert_eq!(get(&two, TEAM, Some(&bearer)).await.status(), 200);
    assert!(challenge(&get(&two, TEAM, None).await).starts_with("Bearer realm=\"https://mirror.example/auth/token\","));
}

/// containerd and Docker try the OAuth2 form first.
#[tokio::test]
async fn a_form_gets_a_token_too() {
    let (up, _) = upstream().await;
    let (mirror, _users) = mirror(&up, CLOSED).await;
    let post = async |form: &str| {
        let mut connection = Connection::open(mirror.address()).await;
        let (length, kind) = (form.len(), "application/x-www-form-urlencoded");
        let head =
            format!("POST /token HTTP/1.1\r\nHost: mirror\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{form}");
        connection.send_raw(head.as_bytes()).await;
        connection.answer("POST").await.unwrap().rest().await
    };
    let good = "grant_type=password&service=roadstead&client_id=containerd-client&scope=repository%3Ateam%2Fapp%3Apull&username=alice&password=secret+of%20alice";
    let answer = post(good).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let bearer = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    assert_eq!(get(&mirror, TEAM, Some(&bearer)).await.status(), 200);
    assert_eq!(post(&good.replace("secret", "wrong")).await.status(), 401);
    assert_eq!(post("grant_type=password&scope=x").await.status(), 401, "nobody");
    // After a 405 they come by GET.
    assert_eq!(post("grant_type=refresh_token&refresh_token=x&service=roadstead").await.status(), 405);
    assert_eq!(post(&format!("grant_type=password&username={}", "x".repeat(100_000))).await.status(), 405);
    let put = crate::support::client::request(mirror.address(), "PUT", "/token", &[("Content-Length", "0")]).await;
    assert_eq!((put.status(), put.header("allow")), (405, Some("GET, POST")));
}

/// Where callers have logins of their own for an upstream, a token carries them there, sealed; a user of the mirror's stays here.
#[tokio::test]
async fn a_token_carries_a_login_for_an_upstream() {
    let (up, image) = upstream().await;
    up.require(Auth::bearer(&up).user("ann", "upstream secret"));
    let (users, ann) = (Users::new(&["alice"]), basic("ann", "upstream secret"));
    for rules in [None, Some("rule = [{ who = \"anyone\" }]")] {
        let mirror = Mirror::with(&up, |settings| {
            settings.hub("visibility", "caller");
            if let Some(rules) = rules {
                with_access(settings, &up, &users, rules);
            }
        })
        .await;
        let refused = get(&mirror, TEAM, None).await;
        assert_eq!(refused.status(), 401);
        assert!(challenge(&refused).contains("/token\",service=\"roadstead\",scope=\"repository:docker.io/team/app:pull\""));
        for scope in ["&scope=repository:docker.io/team/app:pull", "&scope=repository:team/app:pull", ""] {
            let answer = get(&mirror, &format!("/token?service=roadstead{scope}"), Some(&ann)).await;
            let token = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
            let manifest = get(&mirror, TEAM, Some(&token)).await;
            assert_eq!((manifest.status(), &*manifest.body), (200, &*image.manifest.bytes), "{rules:?} {scope}");
            assert_eq!(get(&mirror, "/v2/", Some(&token)).await.status(), 200);
        }
        let wrong = get(&mirror, "/token?service=roadstead", Some(&basic("ann", "wrong"))).await;
        assert_eq!((wrong.status(), &*wrong.error_code()), (401, "UNAUTHORIZED"), "the upstream's word");
        if rules.is_some() {
            // A user of the mirror has no login for the upstream, whatever the password; and it is not tried there.
            assert_eq!(get(&mirror, TEAM, Some(&login("alice"))).await.status(), 401);
            assert_eq!(get(&mirror, TEAM, Some(&basic("alice", "wrong"))).await.status(), 401);
            let alice = [login("alice"), basic("alice", "wrong")];
            let seen = |request: &crate::support::upstream::Request| request.header("authorization");
            assert!(up.requests().iter().filter_map(seen).all(|sent| !alice.contains(&sent)));
        }
    }
}

//! Challenges and the token endpoint.

use super::{REPOSITORY, with_image};
use crate::support::client;
use crate::support::upstream::{Auth, Upstream};

/// Asks `issuer` for a token.
async fn token(issuer: &Upstream, query: &str, headers: &[(&str, &str)]) -> String {
    let answer = client::get(issuer.address(), &format!("/token?{query}"), headers).await;
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_from_another_host_opens_one_repository() {
    let (up, image, path) = with_image().await;
    up.push_image("library/busybox", "latest", &image);
    let issuer = Upstream::start().await;
    up.require(Auth::bearer(&issuer));
    let refused = client::get(up.address(), &path, &[]).await;
    assert_eq!(refused.status(), 401);
    let challenge = refused.header("www-authenticate").unwrap();
    let realm = format!("Bearer realm=\"{}/token\",service=\"scripted\",scope=\"repository:{REPOSITORY}:pull\"", issuer.url());
    assert_eq!(challenge, realm);
    let bearer = format!("Bearer {}", token(&issuer, "scope=repository:library/alpine:pull", &[]).await);
    let headers = [("Authorization", &*bearer)];
    assert_eq!(client::get(up.address(), &path, &headers).await.status(), 200);
    let other = client::get(up.address(), &path.replace("alpine", "busybox"), &headers).await;
    assert!(other.header("www-authenticate").unwrap().ends_with("error=\"insufficient_scope\""), "{other:?}");
    issuer.with_tokens(|tokens| tokens.revoke());
    let revoked = client::get(up.address(), &path, &headers).await;
    assert!(revoked.header("www-authenticate").unwrap().ends_with("error=\"invalid_token\""), "{revoked:?}");
    assert_eq!((issuer.count("/token"), up.count("/token")), (1, 0));
}

#[tokio::test]
async fn only_the_right_user_gets_a_token_that_opens() {
    let (up, _, path) = with_image().await;
    up.require(Auth::bearer(&up).user("ann", "secret"));
    let scope = "scope=repository:library/alpine:pull";
    // ann:secret and ann:wrong
    for (basic, status) in [("YW5uOnNlY3JldA==", 200), ("YW5uOndyb25n", 401)] {
        let token = token(&up, scope, &[("Authorization", &format!("Basic {basic}"))]).await;
        let bearer = format!("Bearer {token}");
        assert_eq!(client::get(up.address(), &path, &[("Authorization", &bearer)]).await.status(), status);
    }
    let anonymous = format!("Bearer {}", token(&up, scope, &[]).await);
    assert_eq!(client::get(up.address(), &path, &[("Authorization", &anonymous)]).await.status(), 401);
}

#[tokio::test]
async fn basic_and_challenges_of_any_shape() {
    let (up, _, path) = with_image().await;
    up.require(Auth::basic("ann", "secret"));
    let refused = client::get(up.address(), &path, &[]).await;
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some("Basic realm=\"scripted\"")));
    let headers = [("Authorization", "Basic YW5uOnNlY3JldA==")];
    assert_eq!(client::get(up.address(), &path, &headers).await.status(), 200);
    up.require(Auth::bearer(&up).challenge("bearer scope={scope}, realm={realm}"));
    let refused = client::get(up.address(), &path, &[]).await;
    let expected = format!("bearer scope=repository:library/alpine:pull, realm={}/token", up.url());
    assert_eq!(refused.header("www-authenticate"), Some(&*expected));
    up.require(None);
    assert_eq!(client::get(up.address(), &path, &[]).await.status(), 200);
}

#[tokio::test]
async fn the_token_answer_has_the_fields_it_is_told() {
    let (up, ..) = with_image().await;
    up.with_tokens(|tokens| (tokens.field, tokens.expires_in) = ("access_token", None));
    let answer = client::get(up.address(), "/token?scope=a", &[]).await.json();
    assert!(answer["access_token"].is_string() && answer["token"].is_null() && answer["expires_in"].is_null(), "{answer}");
    up.with_tokens(|tokens| tokens.expires_in = Some(5));
    assert_eq!(client::get(up.address(), "/token?scope=a", &[]).await.json()["expires_in"], 5);
}

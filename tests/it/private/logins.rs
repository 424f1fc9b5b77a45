//! Signing in before anything is asked for, as `docker login` does: `/v2/` and `/token` try the login at the upstream.

use super::{Private, SECRET, basic, get_as, image};
use crate::support::client::{self, Response};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Accounts, Auth, Upstream, blob_path};

/// `docker login`: `/v2/`, the token that its challenge names, `/v2/` with that. Its last answer.
async fn docker_login(mirror: &Mirror, user: &str, password: &str) -> Response {
    let asked = mirror.get("/v2/?ns=priv.example").await;
    assert_eq!(asked.status(), 401);
    assert!(asked.header("www-authenticate").unwrap().contains("/token\",service=\"roadstead\""));
    let path = "/token?service=roadstead&account=x&client_id=docker&offline_token=true";
    let token = mirror.get_with(path, &[("Authorization", &basic(user, password))]).await;
    if token.status() != 200 {
        return token;
    }
    let bearer = format!("Bearer {}", token.json()["token"].as_str().unwrap());
    mirror.get_with("/v2/", &[("Authorization", &bearer)]).await
}

/// A mirror whose default upstream is one that callers sign in to.
async fn only(auth: impl FnOnce(&Upstream, &Accounts) -> Auth, verdict_for: &str) -> (Upstream, Mirror) {
    let (up, accounts) = (Upstream::start().await, Accounts::default());
    accounts.set("alice", "word", &["team/secret"]).set("bob", "word", &[]);
    up.require(auth(&up, &accounts));
    up.with_tokens(|tokens| tokens.accounts = Some(accounts.clone()));
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("visibility", "caller").hub("verdict_for", verdict_for).hub("hosts", vec!["priv.example"]);
        settings.add("priv.example", &up).upstream("priv.example", "visibility", "caller");
        settings.upstream("priv.example", "hosts", Vec::<String>::new());
    })
    .await;
    (up, mirror)
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_the_login_itself() {
    for basic_auth in [false, true] {
        let auth = |up: &Upstream, accounts: &Accounts| match basic_auth {
            true => Auth::basic_of(accounts),
            false => Auth::bearer(up),
        };
        let (up, mirror) = only(auth, "1h").await;
        // Whoever it knows is let in, whatever they may read there.
        for user in ["alice", "bob"] {
            let answer = docker_login(&mirror, user, "word").await;
            assert_eq!(answer.status(), 200, "{user}: {}", answer.text());
        }
        for (user, password) in [("alice", "wrong"), ("nobody", "word")] {
            let answer = docker_login(&mirror, user, password).await;
            assert_eq!((answer.status(), &*answer.error_code()), (401, "UNAUTHORIZED"), "{}", answer.text());
            assert!(answer.text().contains("did not accept the caller's login"), "{}", answer.text());
            assert!(answer.header("www-authenticate").is_some());
            // And by Basic, as podman tries it first.
            let answer = mirror.get_with("/v2/", &[("Authorization", &basic(user, password))]).await;
            assert_eq!((answer.status(), &*answer.error_code()), (401, "UNAUTHORIZED"));
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer realm="));
        }
        // A good one is remembered, as a verdict is: nobody is asked again.
        let asked = up.count("*");
        for _ in 0..3 {
            assert_eq!(docker_login(&mirror, "alice", "word").await.status(), 200);
        }
        assert_eq!(up.count("*"), asked);
        // A login is no verdict on a repository.
        let bob = [("Authorization", basic("bob", "word"))];
        let headers: Vec<_> = bob.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = mirror.get_with("/v2/team/secret/manifests/latest", &headers).await;
        assert!([403, 404].contains(&answer.status()), "{}", answer.text());
    }
}

/// An upstream that cannot be asked keeps nobody from signing in: it opens nothing.
#[tokio::test]
async fn an_outage_turns_nobody_away_at_the_door() {
    let (up, mirror) = only(|up, _| Auth::bearer(up), "1h").await;
    assert_eq!(docker_login(&mirror, "alice", "word").await.status(), 200);
    up.down().await;
    assert_eq!(docker_login(&mirror, "alice", "word").await.status(), 200);
    let unknown = docker_login(&mirror, "alice", "wrong").await;
    assert_eq!(unknown.status(), 200);
    let headers = [("Authorization", &*basic("alice", "wrong"))];
    assert_eq!(mirror.get_with("/v2/team/secret/manifests/latest", &headers).await.status(), 503);
}

/// The mirror is nobody's tool for trying passwords, here neither.
#[tokio::test]
async fn guessing_ends_at_the_door_too() {
    let (up, mirror) = only(|up, _| Auth::bearer(up), "1h").await;
    let mut told = Vec::new();
    for guess in 0..30 {
        told.push(docker_login(&mirror, "alice", &guess.to_string()).await.status());
    }
    assert_eq!(told.iter().filter(|status| **status == 401).count(), 20, "{told:?}");
    assert!(told[20..].iter().all(|status| *status == 429), "{told:?}");
    let tried = up.count("GET /token");
    assert!(tried <= 20, "{tried}");
}

/// Those who sign in for one repository are tried, too: the password is no other there.
#[tokio::test]
async fn a_token_for_a_repository_needs_a_login_that_is_one() {
    let this = Private::new(|_| {}).await;
    let path = "/token?service=roadstead&scope=repository:priv.example/team/secret:pull";
    let good = this.mirror.get_with(path, &[("Authorization", &basic("alice", "word"))]).await;
    assert_eq!(good.status(), 200, "{}", good.text());
    let wrong = this.mirror.get_with(path, &[("Authorization", &basic("alice", "wrong"))]).await;
    assert_eq!((wrong.status(), &*wrong.error_code()), (401, "UNAUTHORIZED"), "{}", wrong.text());
}

/// containerd names its registry in `ns`, and asks for a token by two scopes, sorted: its own, which names no upstream, and that
/// of the challenge. The login is for the upstream of the challenge, and shown to no other (I9), whatever the repository's name.
#[tokio::test]
async fn a_login_goes_to_the_upstream_of_the_challenge_alone() {
    for repository in ["acme/app", "zoo/app", "docker.io/team/app"] {
        let this = Private::new(|settings| {
            settings.hub("visibility", "caller");
        })
        .await;
        let secret = image(9);
        this.accounts.set("carol", "word", &[repository]);
        this.up.push_image(repository, "latest", &secret);
        let path = format!("/v2/{repository}/manifests/latest?ns=priv.example");
        let refused = this.mirror.get(&path).await;
        let challenge = refused.header("www-authenticate").unwrap();
        let told = challenge.split_once("scope=\"").unwrap().1.trim_end_matches('"');
        let mut scopes = [told.to_owned(), format!("repository:{repository}:pull")];
        scopes.sort();
        let asked = format!("/token?service=roadstead&scope={}&scope={}", scopes[0], scopes[1]);
        let wrong = this.mirror.get_with(&asked, &[("Authorization", &basic("carol", "wrong"))]).await;
        assert_eq!((wrong.status(), &*wrong.error_code()), (401, "UNAUTHORIZED"), "{repository}: {}", wrong.text());
        let token = get_as(&this.mirror, "carol", &asked).await;
        assert_eq!(token.status(), 200, "{repository}: {}", token.text());
        let bearer = format!("Bearer {}", token.json()["token"].as_str().unwrap());
        let manifest = this.mirror.get_with(&path, &[("Authorization", &bearer)]).await;
        assert_eq!((manifest.status(), &*manifest.body), (200, &*secret.manifest.bytes), "{repository}: {}", manifest.text());
        assert_eq!(this.hub.count("*"), 0, "{repository}: docker.io was shown the login");
    }
}

/// What a registry says after another one has taken its place is an answer to whoever had asked it, and nothing more.
#[tokio::test]
async fn a_late_yes_of_a_registry_that_was_replaced_is_not_remembered() {
    let mut this = Private::warm(|_| {}).await;
    let (new, accounts, layer) = (Upstream::start().await, Accounts::default(), &this.secret.layers[0]);
    accounts.set("bob", "word", &[]);
    new.require(Auth::bearer(&new));
    new.with_tokens(|tokens| tokens.accounts = Some(accounts));
    new.push_image("team/secret", "latest", &this.secret);
    let gate = this.up.gate_head(&format!("GET {}", blob_path("team/secret", layer)));
    let (address, path) = (this.mirror.address(), blob_path(SECRET, layer));
    let waiting = tokio::spawn({
        let path = path.clone();
        async move { client::get(address, &path, &[("Authorization", &basic("bob", "word"))]).await }
    });
    gate.arrived(1).await;
    this.mirror
        .reload(|settings| {
            settings.add("priv.example", &new);
        })
        .await
        .unwrap();
    gate.open();
    waiting.await.unwrap().assert_is(layer);
    let answer = get_as(&this.mirror, "bob", &path).await;
    assert!([401, 403].contains(&answer.status()), "{} {}", answer.status(), answer.text());
}

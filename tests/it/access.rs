//! Who may pull what: every status and challenge, tokens, passwords, limits, and changes while the mirror runs.

mod limits;
mod reload;
mod tokens;
mod waiting;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::client::Response;
use crate::support::image::{Builder, Image};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Upstream, blob_path, manifest_path};

/// Rules in which each caller has a part of their own. `docker.io` is the scripted upstream, and so is `ghcr.io`.
const RULES: &str = r#"
rule = [
  { who = "user:eve", deny = true },
  { who = "user:alice", pull = ["docker.io/team/**"] },
  { who = "signed-in", pull = "ghcr.io/shared/*" },
  { who = "anyone", pull = "docker.io/library/*" },
]"#;

/// Rules that leave nothing to callers without a name.
const CLOSED: &str = r#"rule = [{ who = ["user:alice"] }]"#;

const PUBLIC: &str = "/v2/library/alpine/manifests/latest";
const TEAM: &str = "/v2/team/app/manifests/latest";
const SHARED: &str = "/v2/ghcr.io/shared/app/manifests/latest";

/// A password file: each user's password is `secret of USER`.
struct Users(TempDir);

impl Users {
    fn new(names: &[&str]) -> Self {
        let users = Self(TempDir::new().unwrap());
        users.write(&users_of(names));
        users
    }

    fn path(&self) -> String {
        self.0.path().join("htpasswd").display().to_string()
    }

    fn write(&self, text: &str) {
        let fresh = self.0.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.path()).unwrap();
    }
}

fn users_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}:{}\n", bcrypt::hash(format!("secret of {name}"), 4).unwrap())).collect()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn login(user: &str) -> String {
    basic(user, &format!("secret of {user}"))
}

/// An upstream with an image in three repositories.
async fn upstream() -> (Upstream, Image) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    for repository in ["library/alpine", "team/app", "shared/app"] {
        up.push_image(repository, "latest", &image);
    }
    (up, image)
}

/// Adds `[access]` to a configuration.
fn with_access(settings: &mut Settings, up: &Upstream, users: &Users, text: &str) {
    settings.add("ghcr.io", up);
    settings.set("access", "htpasswd", users.path());
    for (key, value) in text.parse::<toml::Table>().unwrap() {
        settings.set("access", &key, value);
    }
}

/// A mirror with three users and these rules.
async fn mirror(up: &Upstream, text: &str) -> (Mirror, Users) {
    let users = Users::new(&["alice", "bob", "eve"]);
    let mirror = Mirror::with(up, |settings| with_access(settings, up, &users, text)).await;
    (mirror, users)
}

/// `GET`, as somebody or nobody.
async fn get(mirror: &Mirror, path: &str, authorization: Option<&str>) -> Response {
    let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
    mirror.get_with(path, &headers).await
}

/// A token of `/token`.
async fn token(mirror: &Mirror, authorization: Option<&str>) -> String {
    let answer = get(mirror, "/token?service=roadstead&scope=repository:library/alpine:pull", authorization).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    format!("Bearer {}", answer.json()["token"].as_str().unwrap())
}

fn challenge(answer: &Response) -> String {
    answer.header("www-authenticate").unwrap_or_else(|| panic!("no challenge: {:?}", answer.head)).to_owned()
}

#[tokio::test]
async fn each_caller_has_its_answer() {
    let (up, _) = upstream().await;
    let (mirror, _users) = mirror(&up, RULES).await;
    let (alice, bob, eve) = (login("alice"), login("bob"), login("eve"));
    let missing = "/v2/team/none/manifests/latest";
    for (path, who, status, code) in [
        (PUBLIC, None, 200, ""),
        (PUBLIC, Some(&alice), 200, ""),
        (PUBLIC, Some(&eve), 403, "DENIED"),
        (TEAM, None, 401, "UNAUTHORIZED"),
        (TEAM, Some(&alice), 200, ""),
        (TEAM, Some(&bob), 403, "DENIED"),
        (TEAM, Some(&eve), 403, "DENIED"),
        (SHARED, None, 401, "UNAUTHORIZED"),
        (SHARED, Some(&alice), 200, ""),
        (SHARED, Some(&bob), 200, ""),
        (SHARED, Some(&eve), 403, "DENIED"),
        ("/v2/ghcr.io/other/app/manifests/latest", None, 403, "DENIED"),
        (missing, None, 401, "UNAUTHORIZED"),
        (missing, Some(&bob), 403, "DENIED"),
        (missing, Some(&alice), 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/tags/list", Some(&bob), 403, "DENIED"),
        ("/v2/team/app/tags/list", Some(&alice), 200, ""),
    ] {
        let answer = get(&mirror, path, who.map(String::as_str)).await;
        assert_eq!(answer.status(), status, "{path} {who:?}: {}", answer.text());
        if status != 200 {
            assert_eq!(answer.error_code(), code);
        }
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{path}");
        let head = match who {
            Some(who) => crate::support::client::head(mirror.address(), path, &[("Authorization", who)]).await,
            None => mirror.head(path).await,
        };
        assert_eq!((head.status(), head.body.len()), (status, 0), "HEAD {path}");
    }
}

/// A refusal is the same whether there is such a thing, whether it is cached, and whether it was ever asked for.
#[tokio::test]
async fn a_refusal_says_nothing_of_what_there_is() {
    let (up, image) = upstream().await;
    let (mirror, _users) = mirror(&up, RULES).await;
    let told = |answer: Response, name: &str| {
        let headers =
            answer.head.headers.iter().filter(|(name, _)| name != "x-request-id" && name != "date" && name != "content-length");
        let text = format!("{} {:?} {}", answer.status(), headers.collect::<Vec<_>>(), answer.text());
        text.replace(name, "NAME")
    };
    for who in [None, Some(login("bob"))] {
        let cold = told(get(&mirror, TEAM, who.as_deref()).await, "team/app");
        let missing = told(get(&mirror, "/v2/team/none/manifests/latest", who.as_deref()).await, "team/none");
        let asked = up.count("* /v2/team/*");
        assert_eq!(get(&mirror, TEAM, Some(&login("alice"))).await.status(), 200);
        let blob = get(&mirror, &blob_path("team/app", &image.config), Some(&login("alice"))).await;
        assert_eq!(blob.status(), 200);
        let warm = told(get(&mirror, TEAM, who.as_deref()).await, "team/app");
        let cached_blob = get(&mirror, &blob_path("team/app", &image.config), who.as_deref()).await;
        assert_eq!(cached_blob.status(), if who.is_some() { 403 } else { 401 });
        assert_eq!((cold.as_str(), cold.as_str()), (missing.as_str(), warm.as_str()));
        assert!(who.is_some() || asked == 0, "nobody asked the upstream for it");
    }
}

#[tokio::test]
async fn the_base_asks_only_those_to_sign_in_who_have_nothing_else() {
    let (up, _) = upstream().await;
    let (alice, wrong) = (login("alice"), basic("alice", "wrong"));
    let (open, _users) = mirror(&up, RULES).await;
    let (closed, _users2) = mirror(&up, CLOSED).await;
    let (asking, _users3) = mirror(&up, &format!("challenge_everybody = true\n{RULES}")).await;
    for (name, mirror, who, status) in [
        ("open", &open, None, 200),
        ("open", &open, Some(&alice), 200),
        ("open", &open, Some(&wrong), 401),
        ("closed", &closed, None, 401),
        ("closed", &closed, Some(&alice), 200),
        ("closed", &closed, Some(&login("bob")), 200),
        ("closed", &closed, Some(&wrong), 401),
        // podman's way of having none
        ("closed", &closed, Some(&basic("", "")), 401),
        ("open", &open, Some(&basic("", "")), 200),
        ("asking", &asking, None, 401),
        ("asking", &asking, Some(&alice), 200),
    ] {
        let answer = get(mirror, "/v2/", who.map(String::as_str)).await;
        assert_eq!(answer.status(), status, "{name} {who:?}");
        if status == 401 {
            assert_eq!(answer.error_code(), "UNAUTHORIZED");
            let realm = format!("http://{}/token", mirror.address());
            assert_eq!(challenge(&answer), format!("Bearer realm=\"{realm}\",service=\"roadstead\""), "{name}");
        }
    }
    // A token without a name is enough where everybody is asked: that is how Docker Hub does it.
    let anonymous = token(&asking, None).await;
    assert_eq!(get(&asking, "/v2/", Some(&anonymous)).await.status(), 200);
    assert_eq!(get(&asking, PUBLIC, Some(&anonymous)).await.status(), 200);
    // Who is nobody is not told which upstreams there are.
    for path in ["/v2/x/manifests/y?ns=no.example", "/v2/x/manifests/y?ns=ghcr.io", "/v2/_catalog", "/v2/A/manifests/y"] {
        assert_eq!(get(&closed, path, None).await.status(), 401, "{path}");
    }
    assert_eq!(get(&closed, "/v2/x/manifests/y?ns=no.example", Some(&alice)).await.error_code(), "NAME_UNKNOWN");
}

/// A pull of twenty layers by password is one check, and no password reaches the upstream.
#[tokio::test]
async fn a_pull_by_password_costs_one_check() {
    let (up, _) = upstream().await;
    let image = (0..20).fold(Builder::new(9), |image, number| image.layer(1000 + number)).build();
    up.push_image("team/large", "latest", &image);
    let (mirror, _users) = mirror(&up, RULES).await;
    let alice = login("alice");
    assert_eq!(get(&mirror, &manifest_path("team/large", "latest"), Some(&alice)).await.status(), 200);
    for blob in image.blobs() {
        get(&mirror, &blob_path("team/large", blob), Some(&alice)).await.assert_is(blob);
    }
    assert!(image.blobs().count() > 20);
    assert_eq!(mirror.metric("roadstead_password_checks_total", &[]).await, 1.0);
    assert!(up.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// The file is read again when it changes; a bad one is not used; tokens of an old password end with it.
#[tokio::test]
async fn users_come_and_go_while_the_mirror_runs() {
    let (up, _) = upstream().await;
    let (mirror, users) = mirror(&up, CLOSED.replace("user:alice", "signed-in").as_str()).await;
    let (alices, bobs) = (token(&mirror, Some(&login("alice"))).await, token(&mirror, Some(&login("bob"))).await);
    let becomes = async |who: &str, status: u16| {
        crate::support::within("the file to be read again", async {
            while get(&mirror, TEAM, Some(who)).await.status() != status {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
    };
    users.write("bob:plain text\n");
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(get(&mirror, TEAM, Some(&login("alice"))).await.status(), 200, "the old one holds");
    // bob is out, alice has another password, dave is new.
    let alice = format!("alice:{}\n", bcrypt::hash("another", 4).unwrap());
    users.write(&format!("{alice}{}", users_of(&["dave"])));
    // Looked for by a token: wrong passwords are counted against the address.
    becomes(&alices, 401).await;
    assert_eq!(get(&mirror, TEAM, Some(&login("dave"))).await.status(), 200);
    assert_eq!(get(&mirror, TEAM, Some(&basic("alice", "another"))).await.status(), 200);
    for ended in [login("alice"), login("bob"), alices, bobs] {
        assert_eq!(get(&mirror, TEAM, Some(&ended)).await.status(), 401, "{ended}");
    }
}

/// The rules of a new configuration hold for the next request; what would open the mirror is not taken.
#[tokio::test]
async fn rules_change_while_the_mirror_runs() {
    let (up, _) = upstream().await;
    let (mut mirror, users) = mirror(&up, RULES).await;
    let bearer = token(&mirror, Some(&login("bob"))).await;
    assert_eq!(get(&mirror, TEAM, Some(&bearer)).await.status(), 403);
    mirror.reload(|settings| with_access(settings, &up, &users, "rule = [{ who = \"user:bob\" }]")).await.unwrap();
    assert_eq!(get(&mirror, TEAM, Some(&bearer)).await.status(), 200, "tokens outlive a reload");
    assert_eq!(get(&mirror, PUBLIC, None).await.status(), 401);
    mirror
        .reload(|settings| {
            with_access(settings, &up, &users, "rule = [{ who = \"user:bob\" }]");
            settings.hub("deny", "team/**");
        })
        .await
        .unwrap();
    assert_eq!(get(&mirror, TEAM, Some(&bearer)).await.status(), 403, "deny of an upstream is a rule, too");
    assert_eq!(get(&mirror, PUBLIC, Some(&bearer)).await.status(), 200);
}

/// Every request is counted once, whoever sent it, and refusals by their reason (I12).
#[tokio::test]
async fn refusals_are_counted() {
    let (up, _) = upstream().await;
    let (mirror, _users) = mirror(&up, RULES).await;
    let (wrong, bob) = (basic("alice", "wrong"), login("bob"));
    for who in [None, Some(wrong.as_str()), Some(&bob), Some("Bearer x")] {
        get(&mirror, TEAM, who).await;
    }
    get(&mirror, "/token", Some(&wrong)).await;
    mirror.metric_becomes("roadstead_requests_total", &[], 5.0).await;
    mirror.metric_becomes("roadstead_requests_total", &[("result", "denied")], 5.0).await;
    for (reason, count) in [("sign_in", 1.0), ("wrong_password", 2.0), ("denied", 1.0), ("bad_token", 1.0)] {
        assert_eq!(mirror.metric("roadstead_access_refusals_total", &[("reason", reason)]).await, count, "{reason}");
    }
}

//! Private content stays private: what a second user gets who knows every name and every digest.
//!
//! `priv.example` is a registry with a token service and rights for each user; `docker.io` is another one, open to all.

mod bundles;
mod logins;
mod outages;
mod portals;
mod several;
mod shared;
mod tenants;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::{self, Response};
use crate::support::image::{Blob, Builder, Image, Index};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Accounts, Act, Auth, Upstream, blob_path, manifest_path};

const SECRET: &str = "priv.example/team/secret";

/// The value of an `Authorization` header.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn get_as(mirror: &Mirror, user: &str, path: &str) -> Response {
    mirror.get_with(path, &[("Authorization", &basic(user, "word"))]).await
}

/// An image with a large layer, a config and a manifest that nothing else has.
fn image(seed: u64) -> Image {
    Builder::new(seed).layer(300_000).layer(2_000).build()
}

struct Private {
    up: Upstream,
    hub: Upstream,
    accounts: Accounts,
    mirror: Mirror,
    /// `team/secret:latest`, which alice and bob may read.
    secret: Image,
    /// A signature of it.
    signature: Image,
}

impl Private {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let (up, hub, accounts) = (Upstream::start().await, Upstream::start().await, Accounts::default());
        accounts.set("alice", "word", &["team/secret", "team/cold"]).set("bob", "word", &["team/secret"]);
        accounts.set("mallory", "word", &["team/other"]);
        up.require(Auth::bearer(&up));
        up.with_tokens(|tokens| tokens.accounts = Some(accounts.clone()));
        up.referrers(10);
        let secret = image(1);
        let signature = Builder::new(2).layer(500).artifact("application/vnd.example.signature", &secret.manifest).build();
        up.push_image("team/secret", "latest", &secret);
        up.push_untagged("team/secret", &signature);
        let cold = image(3);
        up.push_image("team/cold", "latest", &cold);
        up.push_image("team/other", "latest", &image(4));
        hub.push_image("library/base", "latest", &image(5));
        let mirror = Mirror::with(&hub, |settings| {
            settings.add("priv.example", &up).upstream("priv.example", "visibility", "caller");
            settings.upstream("priv.example", "verdict_for", "1h");
            change(settings);
        })
        .await;
        Self { up, hub, accounts, mirror, secret, signature }
    }

    /// All of `team/secret` is cached, by alice.
    async fn warm(change: impl FnOnce(&mut Settings)) -> Self {
        let this = Self::new(change).await;
        this.pull_as("alice").await;
        this
    }

    async fn pull_as(&self, user: &str) {
        let manifest = get_as(&self.mirror, user, &manifest_path(SECRET, "latest")).await;
        assert_eq!((manifest.status(), &*manifest.body), (200, &*self.secret.manifest.bytes), "{}", manifest.text());
        for blob in self.secret.blobs() {
            get_as(&self.mirror, user, &blob_path(SECRET, blob)).await.assert_is(blob);
        }
        let signature = get_as(&self.mirror, user, &manifest_path(SECRET, self.signature.manifest.digest)).await;
        assert_eq!(&*signature.body, &*self.signature.manifest.bytes);
        let list = get_as(&self.mirror, user, &referrers(SECRET, &self.secret.manifest)).await;
        assert!(list.text().contains(&self.signature.manifest.digest.to_string()), "{}", list.text());
    }
}

fn referrers(repository: &str, subject: &Blob) -> String {
    format!("/v2/{repository}/referrers/{}", subject.digest)
}

/// Method, path and further headers.
type Form = (&'static str, String, Vec<(&'static str, String)>);

/// Every form of request there is for an image.
fn forms(repository: &str, image: &Image) -> Vec<Form> {
    let (manifest, layer) = (image.manifest.digest, &image.layers[0]);
    let (tag, digest) = (manifest_path(repository, "latest"), manifest_path(repository, manifest));
    let blob = blob_path(repository, layer);
    let unchanged = |digest| vec![("If-None-Match", format!("\"{digest}\""))];
    vec![
        ("GET", tag.clone(), vec![]),
        ("HEAD", tag.clone(), vec![]),
        ("GET", tag.clone(), vec![("Cache-Control", "no-cache".to_owned())]),
        ("GET", tag, unchanged(manifest)),
        ("GET", digest.clone(), vec![]),
        ("HEAD", digest.clone(), vec![]),
        ("GET", digest, unchanged(manifest)),
        ("GET", blob.clone(), vec![]),
        ("HEAD", blob.clone(), vec![]),
        ("GET", blob.clone(), unchanged(layer.digest)),
        ("GET", blob.clone(), vec![("Range", "bytes=0-99".to_owned())]),
        ("GET", blob, vec![("Range", "bytes=5-9,100-199".to_owned())]),
        ("GET", blob_path(repository, &image.config), vec![]),
        ("GET", format!("/v2/{repository}/tags/list"), vec![]),
        ("GET", referrers(repository, &image.manifest), vec![]),
    ]
}

async fn ask(mirror: &Mirror, authorization: &str, form: &(&str, String, Vec<(&str, String)>)) -> Response {
    let (method, path, headers) = form;
    let mut all = vec![("Authorization", authorization)];
    all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
    match *method {
        "HEAD" => client::head(mirror.address(), path, &all).await,
        _ => client::get(mirror.address(), path, &all).await,
    }
}

/// An answer without what has to differ: names, digests, ids.
fn essence(answer: &Response, repository: &str, image: &Image) -> (u16, Vec<(String, String)>, String) {
    let plain = |text: &str| {
        let text = text.replace(repository, "REPOSITORY").replace(repository.trim_start_matches("priv.example/"), "NAME");
        let digests = image.blobs().chain([&image.manifest]);
        digests.fold(text, |text, blob| text.replace(&blob.digest.to_string(), "DIGEST"))
    };
    let changing = ["x-request-id", "date", "content-length", "retry-after"];
    let headers = answer.head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), plain(value)));
    (answer.status(), headers.filter(|(name, _)| !changing.contains(&name.as_str())).collect(), plain(&answer.text()))
}

fn assert_nothing_of(answer: &Response, image: &Image, what: &str) {
    assert!(answer.status() >= 400, "{what}: {:?}", answer.head);
    let text = answer.text();
    assert!(!text.contains("signature") && answer.body.len() < 2_000, "{what}: {text}");
    for blob in image.blobs().chain([&image.manifest]) {
        let piece = &blob.bytes[..blob.bytes.len().min(64)];
        assert!(!answer.body.windows(piece.len()).any(|window| window == piece), "{what}");
    }
}

/// Somebody who may not read it gets, for what is cached, what they get for what is not: not one byte, no hint.
#[tokio::test]
async fn a_second_user_cannot_tell_what_is_cached() {
    let this = Private::warm(|_| {}).await;
    let cold = image(3);
    for addressed in ["path", "ns"] {
        for ((form, other), n) in forms(SECRET, &this.secret).iter().zip(forms("priv.example/team/cold", &cold)).zip(0..) {
            let by_ns = |(method, path, headers): &(&'static str, String, Vec<_>)| match addressed {
                "ns" => (*method, path.replace("/v2/priv.example/", "/v2/") + "?ns=priv.example", headers.clone()),
                _ => (*method, path.clone(), headers.clone()),
            };
            let (form, other) = (by_ns(form), by_ns(&other));
            let mallory = basic("mallory", "word");
            let answer = ask(&this.mirror, &mallory, &form).await;
            let what = format!("{addressed} {n} {} {}", form.0, form.1);
            assert_nothing_of(&answer, &this.secret, &what);
            assert_eq!(answer.status(), 403, "{what}: {}", answer.text());
            let hidden = ask(&this.mirror, &mallory, &other).await;
            assert_eq!(essence(&answer, SECRET, &this.secret), essence(&hidden, "priv.example/team/cold", &cold), "{what}");
        }
    }
    // With a wrong password, with nobody's, and with none.
    for (n, form) in forms(SECRET, &this.secret).iter().enumerate() {
        for login in [basic("alice", "wrong"), basic("nobody", "word")] {
            let answer = ask(&this.mirror, &login, form).await;
            assert_nothing_of(&answer, &this.secret, &format!("{n} {login}"));
            assert_eq!(answer.status(), 401, "{n} {login}: {}", answer.text());
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer realm="), "{n}");
        }
        for none in ["Bearer scripted-token-1", &basic("", "")] {
            let answer = ask(&this.mirror, none, form).await;
            assert_nothing_of(&answer, &this.secret, &format!("{n} {none}"));
            assert_eq!(answer.status(), 401, "{n} {none}");
        }
    }
    // And whoever may is served from the cache, with the one question that has to be asked.
    let (before, blobs) = (this.up.count("*"), this.up.count("GET /v2/team/secret/blobs/*"));
    this.pull_as("bob").await;
    let asked = this.up.count("*") - before;
    assert!(asked <= 4, "a token and a HEAD for each verdict, not more: {asked}");
    assert_eq!(this.up.count("GET /v2/team/secret/blobs/*"), blobs);
}

/// The digest opens nothing under another repository, of the same upstream or another one.
#[tokio::test]
async fn a_digest_opens_nothing_elsewhere() {
    let this = Private::warm(|settings| {
        settings.upstream("docker.io", "verdict_for", "1h");
    })
    .await;
    // A manifest on the public registry that names the secret layer, which that registry does not have.
    this.hub.push_manifest("evil/image", &this.secret.manifest);
    this.hub.tag("evil/image", "latest", &this.secret.manifest.digest);
    let mallory = basic("mallory", "word");
    let all = this.secret.blobs().chain([&this.secret.manifest]);
    for blob in all {
        for repository in ["priv.example/team/other", "library/base", "library/unknown"] {
            for path in [blob_path(repository, blob), manifest_path(repository, blob.digest)] {
                for method in ["GET", "HEAD"] {
                    let answer = ask(&this.mirror, &mallory, &(method, path.clone(), vec![])).await;
                    assert_nothing_of(&answer, &this.secret, &path);
                    assert_eq!(answer.status(), 404, "{method} {path}: {}", answer.text());
                }
                let ranged = ask(&this.mirror, &mallory, &("GET", path.clone(), vec![("Range", "bytes=0-9".into())])).await;
                assert_eq!(ranged.status(), 404, "{path}");
            }
        }
    }
    // It says that it has the manifest, and it has; but not the blobs.
    assert_eq!(this.mirror.get(&manifest_path("evil/image", "latest")).await.status(), 200);
    for blob in this.secret.blobs() {
        let answer = this.mirror.get(&blob_path("evil/image", blob)).await;
        assert_nothing_of(&answer, &this.secret, "evil/image");
        assert_eq!(answer.status(), 404);
    }
    // The same after a restart, when only the disk knows what came from whom.
    let mirror = this.mirror.restart().await;
    for blob in this.secret.blobs() {
        for repository in ["evil/image", "library/base", "priv.example/team/other"] {
            let answer = get_as(&mirror, "mallory", &blob_path(repository, blob)).await;
            assert_nothing_of(&answer, &this.secret, repository);
            assert_eq!(answer.status(), 404, "{repository}");
        }
        get_as(&mirror, "alice", &blob_path(SECRET, blob)).await.assert_is(blob);
    }
    assert_eq!(get_as(&mirror, "mallory", &manifest_path(SECRET, "latest")).await.status(), 403);
}

/// A download that somebody else began is joined only by who may (I3: it stays one).
#[tokio::test]
async fn i3_a_running_fill_is_joined_by_who_may() {
    let this = Private::new(|_| {}).await;
    let layer = &this.secret.layers[0];
    let path = blob_path(SECRET, layer);
    assert_eq!(get_as(&this.mirror, "alice", &manifest_path(SECRET, "latest")).await.status(), 200);
    let gate = this.up.gate(&format!("GET {}", blob_path("team/secret", layer)));
    let alice = basic("alice", "word");
    let mut first = client::open(this.mirror.address(), &path, &[("Authorization", &alice)]).await;
    gate.pass(150_000);
    assert_eq!(first.read(50_000).await, &layer.bytes[..50_000]);
    for repository in [SECRET, "priv.example/team/other", "library/base"] {
        let refused = get_as(&this.mirror, "mallory", &blob_path(repository, layer)).await;
        assert_nothing_of(&refused, &this.secret, repository);
    }
    let bob = basic("bob", "word");
    // His own right is seen by another thing, since the gate holds this blob.
    assert_eq!(get_as(&this.mirror, "bob", &manifest_path(SECRET, "latest")).await.status(), 200);
    let mut second = client::open(this.mirror.address(), &path, &[("Authorization", &bob)]).await;
    assert_eq!(second.read(50_000).await, &layer.bytes[..50_000]);
    // What began the download is not needed for its end.
    this.accounts.remove("bob");
    gate.open();
    assert_eq!(first.rest().await.body.len(), 250_000);
    assert_eq!(second.rest().await.body.len(), 250_000);
    let whole = this.up.requests().into_iter().filter(|request| {
        request.path == blob_path("team/secret", layer)
            && request.header("range").is_none()
            && request.header("authorization").is_some()
    });
    assert_eq!(whole.count(), 1);
}

/// Each caller's check is their own: of two, the one that asked later says what the tag is, whichever lands last.
#[tokio::test]
async fn an_older_check_does_not_undo_a_newer_one() {
    let this = Private::warm(|settings| {
        settings.set("freshness", "fresh_for", "1h").set("freshness", "revalidate_within", "20s");
        settings.set("freshness", "no_cache", true);
    })
    .await;
    let (tag, older, newer) = (manifest_path(SECRET, "latest"), image(6), image(7));
    let check = async |user: &str| {
        let login = basic(user, "word");
        this.mirror.get_with(&tag, &[("Authorization", login.as_str()), ("Cache-Control", "no-cache")]).await
    };
    this.up.push_image("team/secret", "latest", &older);
    let gate = this.up.gate_head(&format!("GET {}", manifest_path("team/secret", older.manifest.digest)));
    let (alice, bob) = tokio::join!(check("alice"), async {
        gate.arrived(1).await;
        this.up.push_image("team/secret", "latest", &newer);
        let bob = check("bob").await;
        gate.open();
        bob
    });
    for (answer, image) in [(&alice, &older), (&bob, &newer)] {
        assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{}", answer.text());
    }
    let fresh = get_as(&this.mirror, "alice", &tag).await;
    assert_eq!(fresh.header("cache-status"), Some("roadstead; hit; detail=memory"));
    assert_eq!(fresh.body, newer.manifest.bytes);
}

/// Nobody's misses are fetched with anybody else's login, and the mirror keeps to the question that was asked.
#[tokio::test]
async fn misses_are_fetched_with_the_login_of_who_misses() {
    let accounts = Accounts::default();
    accounts.set("alice", "word", &["team/app"]).set("bob", "word", &["team/app"]);
    let up = Upstream::start().await;
    up.require(Auth::basic_of(&accounts));
    let app = image(1);
    up.push_image("team/app", "latest", &app);
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("visibility", "caller").hub("verdict_for", "1h");
        let operator: toml::Table = "username = \"operator\"\npassword = \"word\"".parse().unwrap();
        settings.hub("credentials", operator);
    })
    .await;
    assert_eq!(get_as(&mirror, "alice", &manifest_path("team/app", "latest")).await.status(), 200);
    get_as(&mirror, "bob", &blob_path("team/app", &app.layers[0])).await.assert_is(&app.layers[0]);
    assert_eq!(get_as(&mirror, "bob", "/v2/team/app/tags/list").await.status(), 200);
    let by = |user: &str, path: &str| {
        let login = basic(user, "word");
        up.requests().iter().filter(|r| r.header("authorization").as_deref() == Some(&*login) && r.path.contains(path)).count()
    };
    assert_eq!(by("operator", ""), 0, "the operator's own credentials are nobody's");
    assert_eq!((by("alice", "/blobs/"), by("alice", "/tags/")), (0, 0));
    assert!(by("bob", "/blobs/") > 0 && by("bob", "/tags/") == 1);
    // Without a login the upstream is not asked at all.
    let before = up.count("*");
    assert_eq!(mirror.get(&manifest_path("team/app", "latest")).await.status(), 401);
    for path in ["/v2/", "/docker.io/v2/"] {
        let ping = mirror.get(path).await;
        assert_eq!((ping.status(), ping.error_code()), (401, "UNAUTHORIZED".into()));
        let challenge = ping.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer realm=\"http://") && challenge.contains("/token\""), "{challenge}");
        assert_eq!(get_as(&mirror, "alice", path).await.status(), 200);
    }
    // The login can also be changed for a token of the mirror's own, in which it is sealed.
    let issued = get_as(&mirror, "alice", "/token?service=roadstead&scope=repository:team/app:pull").await;
    let token = format!("Bearer {}", issued.json()["token"].as_str().unwrap());
    let by_token = mirror.get_with(&manifest_path("team/app", "latest"), &[("Authorization", &token)]).await;
    assert_eq!((by_token.status(), &*by_token.body), (200, &*app.manifest.bytes), "{}", by_token.text());
    assert_eq!(mirror.get("/quay.io/v2/").await.status(), 200, "an upstream that is everybody's asks for nothing");
    assert_eq!(up.count("*"), before + 2, "whether the login is one: `/v2/` without it and with it, once");
}

/// The mirror is nobody's tool for trying passwords; who is in stays in.
#[tokio::test]
async fn passwords_are_not_tried_for_ever() {
    let this = Private::warm(|_| {}).await;
    let before = this.up.count("GET /token");
    let mut limited = 0;
    for n in 0..40 {
        let wrong = basic("alice", &format!("guess-{n}"));
        let form = if n % 2 == 0 { manifest_path(SECRET, "latest") } else { format!("/v2/{SECRET}/tags/list") };
        let answer = this.mirror.get_with(&form, &[("Authorization", &wrong)]).await;
        assert_nothing_of(&answer, &this.secret, &form);
        match answer.status() {
            429 => {
                limited += 1;
                assert!(answer.header("retry-after").is_some());
            }
            status => assert_eq!(status, 401, "{}", answer.text()),
        }
    }
    assert_eq!(limited, 20);
    assert!(this.up.count("GET /token") - before <= 20);
    this.pull_as("alice").await;
    // Other counters speak of passwords.
    let text = this.mirror.admin("/metrics").await.text().to_lowercase().replace("password", "");
    for name in ["secret", "team", "alice", "word"] {
        assert!(!text.contains(name), "{name} is in a metric");
    }
    this.mirror.metric_becomes("roadstead_verdicts_total", &[("upstream", "priv.example"), ("verdict", "yes")], 1.0).await;
}

/// Some registries say 404 to who may not: then so does the mirror, of everything, and what it was told for one is not
/// what it tells another.
#[tokio::test]
async fn what_is_hidden_stays_hidden_and_absences_are_nobody_elses() {
    let this = Private::new(|settings| {
        settings.set("freshness", "negative", "1h");
    })
    .await;
    this.up.require(Auth::bearer(&this.up).hiding());
    // No referrers API: the list is the tag that stands in for it.
    this.up.on("/v2/*/referrers/*").always(Act::status(404));
    let hex = this.secret.manifest.digest.hex();
    let fallback = Index::oci(vec![this.signature.clone()]);
    this.up.push_index("team/secret", &format!("sha256-{hex}"), &fallback);
    let empty = |answer: &Response| answer.status() == 200 && answer.json()["manifests"].as_array().is_some_and(Vec::is_empty);
    // Mallory first, so that what she is told is remembered before anybody else asks.
    for round in 0..2 {
        for (n, form) in forms(SECRET, &this.secret).iter().enumerate() {
            let answer = ask(&this.mirror, &basic("mallory", "word"), form).await;
            if form.1.contains("/referrers/") {
                assert!(empty(&answer), "{round} {n}: {}", answer.text());
                continue;
            }
            assert_nothing_of(&answer, &this.secret, &format!("{round} {n} {}", form.1));
            assert_eq!(answer.status(), 404, "{round} {n} {}", form.1);
        }
        this.pull_as("alice").await;
    }
}

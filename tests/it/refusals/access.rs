//! What the rules of access refuse.

use base64::Engine as _;

use super::{REPOSITORY, Site, TAG};
use crate::support::client::{self, Connection, Response};
use crate::support::image::Blob;
use crate::support::join_all;
use crate::support::upstream::{Act, blob_path};

/// Does what a row speaks of, at a mirror with one user, ann.
pub async fn refused(class: &str) -> Response {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    // Where checks are to pile up, each takes a while.
    let cost = if class == "passwords-busy" { 11 } else { 4 };
    std::fs::write(&users, format!("ann:{}\n", bcrypt::hash("right", cost).unwrap())).unwrap();
    let rules = match class {
        "forbidden" => toml::toml! { rule = [{ who = "user:bob" }] },
        "nothing" => toml::toml! { rule = [{ who = "address:192.0.2.1" }] },
        "pace" => toml::toml! { requests_per_second = 1 burst = 1 rule = [{ who = "anyone" }] },
        _ => toml::toml! { rule = [{ who = "user:ann" }] },
    };
    let site = Site::with(|settings| {
        if class != "nothing" {
            settings.set("access", "htpasswd", users.display().to_string());
        }
        for (key, value) in rules {
            settings.set("access", &key, value);
        }
    })
    .await;
    let login = |password: &str| {
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
        format!("Basic {login}")
    };
    let as_ann = async |password: &str| site.mirror.get_with(TAG, &[("Authorization", &login(password))]).await;
    let answer = match class {
        "sign-in" => site.mirror.get(TAG).await,
        "nothing" => site.mirror.get("/v2/").await,
        "wrong-password" => as_ann("wrong").await,
        "bad-token" => site.mirror.get_with(TAG, &[("Authorization", "Bearer x")]).await,
        "forbidden" => as_ann("right").await,
        "guessing" => {
            for guess in 0..10 {
                as_ann(&guess.to_string()).await;
            }
            as_ann("right").await
        }
        "passwords-busy" => {
            let mut asked = tokio::task::JoinSet::new();
            for guess in 0..150 {
                let (address, login) = (site.mirror.address(), login(&guess.to_string()));
                asked.spawn(async move { client::get(address, TAG, &[("Authorization", &login)]).await });
            }
            // Those who wait are left there: each check takes its time.
            loop {
                let answer = asked.join_next().await.expect("more than may wait").unwrap();
                if answer.text().contains("are being checked") {
                    break answer;
                }
            }
        }
        _ => {
            let answers = join_all((0..50).map(|_| site.mirror.get(TAG))).await;
            answers.into_iter().find(|answer| answer.status() != 200).expect("more than one a second")
        }
    };
    assert_eq!(answer.header("www-authenticate").is_some(), answer.status() == 401, "{class}");
    assert_eq!(answer.header("retry-after").is_some(), answer.status() == 429, "{class}");
    answer
}

/// Two downloads where one may be begun.
pub async fn fills() -> Response {
    let site = Site::with(|settings| {
        settings.set("access", "max_fills_per_client", 1);
    })
    .await;
    site.up.on("*").always(Act::hang());
    let paths: Vec<_> = (0..2).map(|number| blob_path(REPOSITORY, &Blob::random(number, 10))).collect();
    // One of them waits for the upstream, the other for its turn, which does not come.
    tokio::select! {
        one = site.mirror.get(&paths[0]) => one,
        other = site.mirror.get(&paths[1]) => other,
    }
}

/// A form to `/token`.
pub async fn form(form: &str) -> Response {
    let site = Site::with(|_| {}).await;
    let mut connection = Connection::open(site.mirror.address()).await;
    connection
        .send_raw(format!("POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{form}", form.len()).as_bytes())
        .await;
    connection.answer("POST").await.expect("an answer").rest().await
}

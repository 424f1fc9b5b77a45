//! What one identity may ask: requests a second, guesses, downloads at one time.

use super::{CLOSED, PUBLIC, RULES, TEAM, basic, get, login, mirror, token, upstream};
use crate::support::image::Blob;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob_path};
use crate::support::{join_all, until};

#[tokio::test]
async fn too_many_requests_are_429_and_are_counted_for_each_alone() {
    let (up, _) = upstream().await;
    // So slow that a test cannot wait for the next.
    let pace = "requests_per_second = 1\nburst = 20";
    let (mirror, _users) = mirror(&up, &format!("{pace}\n{RULES}")).await;
    let alice = login("alice");
    let mut refused = None;
    for _ in 0..200 {
        let answer = get(&mirror, PUBLIC, Some(&alice)).await;
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit");
    assert_eq!((refused.status(), &*refused.error_code()), (429, "TOOMANYREQUESTS"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("www-authenticate"), None);
    // From the same address, somebody else and nobody.
    assert_eq!(get(&mirror, PUBLIC, Some(&login("bob"))).await.status(), 200);
    assert_eq!(get(&mirror, PUBLIC, None).await.status(), 200);
    assert!(mirror.metric("roadstead_access_refusals_total", &[("reason", "too_many")]).await >= 1.0);
}

#[tokio::test]
async fn guessing_is_429_and_who_has_signed_in_goes_on() {
    let (up, _) = upstream().await;
    let (mirror, _users) = mirror(&up, CLOSED).await;
    let alice = login("alice");
    assert_eq!(get(&mirror, TEAM, Some(&alice)).await.status(), 200);
    let bearer = token(&mirror, Some(&alice)).await;
    for guess in 0..10 {
        assert_eq!(get(&mirror, TEAM, Some(&basic("bob", &guess.to_string()))).await.status(), 401);
    }
    let answer = get(&mirror, "/token", Some(&login("bob"))).await;
    assert_eq!((answer.status(), &*answer.error_code()), (429, "TOOMANYREQUESTS"), "right, and too late");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);
    assert_eq!(get(&mirror, TEAM, Some(&alice)).await.status(), 200);
    assert_eq!(get(&mirror, TEAM, Some(&bearer)).await.status(), 200);
    assert_eq!(mirror.metric("roadstead_password_checks_total", &[("result", "wrong")]).await, 10.0);
}

/// A client that has begun as many downloads as it may waits for one to end; others are not held up, and whoever joins a
/// download has begun none.
#[tokio::test]
async fn downloads_begun_by_one_client_are_bounded() {
    let up = Upstream::start().await;
    let blobs: Vec<_> = (0..3).map(|seed| Blob::random(seed, 200_000)).collect();
    for blob in &blobs {
        up.push_blob("library/alpine", blob);
    }
    let gate = up.gate(&format!("GET {}", blob_path("library/alpine", &blobs[0])));
    let mirror = Mirror::with(&up, |settings| {
        settings.set("access", "max_fills_per_client", 1);
    })
    .await;
    let paths: Vec<_> = blobs.iter().map(|blob| blob_path("library/alpine", blob)).collect();
    let others = async {
        // Only then is it sure which of the two downloads has the one place.
        until("the first download", || up.count(&format!("GET {}", paths[0])) == 1).await;
        let opened = async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            assert_eq!(up.count(&format!("GET {}", paths[1])), 0, "its turn has not come");
            gate.open();
        };
        tokio::join!(mirror.get(&paths[0]), mirror.get(&paths[1]), opened)
    };
    let (first, (joined, second, ())) = tokio::join!(mirror.get(&paths[0]), others);
    first.assert_is(&blobs[0]);
    joined.assert_is(&blobs[0]);
    second.assert_is(&blobs[1]);
    mirror.get(&paths[2]).await.assert_is(&blobs[2]);
    join_all(paths.iter().map(|path| mirror.get(path))).await;
}

/// What is passed through for want of room is a download, too, and lasts until its last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_are_passed_through_count() {
    let up = Upstream::start().await;
    let blobs: Vec<_> = (0..2).map(|seed| Blob::random(seed, 8 << 20)).collect();
    for blob in &blobs {
        up.push_blob("library/alpine", blob);
    }
    let paths: Vec<_> = blobs.iter().map(|blob| blob_path("library/alpine", blob)).collect();
    let gate = up.gate(&format!("GET {}", paths[0]));
    gate.pass(1 << 20);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("access", "max_fills_per_client", 1).set("cache", "max_size", "4MiB");
    })
    .await;
    let mut first = mirror.open(&paths[0]).await;
    assert!(first.read(1000).await == blobs[0].bytes[..1000]);
    let opened = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(up.count(&paths[1]), 0, "its turn has not come");
        gate.open();
    };
    let (rest, second, ()) = tokio::join!(first.rest(), mirror.get(&paths[1]), opened);
    assert!(rest.body == blobs[0].bytes[1000..]);
    second.assert_is(&blobs[1]);
}

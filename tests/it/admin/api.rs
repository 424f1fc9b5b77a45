//! What the API takes and says: parameters, digests and times.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::{self, Response};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::Upstream;

async fn ask(mirror: &Mirror, method: &str, path: &str) -> Response {
    client::request(mirror.admin_address(), method, &format!("/api/v1/{path}"), &[]).await
}

async fn with_image() -> (Upstream, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("library/alpine", "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull("library/alpine", "latest", &image).await;
    (up, mirror)
}

/// A parameter that is written wrongly must not be as good as none: a purge that was to be a trial would purge.
#[tokio::test]
async fn a_parameter_that_there_is_not_is_refused() {
    let (_up, mirror) = with_image().await;
    let refused = async |method: &str, path: &str, told: &str| {
        let answer = ask(&mirror, method, path).await;
        assert_eq!(answer.status(), 400, "{method} {path}: {}", answer.text());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(told), "{method} {path}: {error}");
    };
    let hyphen = "there is no parameter \"dry-run\" here; did you mean \"dry_run\"? There are ref, dry_run";
    refused("POST", "purge?ref=alpine&dry-run=true", hyphen).await;
    refused("POST", "purge?ref=alpine&dry_run=true&dry_run=false", "dry_run is given twice").await;
    refused("POST", "purge?ref=ghcr.io/none&ref=alpine", "ref is given twice").await;
    refused("POST", "pin?ref=alpine&platform=linux/amd64&platform=linux/arm64", "platform is given twice").await;
    for (method, path) in [
        ("GET", "stats"),
        ("GET", "cache"),
        ("GET", "images"),
        ("GET", "explain"),
        ("POST", "purge"),
        ("GET", "pins"),
        ("POST", "pin"),
        ("POST", "unpin"),
        ("GET", "gc"),
        ("POST", "gc"),
        ("GET", "verify"),
        ("POST", "verify"),
        ("GET", "upstreams"),
        ("GET", "offline"),
        ("POST", "offline"),
        ("GET", "served"),
        ("POST", "prefetch"),
        ("POST", "import"),
    ] {
        refused(method, &format!("{path}?nonsense=1"), "there is no parameter \"nonsense\" here").await;
    }
    assert_eq!(mirror.admin("/api/v1/images").await.json()["images"].as_array().unwrap().len(), 1);
    assert_eq!(ask(&mirror, "POST", "purge?ref=alpine&dry_run=true").await.json()["images"].as_array().unwrap().len(), 1);
}

/// What the commands print of a digest on a terminal is no image of Docker Hub's.
#[tokio::test]
async fn the_beginning_of_a_digest_is_no_image() {
    let (_up, mirror) = with_image().await;
    for (method, path) in [("POST", "pin"), ("POST", "unpin"), ("POST", "purge"), ("GET", "explain"), ("GET", "images")] {
        for short in ["sha256:7a19214efe71", "sha512:7a19", "sha256:7a19*"] {
            let answer = ask(&mirror, method, &format!("{path}?ref={short}")).await;
            assert_eq!(answer.status(), 400, "{method} {path} {short}: {}", answer.text());
            let error = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(error.contains("hexadecimal") && error.contains("--json"), "{error}");
        }
    }
    assert_eq!(mirror.admin("/api/v1/pins").await.json()["pins"].as_array().unwrap().len(), 0);
}

/// Every time is in seconds, and on disk a pin is what it was.
#[tokio::test]
async fn pins_are_told_in_seconds() {
    let (_up, mirror) = with_image().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let pinned = ask(&mirror, "POST", "pin?ref=alpine&platform=linux/amd64").await.json();
    let listed = mirror.admin("/api/v1/pins").await.json();
    let since = |pin: &serde_json::Value| pin["since"].as_u64().unwrap();
    assert!(since(&pinned["pins"][0]).abs_diff(now) < 60, "{pinned}");
    assert_eq!(listed, pinned);
    assert_eq!(listed["pins"][0]["platforms"], serde_json::json!(["linux/amd64"]));
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(mirror.files().root().join("pins.json")).unwrap()).unwrap();
    assert!((since(&kept[0]) / 1000).abs_diff(now) < 60, "{kept}");
    let unpinned = ask(&mirror, "POST", "unpin?ref=alpine").await.json();
    assert_eq!(unpinned["unpinned"], listed["pins"]);
}

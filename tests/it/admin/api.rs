//! What the API takes and says: times.

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

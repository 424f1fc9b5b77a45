//! The scripted upstream seen by curl, which shares no code with the kit. Where there is no curl, there is nothing to see.

use std::path::Path;

use tokio::process::Command;

use super::with_image;
use crate::support::upstream::{Act, Upstream, blob_path};
use crate::support::within;

/// Runs curl; its exit code and what it wrote. `None` where there is no curl.
async fn curl(arguments: &[&str]) -> Option<(i32, Vec<u8>)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "20", "--noproxy", "*"]).args(arguments).kill_on_drop(true);
    match within("curl", command.output()).await {
        Ok(output) => Some((output.status.code().unwrap_or(-1), output.stdout)),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            None
        }
    }
}

#[tokio::test]
async fn curl_agrees_about_bodies() {
    let (up, image, path) = with_image().await;
    let bytes = &image.layers[0].bytes;
    let url = format!("{}{path}", up.url());
    let Some((code, body)) = curl(&[&url]).await else { return };
    assert_eq!((code, body == *bytes), (0, true));
    let steps: [(Act, &[&str], i32, usize); 7] = [
        (Act::honest().close_after(1_000), &[], 18, 1_000),
        (Act::honest().reset_after(1_000), &[], 56, 1_000),
        (Act::honest().chunked(), &[], 0, 100_000),
        (Act::honest().chunked().close_after(1_000), &[], 18, 1_000),
        (Act::honest().gzip(), &["--compressed"], 0, 100_000),
        (Act::honest(), &["--range", "10-19"], 0, 10),
        (Act::raw(""), &[], 52, 0),
    ];
    for (act, options, expected, length) in steps {
        let what = format!("{act:?}");
        up.on(&path).then(act);
        let (code, body) = curl(&[options, &[&url]].concat()).await.unwrap();
        assert_eq!((code, body.len()), (expected, length), "{what}");
        let from = if options.contains(&"--range") { 10 } else { 0 };
        assert_eq!(body, bytes[from..from + length], "{what}");
    }
}

#[tokio::test]
async fn curl_follows_the_redirect_and_trusts_the_root() {
    let up = Upstream::start_tls().await;
    let cdn = Upstream::start().await;
    let image = crate::support::image::Image::small(4);
    up.push_image("a/b", "latest", &image);
    let path = blob_path("a/b", &image.layers[1]);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    std::fs::write(&root, up.root()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let url = format!("{}{path}", up.url());
    let Some((code, body)) = curl(&["--cacert", &text(&root), &url]).await else { return };
    assert_eq!((code, body == image.layers[1].bytes), (0, true));
    assert_eq!(curl(&[&url]).await.unwrap().0, 60, "without the root it is not trusted");
    up.on(&path).always(Act::redirect(&cdn));
    let (code, body) = curl(&["--location", "--cacert", &text(&root), &url]).await.unwrap();
    assert_eq!((code, body == image.layers[1].bytes, cdn.count("GET /signed/*")), (0, true, 1));
}

//! What the admin interface says, and how long that takes.

use std::time::{Duration, Instant};

use roadstead::oci::Digest;

use super::tree::{self, OWN, Tree};
use super::whole::Started;

/// What is asked, and the time of each answer.
pub fn answers(tree: &Tree, mirror: &Started) -> Vec<(&'static str, Duration)> {
    let mut admin = mirror.admin();
    let (name, tag, _) = tree::image(tree.images / 3);
    let (base, _): (Digest, _) = tree::blob(3);
    let hundredth = (1 << 40) - tree.bytes * 99 / 100;
    let asked = [
        ("`ls`, the first 1000", "GET", "/api/v1/images".to_owned()),
        ("`ls` of a pattern that all tags are tried on", "GET", "/api/v1/images?ref=bench/app-*:none".to_owned()),
        ("`ls` of one image", "GET", format!("/api/v1/images?ref={name}:{tag}")),
        ("`stats`", "GET", "/api/v1/stats".to_owned()),
        ("`stats`, the catalog's part", "GET", "/api/v1/cache".to_owned()),
        ("`explain` of an image", "GET", format!("/api/v1/explain?ref={name}:{tag}")),
        ("`explain` of a base layer", "GET", format!("/api/v1/explain?ref={base}")),
        ("`pin` of an image", "POST", format!("/api/v1/pin?ref={name}:{tag}")),
        ("`unpin` of an image", "POST", format!("/api/v1/unpin?ref={name}:{tag}")),
        ("`pin` of a pattern: 50 images", "POST", format!("/api/v1/pin?ref={name}:*")),
        ("`unpin` of that pattern", "POST", format!("/api/v1/unpin?ref={name}:*")),
        ("`gc --dry-run`", "GET", "/api/v1/gc".to_owned()),
        ("`gc --dry-run --free` that evicts 1 %", "GET", format!("/api/v1/gc?free={hundredth}")),
        ("`purge --dry-run` of an image", "POST", format!("/api/v1/purge?ref={name}:{tag}&dry_run=true")),
        ("`purge` of an image", "POST", format!("/api/v1/purge?ref={name}:{tag}")),
    ];
    debug_assert!(tree.all.len() as u64 > OWN);
    let time = |(what, method, path): (&'static str, &str, String)| {
        let started = Instant::now();
        admin.get(method, &path);
        (what, started.elapsed())
    };
    asked.map(time).to_vec()
}

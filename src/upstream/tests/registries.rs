//! Each public registry under its own name, playing the exchange that it documents, quirks included.

mod amazon;
mod attacks;
mod azure;
mod google;
mod hosted;
mod public;

use super::internet::Internet;
use super::*;

const BLOB: &str = "the bytes of a layer";

/// `Basic` of a user and the canary.
fn basic(user: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{CANARY}")))
}

fn authorization(seen: &Seen) -> Option<&str> {
    seen.header("authorization")
}

fn blob_reply() -> Reply {
    Reply::new(200).header("content-type", "binary/octet-stream").body(BLOB)
}

/// What a pull of a tag asks: HEAD, GET by digest, a layer.
async fn pull(upstream: &Upstream, name: &str) -> Result<(), UpstreamError> {
    let resolved = upstream.resolve(&repository(name), &tag("latest")).await?;
    assert_eq!(resolved.digest, digest_of(MANIFEST.as_bytes()));
    let fetched = upstream.manifest(&repository(name), &Reference::Digest(resolved.digest)).await?;
    assert_eq!(fetched.bytes, MANIFEST);
    let mut answer = upstream.blob(&repository(name), &digest_of(BLOB.as_bytes()), 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.chunk().await {
        bytes.extend_from_slice(&chunk?);
    }
    assert_eq!(bytes, BLOB.as_bytes());
    Ok(())
}

/// The content of a registry: a manifest and a blob, whatever they are called.
fn content(seen: &Seen) -> Reply {
    if seen.path().contains("/blobs/") { blob_reply() } else { manifest_reply() }
}

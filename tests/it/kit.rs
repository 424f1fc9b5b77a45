//! The kit tested on itself: what the scripted upstream does is what the raw client, and curl, see.

mod auth;
mod curl;
mod faults;
mod registry;

use crate::support::image::Image;
use crate::support::upstream::{Upstream, blob_path};

const REPOSITORY: &str = "library/alpine";

/// An upstream with one image, and the path of the image's large layer.
async fn with_image() -> (Upstream, Image, String) {
    let upstream = Upstream::start().await;
    let image = Image::small(1);
    upstream.push_image(REPOSITORY, "latest", &image);
    let path = blob_path(REPOSITORY, &image.layers[0]);
    (upstream, image, path)
}

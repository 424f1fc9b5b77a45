//! The upstream's bad day: quotas, outages, switches. Where time matters it is simulated ([`simulated`]).

mod blame;
mod breaker;
mod hour;
pub mod offline;
mod served;
mod signatures;
mod simulated;

use crate::support::client::Response;
use crate::support::image::Image;
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Upstream, manifest_path};

fn images(count: u64) -> Vec<(String, Image)> {
    (0..count).map(|number| (format!("team/image-{number}"), Image::small(number))).collect()
}

async fn tag(mirror: &Mirror, repository: &str) -> Response {
    mirror.get(&manifest_path(repository, "latest")).await
}

/// The word that `Cache-Status` gives as the reason.
pub(crate) fn reason(answer: &Response) -> Option<&str> {
    answer.header("cache-status")?.split("; ").find_map(|part| part.strip_prefix("reason="))
}

/// An upstream with these images, and a mirror that has them all.
async fn warm(images: &[(String, Image)], change: impl FnOnce(&mut Settings)) -> (Upstream, Mirror) {
    let up = Upstream::start().await;
    for (repository, image) in images {
        up.push_image(repository, "latest", image);
    }
    let mirror = Mirror::with(&up, change).await;
    for (repository, image) in images {
        mirror.pull(repository, "latest", image).await;
    }
    (up, mirror)
}

//! The upstream's bad day: quotas, outages, switches. Time is simulated: tokio's clock is paused, and held still while
//! sockets are waited for, so that an hour takes seconds and no time-out fires by itself.

mod breaker;
mod hour;
mod offline;
mod served;

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::Response;
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, manifest_path};

/// Keeps the paused clock still as long as it lives: tokio moves it only when nothing runs, and this does.
struct Still(#[allow(dead_code, reason = "dropping it ends the wait")] mpsc::Sender<()>);

fn still() -> Still {
    let (alive, ended) = mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || ended.recv());
    Still(alive)
}

/// Lets the simulated time pass.
async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    // What the timers have woken gets its turn before anything else is asked.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Waits for real; the clock moves a second each time that nothing comes for a good while. Returns what came, and the
/// simulated time that it took.
async fn ticking<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let mut future = std::pin::pin!(future);
    loop {
        let patience = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(250)));
        tokio::select! {
            biased;
            value = &mut future => return (value, started.elapsed()),
            _ = patience => pass(Duration::from_secs(1)).await,
        }
    }
}

fn images(count: u64) -> Vec<(String, Image)> {
    (0..count).map(|number| (format!("team/image-{number}"), Image::small(number))).collect()
}

async fn tag(mirror: &Mirror, repository: &str) -> Response {
    mirror.get(&manifest_path(repository, "latest")).await
}

/// The word that `Cache-Status` gives as the reason.
fn reason(answer: &Response) -> Option<&str> {
    answer.header("cache-status")?.split("; ").find_map(|part| part.strip_prefix("reason="))
}

/// An upstream with these images, and a mirror that has them all.
async fn warm(images: &[(String, Image)], change: impl FnOnce(&mut crate::support::mirror::Settings)) -> (Upstream, Mirror) {
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

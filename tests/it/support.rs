//! What the integration tests stand on: a scripted upstream, images in memory, a client that sees every byte, and the
//! mirror itself in this process.
//!
//! Nothing here asserts how long something takes. A wait has a generous deadline ([`PATIENCE`]) that turns a hang into
//! a failure which says what was waited for; order between two sides is made with gates, never by sleeping.

// Each subject uses its own part of the kit.
#![allow(dead_code, reason = "a helper is used by some subjects and not by others")]

pub mod client;
pub mod image;
pub mod mirror;
pub mod upstream;

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

/// How long a test waits for something that must happen, before it fails. Far beyond what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`; fails the test with `what` if it does not end within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Waits until `condition` holds; fails the test with `what` if it does not within [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Runs futures side by side in this task; their values in the order of the futures.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, value) in running.iter_mut().filter(|(_, value)| value.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *value = Some(ready);
            }
        }
        if running.iter().all(|(_, value)| value.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, value)| value).collect()
}

//! What one request shares with the mirror or registry behind this one: its id on the way there, `Cache-Status` on the way
//! back.
//!
//! Travels beside the calls, as a task's local value, because it says nothing about content: no decision may depend on it.
//! Work that many wait for carries the id of the one who began it, and tells that one alone where its answer came from.
//! Set by `server`, handed to tasks by `pull` and `fill`, used by `upstream`.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// A longer list of caches is nobody's.
const MAX_STATUS: usize = 1024;

tokio::task_local! {
    /// `None` in a task that belongs to no request.
    static HOP: Option<Arc<Hop>>;
}

#[derive(Debug)]
struct Hop {
    request_id: HeaderValue,
    cache_status: Mutex<Option<String>>,
}

/// `future` as the work of the request with this id. No `async fn`, as the next one is none: those keep room for what they
/// are given and once more for what they wait for, and the futures here are large.
pub fn of<F: Future>(request_id: HeaderValue, future: F) -> impl Future<Output = F::Output> {
    HOP.scope(Some(Arc::new(Hop { request_id, cache_status: Mutex::default() })), future)
}

/// `future` for a task of its own, which is still the work of the request that is being answered here, if there is one.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    HOP.scope(with(Arc::clone), future)
}

/// Asks the request that is being answered, if there is one.
fn with<T>(ask: impl FnOnce(&Arc<Hop>) -> T) -> Option<T> {
    HOP.try_with(|hop| hop.as_ref().map(ask)).ok().flatten()
}

/// The id of the request that is being answered, for the next hop.
pub fn request_id() -> Option<HeaderValue> {
    with(|hop| hop.request_id.clone())
}

/// Takes in what the next hop says of its caches (RFC 9211). The last answer counts: it is the one with the content.
pub fn learn(headers: &HeaderMap) {
    let lines: Vec<_> = headers.get_all(CACHE_STATUS).iter().filter_map(|line| line.to_str().ok()).collect();
    let status = Some(lines.join(", ")).filter(|status| !status.trim().is_empty() && status.len() <= MAX_STATUS);
    with(|hop| *hop.cache_status.lock() = status);
}

/// The `Cache-Status` of the next hop, which goes before ours, if this request asked there.
pub fn before() -> Option<String> {
    with(|hop| hop.cache_status.lock().clone()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_along_into_tasks_and_not_beyond_the_request() {
        assert_eq!((request_id(), before()), (None, None));
        of(HeaderValue::from_static("id-1"), async {
            let task = tokio::spawn(carried(async {
                let mut headers = HeaderMap::new();
                headers.append(CACHE_STATUS, HeaderValue::from_static("origin; hit"));
                headers.append(CACHE_STATUS, HeaderValue::from_static("region; fwd=miss"));
                learn(&headers);
                request_id()
            }));
            assert_eq!(task.await.unwrap().unwrap(), "id-1");
            assert_eq!(before().as_deref(), Some("origin; hit, region; fwd=miss"));
            assert_eq!(tokio::spawn(async { request_id() }).await.unwrap(), None);
            let mut headers = HeaderMap::new();
            headers.append(CACHE_STATUS, HeaderValue::try_from("x".repeat(MAX_STATUS + 1)).unwrap());
            learn(&headers);
            assert_eq!(before(), None);
        })
        .await;
        assert_eq!(before(), None);
    }
}

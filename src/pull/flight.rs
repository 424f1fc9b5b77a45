//! One piece of work for many who want the same: HEADs of tags, GETs of manifests, listings.
//!
//! For results that are small and wanted whole; blobs have fills. The work runs in a task of its own: it does not end
//! with the client that began it (I6).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::hop;

/// Work under way, by what it is about.
#[derive(Debug)]
pub struct Flights<K, V> {
    flying: Mutex<HashMap<K, watch::Receiver<Option<V>>>>,
    /// Where the work is done: not on the thread of the connection that asked first (I6).
    runtime: Handle,
}

impl<K, V> Flights<K, V> {
    /// No flights. Called within the runtime on which they will run.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { flying: Mutex::default(), runtime: Handle::current() })
    }

    /// Whoever comes from now on begins anew: the work under way asks an upstream that is not to be asked any more.
    pub fn renew(&self) {
        self.flying.lock().clear();
    }
}

/// What came of a flight.
#[derive(Debug)]
pub struct Landed<V> {
    /// The result, shared by all.
    pub value: V,
    /// Whether the work was already under way: what it found may be from before the call.
    pub joined: bool,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the work on `key`, or begins it. Cancel-safe: the work goes on without its waiters. `None` only if the
    /// work panicked.
    pub async fn join<F>(self: &Arc<Self>, key: K, work: impl FnOnce() -> F) -> Option<Landed<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut result, joined) = self.enter(key, work);
        let landed = result.wait_for(Option::is_some).await.ok()?;
        let value = landed.clone()?;
        Some(Landed { value, joined })
    }

    /// Begins the work on `key` unless it is under way; does not wait for it.
    pub fn begin<F>(self: &Arc<Self>, key: K, work: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        self.enter(key, work);
    }

    fn enter<F>(self: &Arc<Self>, key: K, work: impl FnOnce() -> F) -> (watch::Receiver<Option<V>>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flying = self.flying.lock();
        if let Some(result) = flying.get(&key) {
            return (result.clone(), true);
        }
        let (sender, result) = watch::channel(None);
        flying.insert(key.clone(), result.clone());
        // Boxed: else the task would keep room for it twice.
        let (work, leave) = (Box::pin(work()), Leave { flights: self.clone(), key, result: result.clone() });
        self.runtime.spawn(hop::carried(async move {
            let value = work.await;
            // Out of the table before the result is announced: whoever comes now begins anew, and gets no result from
            // before they asked.
            drop(leave);
            sender.send_replace(Some(value));
        }));
        (result, false)
    }
}

/// Takes the entry out of the table when the work ends, however it ends.
struct Leave<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
    result: watch::Receiver<Option<V>>,
}

impl<K: Eq + Hash, V> Drop for Leave<K, V> {
    fn drop(&mut self) {
        let mut flying = self.flights.flying.lock();
        // After a renewal the entry may be another flight's.
        if flying.get(&self.key).is_some_and(|result| result.same_channel(&self.result)) {
            flying.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn many_ask_and_one_works_even_if_the_first_one_leaves() {
        let flights = Flights::new();
        let runs = Arc::new(AtomicU32::new(0));
        let ask = |flights: Arc<Flights<u8, u32>>, runs: Arc<AtomicU32>| async move {
            flights
                .join(1, || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    runs.fetch_add(1, Ordering::Relaxed) + 1
                })
                .await
                .map(|landed| (landed.value, landed.joined))
        };
        let first = tokio::spawn(ask(flights.clone(), runs.clone()));
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..10).map(|_| tokio::spawn(ask(flights.clone(), runs.clone()))).collect();
        tokio::task::yield_now().await;
        first.abort();
        for other in others {
            assert_eq!(other.await.unwrap(), Some((1, true)));
        }
        assert_eq!(ask(flights.clone(), runs).await, Some((2, false)));
        assert!(flights.flying.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_after_a_renewal_begins_anew() {
        let flights = Flights::new();
        let ask = |flights: Arc<Flights<u8, u64>>, seconds: u64| async move {
            let work = || async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                seconds
            };
            flights.join(1, work).await.map(|landed| (landed.value, landed.joined))
        };
        let slow = tokio::spawn(ask(flights.clone(), 5));
        tokio::task::yield_now().await;
        flights.renew();
        let new = tokio::spawn(ask(flights.clone(), 10));
        tokio::task::yield_now().await;
        assert_eq!(slow.await.unwrap(), Some((5, false)), "it goes on for those who wait for it");
        assert_eq!(ask(flights.clone(), 1).await, Some((10, true)), "and took nobody else's place");
        assert_eq!(new.await.unwrap(), Some((10, false)));
        assert!(flights.flying.lock().is_empty());
    }

    #[tokio::test]
    async fn a_panic_strands_nobody() {
        let flights: Arc<Flights<u8, u32>> = Flights::new();
        assert!(flights.join(1, || async { panic!("played") }).await.is_none());
        assert_eq!(flights.join(1, || async { 7 }).await.map(|landed| landed.value), Some(7));
    }
}

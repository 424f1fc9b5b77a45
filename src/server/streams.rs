//! The requests of one HTTP/2 connection: whether they get on, and whether their client means them.
//!
//! hyper and h2 bound how many there are and what they hold. What they do not see: a client that opens windows for none
//! of its answers, and one that takes requests back as fast as it sends them, after they were begun.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// Requests taken back before they were answered. Clients do that when a user interrupts a pull, a few at a time.
const MAX_TAKEN_BACK: usize = 100;

/// One connection's requests. Shared by them and the connection's loop.
#[derive(Clone, Debug)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Grows with whatever happens to any of them.
    activity: AtomicUsize,
    /// Begun, and their bodies not yet dropped.
    open: AtomicUsize,
    /// Bodies that have given something, and were not asked for more: their client has not room for it.
    await_client: AtomicUsize,
    answered: AtomicUsize,
    taken_back: AtomicUsize,
    flood: Notify,
}

impl Streams {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// A request begins.
    pub fn begin(&self) -> Stream {
        self.0.activity.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Stream { shared: self.0.clone(), state: State::Begun }
    }

    /// A number that changes when anything happens to any request.
    pub fn activity(&self) -> usize {
        self.0.activity.load(Ordering::Relaxed)
    }

    /// Whether there are requests under way.
    pub fn are_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) > 0
    }

    /// Whether the next move of some request is its client's.
    pub fn await_client(&self) -> bool {
        self.0.await_client.load(Ordering::Relaxed) > 0
    }

    /// Waits until more requests were taken back than a client has reason to. Cancel-safe.
    pub async fn flooded(&self) {
        self.0.flood.notified().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not answered yet.
    Begun,
    /// Its body is ours to go on with.
    Answered,
    /// Its client has not taken what there is.
    AwaitsClient,
}

/// One request.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    state: State,
}

impl Stream {
    fn becomes(&mut self, state: State) {
        self.shared.activity.fetch_add(1, Ordering::Relaxed);
        if self.state == State::AwaitsClient {
            self.shared.await_client.fetch_sub(1, Ordering::Relaxed);
        }
        if state == State::AwaitsClient {
            self.shared.await_client.fetch_add(1, Ordering::Relaxed);
        }
        self.state = state;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let was = self.state;
        self.becomes(State::Answered);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        if was != State::Begun {
            return;
        }
        let taken_back = self.shared.taken_back.fetch_add(1, Ordering::Relaxed) + 1;
        if taken_back > MAX_TAKEN_BACK && taken_back > self.shared.answered.load(Ordering::Relaxed) {
            self.shared.flood.notify_one();
        }
    }
}

/// The body of an answer, watched.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    stream: Stream,
}

impl<B> Watched<B> {
    pub fn new(body: B, mut stream: Stream) -> Self {
        stream.shared.answered.fetch_add(1, Ordering::Relaxed);
        stream.becomes(State::Answered);
        Self { body, stream }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // Asked again, the client has taken what went before.
        self.stream.becomes(if matches!(polled, Poll::Ready(Some(Ok(_)))) { State::AwaitsClient } else { State::Answered });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    fn streams() -> Streams {
        Streams::new()
    }

    #[tokio::test]
    async fn a_body_awaits_its_client_until_it_is_asked_again() {
        let streams = streams();
        assert!(!streams.are_open());
        let mut body = Watched::new(Full::new(bytes::Bytes::from_static(b"x")), streams.begin());
        assert!(streams.are_open() && !streams.await_client());
        body.frame().await.unwrap().unwrap();
        assert!(streams.await_client());
        let before = streams.activity();
        assert!(body.frame().await.is_none());
        assert!(!streams.await_client() && streams.activity() != before);
        drop(body);
        assert!(!streams.are_open());
    }

    #[tokio::test]
    async fn requests_taken_back_are_a_flood_unless_most_are_answered() {
        let streams = streams();
        for _ in 0..MAX_TAKEN_BACK {
            drop(streams.begin());
        }
        let flooded = async |streams: &Streams| {
            tokio::select! { biased; () = streams.flooded() => true, () = std::future::ready(()) => false }
        };
        assert!(!flooded(&streams).await);
        drop(streams.begin());
        assert!(flooded(&streams).await);

        let streams = self::streams();
        for _ in 0..2 * MAX_TAKEN_BACK {
            drop(Watched::new(Full::<bytes::Bytes>::default(), streams.begin()));
            drop(streams.begin());
        }
        assert!(!flooded(&streams).await);
    }
}

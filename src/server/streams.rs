//! The requests of one HTTP/2 connection: whether each gets on, and whether their client means them.
//!
//! hyper and h2 bound how many there are and what they hold. They do not notice a client that opens no window for one answer
//! while its others are busy, nor one that resets its requests, once they are begun, as fast as it sends them.
//! Each answer is sent by a task of its own ([`Tasks`]); one whose client takes nothing is dropped, which resets its stream
//! and no other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use super::Server;
use super::limits::Refusal;

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
        Stream { shared: self.0.clone(), answered: false, progress: Progress::default() }
    }

    /// A number that changes when anything happens to any request.
    fn activity(&self) -> usize {
        self.0.activity.load(Ordering::Relaxed)
    }

    /// Whether there are requests under way.
    fn are_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) > 0
    }

    /// Waits until more requests were taken back than a client has reason to. Cancel-safe.
    pub async fn flooded(&self) {
        self.0.flood.notified().await;
    }
}

/// For how long a connection has had no request.
#[derive(Debug)]
pub(super) struct Idle {
    streams: Streams,
    activity: usize,
    since: Instant,
}

impl Idle {
    /// From now on.
    pub fn new(streams: &Streams) -> Self {
        Self { streams: streams.clone(), activity: streams.activity(), since: Instant::now() }
    }

    /// The time without any, as far as it was looked at often enough.
    pub fn time(&mut self) -> Duration {
        let activity = self.streams.activity();
        if std::mem::replace(&mut self.activity, activity) != activity || self.streams.are_open() {
            self.restart();
        }
        self.since.elapsed()
    }

    /// Begins anew.
    pub fn restart(&mut self) {
        self.since = Instant::now();
    }
}

tokio::task_local! {
    /// The progress of the request that this task answers.
    static PROGRESS: Progress;
}

/// How far an answer's body has come: twice the number of pieces that were taken, and one more while the client has not
/// taken the last of them. Shared by the body and the task that sends it.
#[derive(Clone, Debug, Default)]
struct Progress(Arc<AtomicUsize>);

impl Progress {
    fn moved(&self, awaits_client: bool) {
        let taken = (self.now() | 1).wrapping_add(1);
        self.0.store(taken | usize::from(awaits_client), Ordering::Relaxed);
    }

    fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs the tasks that hyper begins on a connection, one a request, each until its client has taken nothing of its answer for
/// too long.
#[derive(Clone, Debug)]
pub(super) struct Tasks(pub Arc<Server>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, answering: F) {
        let server = self.0.clone();
        tokio::spawn(async move {
            if !patiently(answering, server.config.write_timeout).await {
                server.refused(Refusal::Stalled);
            }
        });
    }
}

/// Runs to its end what answers a request; `false` if that was given up because its client took nothing for so long.
async fn patiently(answering: impl Future<Output = ()>, write_timeout: Duration) -> bool {
    let progress = Progress::default();
    let mut answering = pin!(PROGRESS.scope(progress.clone(), answering));
    // Runs while the client has something to take. Boxed: most never wait.
    let mut patience: Option<(usize, Pin<Box<Sleep>>)> = None;
    poll_fn(|cx| {
        if answering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        let now = progress.now();
        if now & 1 == 0 {
            patience = None;
            return Poll::Pending;
        }
        let (seen, timer) = patience.get_or_insert_with(|| (now, Box::pin(sleep(write_timeout))));
        if *seen != now {
            *seen = now;
            timer.as_mut().reset(Instant::now() + write_timeout);
        }
        timer.as_mut().poll(cx).map(|()| false)
    })
    .await
}

/// One request.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    answered: bool,
    progress: Progress,
}

impl Stream {
    /// Notes that this task sends its answer: [`patiently`] watches it.
    pub fn sent_here(&mut self) {
        self.progress = PROGRESS.try_with(Progress::clone).unwrap_or_default();
    }

    fn moved(&self, awaits_client: bool) {
        self.shared.activity.fetch_add(1, Ordering::Relaxed);
        self.progress.moved(awaits_client);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.activity.fetch_add(1, Ordering::Relaxed);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        if self.answered {
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
        stream.answered = true;
        stream.moved(false);
        Self { body, stream }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // hyper asks again when the client has taken what went before.
        self.stream.moved(matches!(polled, Poll::Ready(Some(Ok(_)))));
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
    async fn requests_are_open_until_their_bodies_are_dropped() {
        let streams = streams();
        assert!(!streams.are_open());
        let mut body = Watched::new(Full::new(bytes::Bytes::from_static(b"x")), streams.begin());
        assert!(streams.are_open());
        let before = streams.activity();
        body.frame().await.unwrap().unwrap();
        assert!(streams.activity() != before);
        drop(body);
        assert!(!streams.are_open());
    }

    /// Bytes without end.
    struct Endless;

    impl Body for Endless {
        type Data = bytes::Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, std::io::Error>>> {
            Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::from_static(b"x")))))
        }
    }

    /// An answer of which a piece is taken after each of these seconds.
    async fn answer(streams: Streams, pauses: Vec<u64>) {
        let mut stream = streams.begin();
        stream.sent_here();
        let mut body = Watched::new(Endless, stream);
        for pause in pauses {
            body.frame().await.unwrap().unwrap();
            sleep(Duration::from_secs(pause)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_which_nothing_is_taken_is_given_up() {
        let limit = Duration::from_secs(60);
        let started = Instant::now();
        assert!(patiently(answer(streams(), vec![50; 10]), limit).await, "slow is not stalled");
        assert_eq!(started.elapsed().as_secs(), 500);
        let (started, streams) = (Instant::now(), streams());
        assert!(!patiently(answer(streams.clone(), vec![50, 1, 70, 1]), limit).await);
        assert_eq!(started.elapsed().as_secs(), 50 + 1 + 60);
        assert!(!streams.are_open());
        // Nothing was given yet: the mirror waits for its upstream.
        assert!(patiently(sleep(10 * limit), limit).await);
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

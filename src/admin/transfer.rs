//! Prefetch and import inside a running mirror: `POST /api/v1/prefetch`, `POST /api/v1/import`, `GET /api/v1/served`.
//!
//! What the command line sends to a running mirror. Called by [`super::Admin`].

use std::convert::Infallible;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::BODY_TIMEOUT;
use crate::cache::NoRoom;
use crate::cache::store::StoreError;
use crate::cache::tree::Tree;
use crate::config::{Config, Wish};
use crate::oci::{ImageRef, PlatformError};
use crate::pull::Pull;
use crate::transfer::import::{self, ImportError, Imports};
use crate::transfer::input;
use crate::transfer::prefetch::{Event, Order, Outcome, prefetch};
use crate::transfer::sign::Verifier;

/// The longest order of images.
const MAX_ORDER: usize = 8 << 20;

/// What is sent to the operator.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Transfers of one mirror.
#[derive(Debug)]
pub struct Transfer {
    pull: Arc<Pull>,
    dir: PathBuf,
    verify_key: Option<PathBuf>,
    /// What no upstream is configured for can be imported: it is served all the same after a restart.
    any_upstream: bool,
    imports: Arc<Imports>,
}

/// An image of a mirror, as `GET /api/v1/served` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Its full name.
    pub image: String,
    /// What it is.
    pub digest: String,
    /// Seconds since its manifest was last served, or came, to the minute.
    pub unused_seconds: u64,
}

impl Transfer {
    /// Transfers into the cache of `pull`. Whoever stops the mirror stops its `imports`.
    pub fn new(pull: Arc<Pull>, config: &Config, imports: Arc<Imports>) -> Self {
        Self {
            pull,
            dir: config.cache.dir.clone(),
            verify_key: config.import.verify_key.clone(),
            any_upstream: config.cache.offline,
            imports,
        }
    }

    /// Answers a request that is about transfers; gives any other back.
    pub async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Request<Incoming>> {
        let path = request.uri().path().to_owned();
        let method = match path.as_str() {
            "/api/v1/prefetch" | "/api/v1/import" => Method::POST,
            "/api/v1/served" => Method::GET,
            _ => return Err(request),
        };
        if request.method() != method {
            return Ok(problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} takes {method}")));
        }
        Ok(match path.as_str() {
            "/api/v1/prefetch" => self.prefetch(request).await,
            "/api/v1/import" => self.import(request).await,
            _ => self.images().await,
        })
    }

    async fn prefetch(&self, request: Request<Incoming>) -> Answer {
        let body = match super::whole(request.into_body(), MAX_ORDER).await {
            Ok(body) => body,
            Err((status, why)) => return problem(status, &why),
        };
        let order: Order = match serde_json::from_slice(&body) {
            Ok(order) => order,
            Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("this is no order of images: {error}")),
        };
        let wishes: Vec<Wish> = match order.images.iter().map(|image| image.parse()).collect() {
            Ok(wishes) => wishes,
            Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("{error}")),
        };
        let (sender, events) = mpsc::channel(256);
        let pull = self.pull.clone();
        // Goes on without its client: what was ordered is wanted.
        let work = tokio::spawn(prefetch(pull, wishes, order.options, sender.clone()));
        tokio::spawn(tell_of_its_end(work, sender));
        super::typed("application/x-ndjson", Lines(events).boxed_unsync())
    }

    async fn import(&self, request: Request<Incoming>) -> Answer {
        let Some(turn) = self.imports.turn() else {
            return problem(StatusCode::CONFLICT, "another import is running; wait for its end");
        };
        let options = match self.options(request.uri().query().unwrap_or_default()).await {
            Ok(options) => options,
            Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
        };
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(8);
        let mut body = request.into_body();
        let feed = tokio::spawn(async move {
            let mut importing = true;
            // Read to the end whatever becomes of the import: a client that still sends does not read an answer.
            loop {
                let frame = match tokio::time::timeout(BODY_TIMEOUT, body.frame()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return,
                    Err(_) => {
                        let stalled = io::Error::new(io::ErrorKind::TimedOut, "no more of the bundle came");
                        let _ = sender.send(Err(stalled)).await;
                        return;
                    }
                };
                let chunk = match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => Ok(data),
                    Ok(Err(_)) => continue,
                    Err(error) => Err(io::Error::other(format!("the connection broke: {error}"))),
                };
                let broken = chunk.is_err();
                importing = importing && sender.send(chunk).await.is_ok();
                if broken {
                    return;
                }
            }
        });
        let body = Body { receiver, chunk: Bytes::new() };
        let cache = self.pull.cache().clone();
        // Goes on without its client, and alone, to its end: all of the bundle or nothing of it.
        let import = tokio::spawn(async move {
            let opened = spawn_blocking(move || input::detect(body)).await.map_err(io::Error::other).flatten();
            let imported = match opened {
                Ok(input) => import::import(cache, input, options, &turn).await,
                Err(error) => Err(error.into()),
            };
            match &imported {
                Ok(report) => tracing::info!(
                    images = report.images.len(),
                    objects = report.new_blobs,
                    size_bytes = report.new_bytes,
                    duration_ms = report.milliseconds,
                    "a bundle was imported"
                ),
                Err(error) => tracing::warn!(%error, "a bundle was not imported"),
            }
            drop(turn);
            imported
        });
        let imported = import.await;
        let _ = feed.await;
        match imported {
            Ok(Ok(report)) => json(StatusCode::OK, &report),
            Ok(Err(error)) => problem(status(&error), &error.to_string()),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    async fn options(&self, query: &str) -> Result<import::Options, String> {
        let key = self.verify_key.clone();
        let verifier = spawn_blocking(move || key.map(|key| Verifier::from_file(&key)).transpose()).await;
        let verifier = verifier.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let names = || self.pull.upstreams().iter().map(|upstream| upstream.name().clone()).collect();
        let upstreams = (!self.any_upstream).then(names);
        let mut options = import::Options { verifier, upstreams, ..import::Options::default() };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "platform" => options.platforms = value.parse().map_err(|error: PlatformError| error.to_string())?,
                "name" => options.name = Some(value.parse::<ImageRef>().map_err(|error| error.to_string())?),
                // No other comes here.
                _ => {}
            }
        }
        Ok(options)
    }

    async fn images(&self) -> Answer {
        // Recency reaches the files once a minute.
        self.pull.cache().flush().await;
        let dir = self.dir.clone();
        let listed = spawn_blocking(move || -> Result<Vec<Listed>, StoreError> {
            let tree = Tree::open(&dir)?;
            let now = SystemTime::now();
            let tags = tree.tags()?.into_iter().filter_map(|tagged| {
                let (_, used) = tree.find(&tagged.digest)?;
                let image = tagged.scope.image(tagged.tag).to_string();
                let unused_seconds = now.duration_since(used).unwrap_or(Duration::ZERO).as_secs();
                Some(Listed { image, digest: tagged.digest.to_string(), unused_seconds })
            });
            Ok(tags.collect())
        });
        match listed.await.map_err(|error| error.to_string()).and_then(|listed| listed.map_err(|error| error.to_string())) {
            Ok(listed) => json(StatusCode::OK, &listed),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error),
        }
    }
}

/// Tells the client if the work on its order has ended before its time: what just stops looks like what is done.
async fn tell_of_its_end(work: JoinHandle<Vec<Outcome>>, events: mpsc::Sender<Event>) {
    let Err(error) = work.await else { return };
    tracing::error!(%error, "a prefetch broke off");
    let outcome = Outcome::failed("the rest of the order".to_owned(), format!("the mirror broke off: {error}"));
    let _ = events.send(Event::Done(outcome)).await;
}

/// Whose fault it was.
fn status(error: &ImportError) -> StatusCode {
    match error {
        ImportError::Io(_) | ImportError::NoRoom(NoRoom::Disk(_) | NoRoom::Panicked(_)) | ImportError::Unwritten { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ImportError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ImportError::NoRoom(NoRoom::Full { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = super::typed("application/json", Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn problem(status: StatusCode, why: &str) -> Answer {
    json(status, &serde_json::json!({ "error": why }))
}

/// Events, one JSON object a line.
struct Lines(mpsc::Receiver<Event>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| {
            let mut line = serde_json::to_vec(&event?).ok()?;
            line.push(b'\n');
            Some(Ok(Frame::data(line.into())))
        })
    }
}

/// A request's body, read by a thread that may block.
struct Body {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let len = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_that_breaks_off_does_not_look_done() {
        let (sender, mut events) = mpsc::channel(1);
        tokio::spawn(tell_of_its_end(tokio::spawn(async { panic!("a defect") }), sender.clone()));
        let Some(Event::Done(outcome)) = events.recv().await else { panic!("it was not told") };
        assert!(outcome.error.is_some_and(|error| error.contains("a defect")));
        tell_of_its_end(tokio::spawn(async { Vec::new() }), sender).await;
        assert_eq!(events.recv().await, None, "it is done");
    }
}

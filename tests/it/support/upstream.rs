//! A scripted upstream registry on loopback.
//!
//! Beneath is an honest registry that answers as distribution does; on top each path can be made to misbehave
//! ([`Upstream::on`], [`Act`]) or be held ([`Upstream::gate`]). Whatever arrives and whatever is sent is recorded.
//!
//! ```ignore
//! let up = Upstream::start().await;
//! let image = Image::small(1);
//! up.push_image("library/alpine", "latest", &image);
//! up.on(&blob_path("library/alpine", &image.layers[0])).then(Act::honest().reset_after(1000));
//! ```

mod act;
mod auth;
mod gzip;
mod journal;
mod registry;
mod script;
mod tls;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use roadstead::oci::Digest;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use act::{Act, Reply};
pub use auth::{Accounts, Auth, Tokens};
pub use journal::{Journal, Request};
pub use script::{Gate, On, Pattern};

use self::registry::Registry;
use self::script::Scripts;
use super::image::{Blob, Image, Index};
use super::until;

/// Where a blob is.
pub fn blob_path(repository: &str, blob: &Blob) -> String {
    format!("/v2/{repository}/blobs/{}", blob.digest)
}

/// Where a manifest is, by tag or digest.
pub fn manifest_path(repository: &str, reference: impl fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// A registry that does what the test says. Clones are the same registry.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    tls: Option<(TlsAcceptor, String)>,
    journal: Journal,
    scripts: Scripts,
    state: Mutex<State>,
    listening: tokio::sync::Mutex<Listening>,
}

#[derive(Default)]
struct State {
    registry: Registry,
    auth: Option<Auth>,
    tokens: Tokens,
    objects: HashMap<String, Bytes>,
    /// Method and path that each valid signature is for.
    signatures: HashMap<String, (String, String)>,
    signed: usize,
}

enum Listening {
    Up(JoinHandle<()>),
    /// The port is kept, so that nobody else takes it; connections are refused because nothing listens.
    Down(TcpSocket),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.0.address)
    }
}

impl Upstream {
    /// An empty registry on a free port, plain HTTP.
    pub async fn start() -> Self {
        Self::begin(None).await
    }

    /// An empty registry on a free port, HTTPS beneath a root of its own; see [`Upstream::root`].
    pub async fn start_tls() -> Self {
        Self::begin(Some(tls::acceptor(None))).await
    }

    /// The same, for those alone who show a certificate beneath this root.
    pub async fn start_tls_for(clients: &str) -> Self {
        Self::begin(Some(tls::acceptor(Some(clients)))).await
    }

    async fn begin(tls: Option<(TlsAcceptor, String)>) -> Self {
        let socket = bound(([127, 0, 0, 1], 0).into());
        let address = socket.local_addr().expect("bound");
        let (journal, scripts, state) = Default::default();
        let listening = tokio::sync::Mutex::new(Listening::Down(socket));
        let upstream = Self(Arc::new(Inner { address, tls, journal, scripts, state, listening }));
        upstream.up().await;
        upstream
    }

    /// Listens again, on the same port.
    pub async fn up(&self) {
        let mut listening = self.0.listening.lock().await;
        let Listening::Down(_) = *listening else { return };
        let idle = Listening::Up(tokio::spawn(async {}));
        let Listening::Down(socket) = std::mem::replace(&mut *listening, idle) else { unreachable!("seen above") };
        let listener = socket.listen(1024).expect("the port is ours");
        *listening = Listening::Up(tokio::spawn(self.clone().accept(listener)));
    }

    /// Stops listening and cuts every connection. New ones are refused until [`Upstream::up`].
    pub async fn down(&self) {
        let mut listening = self.0.listening.lock().await;
        if let Listening::Up(task) = &mut *listening {
            task.abort();
            let _ = task.await;
            until("every connection to be cut", || self.0.journal.running() == 0).await;
            *listening = Listening::Down(bound(self.0.address));
        }
    }

    async fn accept(self, listener: TcpListener) {
        // Dropped with this task, and then each connection is closed.
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.expect("a connection").0,
                Some(_) = connections.join_next() => continue,
            };
            let upstream = self.clone();
            connections.spawn(async move {
                let _ = stream.set_nodelay(true);
                match upstream.0.tls.as_ref().map(|(acceptor, _)| acceptor.clone()) {
                    None => wire::serve(upstream, Box::new(stream)).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            wire::serve(upstream, Box::new(stream)).await;
                        }
                    }
                }
            });
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        match self.0.tls {
            Some(_) => format!("https://localhost:{}", self.0.address.port()),
            None => format!("http://{}", self.0.address),
        }
    }

    /// The root certificate that its own stands under, in PEM.
    pub fn root(&self) -> &str {
        self.0.tls.as_ref().map(|(_, root)| root.as_str()).expect("started with TLS")
    }

    // Content.

    /// Puts an image under a tag.
    pub fn push_image(&self, repository: &str, tag: &str, image: &Image) {
        self.push_untagged(repository, image);
        self.tag(repository, tag, &image.manifest.digest);
    }

    /// Puts an image, or an artifact, that only its digest names.
    pub fn push_untagged(&self, repository: &str, image: &Image) {
        image.blobs().for_each(|blob| self.push_blob(repository, blob));
        self.push_manifest(repository, &image.manifest);
    }

    /// Puts an index and all its images under a tag.
    pub fn push_index(&self, repository: &str, tag: &str, index: &Index) {
        index.images.iter().for_each(|image| self.push_untagged(repository, image));
        self.push_manifest(repository, &index.manifest);
        self.tag(repository, tag, &index.manifest.digest);
    }

    /// Puts a blob. A digest that `bytes` do not have is kept as it is: what a broken registry would serve.
    pub fn push_blob(&self, repository: &str, blob: &Blob) {
        self.state().registry.put_blob(repository, blob);
    }

    /// Puts a manifest.
    pub fn push_manifest(&self, repository: &str, manifest: &Blob) {
        self.state().registry.put_manifest(repository, manifest);
    }

    /// Points a tag at a digest, or elsewhere than before.
    pub fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.state().registry.put_tag(repository, tag, digest);
    }

    /// Removes a tag, a manifest or a blob.
    pub fn remove(&self, repository: &str, reference: impl fmt::Display) {
        self.state().registry.remove(repository, &reference.to_string());
    }

    /// Has a referrers API with so many descriptors on a page; without this call there is none.
    pub fn referrers(&self, page: usize) {
        self.state().registry.referrers = Some(page);
    }

    // Behaviour.

    /// The script of a [`Pattern`]: a path, or a method and a path, with `*` for anything.
    pub fn on(&self, pattern: &str) -> On {
        On { scripts: self.0.scripts.clone(), pattern: Pattern::new(pattern) }
    }

    /// Lets heads pass and holds bodies, until told otherwise. A newer gate replaces an older one.
    pub fn gate(&self, pattern: &str) -> Gate {
        self.add_gate(pattern, true)
    }

    /// Holds the whole answer, the head too, until told otherwise.
    pub fn gate_head(&self, pattern: &str) -> Gate {
        self.add_gate(pattern, false)
    }

    fn add_gate(&self, pattern: &str, head: bool) -> Gate {
        let gate = Gate::new(Pattern::new(pattern), head);
        self.0.scripts.add_gate(gate.clone());
        gate
    }

    /// Answers nobody who is not signed in; everybody with `None`.
    pub fn require(&self, auth: impl Into<Option<Auth>>) {
        self.state().auth = auth.into();
    }

    /// Looks at, or changes, the tokens that `/token` issues here.
    pub fn with_tokens<T>(&self, change: impl FnOnce(&mut Tokens) -> T) -> T {
        change(&mut self.state().tokens)
    }

    /// Makes every signed URL that leads here invalid.
    pub fn expire_signatures(&self) {
        self.state().signatures.clear();
    }

    // Evidence.

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.0.journal.requests()
    }

    /// How many requests a [`Pattern`] has matched.
    pub fn count(&self, pattern: &str) -> usize {
        let pattern = Pattern::new(pattern);
        self.0.journal.count(|request| pattern.matches(&request.method, &request.path))
    }

    /// The body bytes sent to requests that a [`Pattern`] matches. What a client did not read may be among them.
    pub fn sent(&self, pattern: &str) -> u64 {
        let pattern = Pattern::new(pattern);
        self.0.journal.sent(|request| pattern.matches(&request.method, &request.path))
    }

    /// Waits until a [`Pattern`] has matched so many requests.
    pub async fn asked(&self, pattern: &str, count: usize) {
        until(&format!("{count} requests for {pattern}"), || self.count(pattern) >= count).await;
    }

    /// The record itself: highest numbers at once, what runs now.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(self) fn scripts(&self) -> &Scripts {
        &self.0.scripts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test thread died with it")
    }

    /// What an honest registry says; `range` is false where `Range` is to be overlooked.
    fn honest(&self, request: &Request, range: bool) -> Reply {
        if request.path == "/token" {
            return self.with_tokens(|tokens| tokens.issue(request));
        }
        if request.path.starts_with("/signed/") {
            return self.signed(request, range);
        }
        // Not under the lock: the issuer of tokens may be this registry.
        let auth = self.state().auth.clone();
        auth.and_then(|auth| auth.refuse(request)).unwrap_or_else(|| self.state().registry.answer(request, range))
    }

    /// A redirect to `host`, where the same bytes are then; or the refusal that needs no redirect.
    fn redirected(&self, request: &Request, host: &Self) -> Reply {
        let honest = self.honest(request, false);
        if honest.status != 200 {
            return honest;
        }
        let path = format!("/signed{}", request.path);
        let mut state = host.state();
        state.signed += 1;
        let signature = format!("s{}", state.signed);
        state.signatures.insert(signature.clone(), (request.method.clone(), path.clone()));
        state.objects.insert(path.clone(), honest.body);
        drop(state);
        let mut reply = Reply::new(307, "text/html; charset=utf-8", "");
        reply.set("Location", &format!("{}{path}?X-Signature={signature}", host.url()));
        reply
    }

    /// An object store: knows signatures, refuses whoever also brings a token, as S3 does.
    fn signed(&self, request: &Request, range: bool) -> Reply {
        let denied = |status, code| {
            Reply::new(status, "application/xml", format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>"))
        };
        if request.header("authorization").is_some() {
            return denied(400, "InvalidArgument");
        }
        let signature = request.parameter("X-Signature").unwrap_or_default();
        let state = self.state();
        if state.signatures.get(&signature) != Some(&(request.method.clone(), request.path.clone())) {
            return denied(403, "AccessDenied");
        }
        let mut reply = registry::object(&state.objects[&request.path], request, range);
        reply.set("Content-Type", "binary/octet-stream");
        reply
    }
}

/// A socket bound to `address`, not listening.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(address).expect("a free port");
    socket
}

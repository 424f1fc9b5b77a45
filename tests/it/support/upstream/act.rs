//! What a scripted path does: an [`Act`] is one answer, honest or not, and the way in which it is sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Upstream;
use super::gzip::gzip;

/// An answer on its way out.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers, framing excepted.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Where `body` begins in the object that it is a part of: what gates count from.
    pub start: u64,
    /// How the end of the body is made known.
    pub framing: Framing,
}

/// How the end of a body is made known.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    /// `Content-Length`, true.
    Length,
    /// `Content-Length: n`, whatever is sent.
    Claimed(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Not at all: the connection's end is the body's.
    Unframed,
}

impl Reply {
    /// An answer with a body of this type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into(), start: 0, framing: Framing::Length }
    }

    /// An OCI error body, as distribution writes it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
        Self::new(status, "application/json; charset=utf-8", format!("{body}\n"))
    }

    /// Sets a header, in place of one that is there.
    pub fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Removes a header.
    pub fn unset(&mut self, name: &str) {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
    }
}

/// Where the answer comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// What the registry would honestly say.
    Registry,
    /// What the registry would say to the same request without `Range`.
    WithoutRange,
    /// Always this.
    Fixed(Reply),
    /// A redirect to the object on this host, by a URL that is signed for one method and can expire.
    Signed(Upstream),
    /// These bytes instead of any answer; then the connection is closed.
    Raw(Bytes),
    /// No answer.
    Hang,
}

/// What ends a body before its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Break {
    /// Nothing more comes, the connection stays open.
    Stall,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
}

type Edit = Arc<dyn Fn(&mut Reply) + Send + Sync>;

/// One scripted answer. Starts from what the registry would say, unless made otherwise; each method changes one thing.
#[derive(Clone)]
pub struct Act {
    pub(super) source: Source,
    edits: Vec<Edit>,
    pub(super) delay: Duration,
    pub(super) drip: Option<(usize, Duration)>,
    pub(super) broken: Option<(u64, Break)>,
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Act").field("source", &self.source).field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl Act {
    fn of(source: Source) -> Self {
        Self { source, edits: Vec::new(), delay: Duration::ZERO, drip: None, broken: None }
    }

    /// What the registry would say.
    pub fn honest() -> Self {
        Self::of(Source::Registry)
    }

    /// A status with an OCI error body; see [`Act::body`] for another.
    pub fn status(status: u16) -> Self {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "MANIFEST_UNKNOWN",
            405 => "UNSUPPORTED",
            429 => "TOOMANYREQUESTS",
            503 => "UNAVAILABLE",
            _ => "UNKNOWN",
        };
        Self::of(Source::Fixed(Reply::error(status, code, "scripted")))
    }

    /// 200 and a page in HTML, as a captive portal or a login page answers.
    pub fn html() -> Self {
        let page = "<!doctype html><html><body><h1>Please sign in</h1></body></html>\n";
        Self::of(Source::Fixed(Reply::new(200, "text/html; charset=utf-8", page)))
    }

    /// A redirect to any URL.
    pub fn location(status: u16, url: &str) -> Self {
        Self::of(Source::Fixed(Reply::new(status, "text/html", ""))).header("Location", url)
    }

    /// A 307 to `cdn`, by a URL signed for this request's method; `cdn` serves the same bytes there until
    /// [`Upstream::expire_signatures`].
    pub fn redirect(cdn: &Upstream) -> Self {
        Self::of(Source::Signed(cdn.clone()))
    }

    /// The connection is accepted, the request is read, nothing ever comes.
    pub fn hang() -> Self {
        Self::of(Source::Hang)
    }

    /// These bytes instead of an HTTP answer; then the connection is closed. Empty: closed without a word.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Raw(bytes.into()))
    }

    /// Sets a header, in place of the one that is there.
    pub fn header(self, name: &str, value: &str) -> Self {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.edit(move |reply| reply.set(&name, &value))
    }

    /// Leaves a header out.
    pub fn without(self, name: &str) -> Self {
        let name = name.to_owned();
        self.edit(move |reply| reply.unset(&name))
    }

    /// Another body; headers stay, `Content-Length` follows.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.edit(move |reply| reply.body = body.clone())
    }

    /// Wrong bytes of the right length: the byte in the middle of the body is another one.
    pub fn corrupt(self) -> Self {
        self.edit(|reply| {
            let mut bytes = reply.body.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x55;
            }
            reply.body = bytes.into();
        })
    }

    /// Only the first `count` bytes, as if they were all there are: the answer ends cleanly.
    pub fn only(self, count: usize) -> Self {
        self.edit(move |reply| reply.body.truncate(count))
    }

    /// `Content-Length: length`, whatever is sent. Longer than the body: the connection is closed where it ends.
    /// Shorter: the surplus is sent all the same.
    pub fn claim_length(self, length: u64) -> Self {
        self.edit(move |reply| reply.framing = Framing::Claimed(length))
    }

    /// `Transfer-Encoding: chunked`, no `Content-Length`.
    pub fn chunked(self) -> Self {
        self.edit(|reply| reply.framing = Framing::Chunked)
    }

    /// Neither length nor chunks: the connection's end is the body's.
    pub fn unframed(self) -> Self {
        self.edit(|reply| reply.framing = Framing::Unframed)
    }

    /// 200 and everything, whatever `Range` asks for.
    pub fn ignore_range(mut self) -> Self {
        self.source = Source::WithoutRange;
        self
    }

    /// The body in gzip, and a header that says so.
    pub fn gzip(self) -> Self {
        self.edit(|reply| {
            reply.body = gzip(&reply.body);
            reply.set("Content-Encoding", "gzip");
        })
    }

    /// The head comes this late.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The body comes `bytes` at a time, with a pause after each.
    pub fn drip(mut self, bytes: usize, pause: Duration) -> Self {
        self.drip = Some((bytes, pause));
        self
    }

    /// After `count` body bytes nothing more comes, while the connection stays open.
    pub fn stall_after(mut self, count: u64) -> Self {
        self.broken = Some((count, Break::Stall));
        self
    }

    /// After `count` body bytes the connection is closed.
    pub fn close_after(mut self, count: u64) -> Self {
        self.broken = Some((count, Break::Close));
        self
    }

    /// After `count` body bytes the connection is reset. What is still in the sockets' buffers is lost with it.
    pub fn reset_after(mut self, count: u64) -> Self {
        self.broken = Some((count, Break::Reset));
        self
    }

    fn edit(mut self, edit: impl Fn(&mut Reply) + Send + Sync + 'static) -> Self {
        self.edits.push(Arc::new(edit));
        self
    }

    /// Applies the changes to what the source gave.
    pub(super) fn apply(&self, mut reply: Reply) -> Reply {
        for edit in &self.edits {
            edit(&mut reply);
        }
        reply
    }
}

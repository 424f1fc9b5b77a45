//! HTTP/1.1 by hand, server side: reads requests, writes exactly the bytes that an [`Act`] asks for.
//!
//! No HTTP library, because none will state a false length, end a body early in three different ways or send half a
//! chunk. One connection is served by one task, one request after another; pipelining is not understood.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Upstream;
use super::act::{Act, Break, Framing, Reply, Source};
use super::journal::{Entry, Request};
use super::script::Gate;

/// How much is written at a time, so that `sent` is never far from the truth.
const PIECE: u64 = 32 * 1024;

/// A connection, in the clear or not.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    /// The TCP connection beneath.
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// What happens to the connection after an answer.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Keep,
    Close,
    Reset,
    /// The peer has left, or its connection broke.
    Gone,
}

/// Serves a connection to its end.
pub async fn serve(upstream: Upstream, mut socket: Box<dyn Socket>) {
    let mut buffer = BytesMut::new();
    while let Some(request) = read(&mut *socket, &mut buffer).await {
        let close = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match answer(&upstream, &mut *socket, request, close).await {
            After::Keep => {}
            After::Close => {
                let _ = socket.shutdown().await;
                return;
            }
            After::Reset => {
                // What was written before is let go first: a reset throws away what still waits.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = socket.tcp().set_zero_linger();
                return;
            }
            After::Gone => return,
        }
    }
}

/// The next request, `None` at the connection's end.
async fn read(socket: &mut dyn Socket, buffer: &mut BytesMut) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer.split_to(end)).into_owned();
    buffer.advance(4);
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.split(' ');
    let (method, target) = (start.next()?.to_owned(), start.next()?);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let path = path.to_owned();
    let mut request = Request { method, path, query, headers, body: Vec::new(), status: None, sent: 0, over: false };
    let length = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer.split_to(length).to_vec();
    Some(request)
}

/// Answers one request as scripted.
async fn answer(upstream: &Upstream, socket: &mut dyn Socket, request: Request, close: bool) -> After {
    let entry = upstream.journal().begin(request.clone());
    let gate = upstream.scripts().gate(&request.method, &request.path);
    let act = upstream.scripts().take(&request.method, &request.path);
    if let Some(gate) = &gate {
        gate.enter();
        if unless_gone(socket, gate.head()).await.is_none() {
            return After::Gone;
        }
    }
    if unless_gone(socket, tokio::time::sleep(act.delay)).await.is_none() {
        return After::Gone;
    }
    let reply = match &act.source {
        Source::Hang => {
            unless_gone(socket, std::future::pending::<()>()).await;
            return After::Gone;
        }
        Source::Raw(bytes) => {
            let _ = socket.write_all(bytes).await;
            return After::Close;
        }
        Source::Fixed(reply) => reply.clone(),
        Source::Registry => upstream.honest(&request, true),
        Source::WithoutRange => upstream.honest(&request, false),
        Source::Signed(host) => upstream.redirected(&request, host),
    };
    let reply = act.apply(reply);
    entry.status(reply.status);
    let Ok(()) = socket.write_all(&head(&reply, close)).await else { return After::Gone };
    if request.method == "HEAD" || bodiless(reply.status) {
        return if close { After::Close } else { After::Keep };
    }
    let after = body(socket, &reply, &act, gate.as_ref(), &entry).await;
    if close && after == After::Keep { After::Close } else { after }
}

/// Whether an answer has no body by its status.
fn bodiless(status: u16) -> bool {
    [204, 304].contains(&status)
}

/// Status line and headers.
fn head(reply: &Reply, close: bool) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Scripted");
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", reply.status);
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    match reply.framing {
        _ if bodiless(reply.status) => {}
        Framing::Length => text += &format!("Content-Length: {}\r\n", reply.body.len()),
        Framing::Claimed(length) => text += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
        Framing::Unframed => {}
    }
    if close {
        text += "Connection: close\r\n";
    }
    (text + "\r\n").into_bytes()
}

/// Sends the body: to its end, or to where it breaks.
async fn body(socket: &mut dyn Socket, reply: &Reply, act: &Act, gate: Option<&Gate>, entry: &Entry) -> After {
    let length = reply.body.len() as u64;
    let broken = act.broken.filter(|(count, _)| *count <= length);
    let limit = broken.map_or(length, |(count, _)| count);
    let piece = act.drip.map_or(PIECE, |(bytes, _)| bytes as u64);
    let mut position = 0;
    while position < limit {
        let mut end = limit.min(position + piece);
        if let Some(gate) = gate {
            let Some(open) = unless_gone(socket, gate.beyond(reply.start + position)).await else { return After::Gone };
            end = end.min(open - reply.start);
        }
        let Ok(()) = write(socket, reply, position..end).await else { return After::Gone };
        entry.sent(end - position);
        position = end;
        // Not after the last one: the next request may come before the pause is over, and would be taken for a farewell.
        if let Some((_, pause)) = act.drip
            && position < limit
            && unless_gone(socket, tokio::time::sleep(pause)).await.is_none()
        {
            return After::Gone;
        }
    }
    match (broken, reply.framing) {
        (Some((_, Break::Stall)), _) => {
            unless_gone(socket, std::future::pending::<()>()).await;
            After::Gone
        }
        (Some((_, Break::Close)), _) => After::Close,
        (Some((_, Break::Reset)), _) => After::Reset,
        (None, Framing::Length) => After::Keep,
        (None, Framing::Claimed(_) | Framing::Unframed) => After::Close,
        (None, Framing::Chunked) => match socket.write_all(b"0\r\n\r\n").await {
            Ok(()) => After::Keep,
            Err(_) => After::Gone,
        },
    }
}

/// Writes a part of the body, in a chunk of its own where the body is chunked.
async fn write(socket: &mut dyn Socket, reply: &Reply, part: std::ops::Range<u64>) -> std::io::Result<()> {
    let bytes = &reply.body[part.start as usize..part.end as usize];
    match reply.framing {
        Framing::Chunked => {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            socket.write_all(&chunk).await?;
        }
        _ => socket.write_all(bytes).await?,
    }
    socket.flush().await
}

/// Waits for `future`; `None` if the peer leaves first.
async fn unless_gone<T>(socket: &mut dyn Socket, future: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        let mut unexpected = [0; 256];
        while socket.read(&mut unexpected).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        biased;
        value = future => Some(value),
        () = gone => None,
    }
}

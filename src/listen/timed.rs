//! The client's connection, with a limit on how long it may take no byte, and what is known of its last one.
//!
//! hyper has no such limit: without this, a client that stops reading holds its connection, and whatever its answer needs, for
//! ever. Wraps the connections of `server` and of `admin`.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Read at once when the first bytes are looked at: most requests' heads.
const FIRST_READ: usize = 2048;

/// A stream whose writes fail when the other side has taken nothing for too long.
#[derive(Debug)]
pub struct Timed<S> {
    inner: S,
    write_timeout: Duration,
    /// Runs while a write waits. Boxed: most connections never wait.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Bytes that were looked at and are still to be read.
    ahead: Vec<u8>,
    /// Whether the last byte was one of the client's.
    head_begun: bool,
    /// Called when the client has taken something that a write waited for; `None` from then on.
    takes: Option<fn(&S)>,
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, write_timeout: Duration) -> Self {
        Self { inner, write_timeout, stalled: None, ahead: Vec::new(), head_begun: false, takes: None }
    }

    /// Calls this, once, when the client has shown that it reads: a write had to wait for it, and then could go on.
    pub fn once_it_reads(mut self, takes: fn(&S)) -> Self {
        self.takes = Some(takes);
        self
    }

    /// Whether the client has sent something since it was last sent anything: of a connection that waits for a request,
    /// whether the request has begun.
    pub fn head_begun(&self) -> bool {
        self.head_begun
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some()
                && let Some(takes) = self.takes.take()
            {
                takes(&self.inner);
            }
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                // Polled again after an error, as hyper may do when it closes, it waits once more.
                stalled.as_mut().reset(Instant::now() + self.write_timeout);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Timed<S> {
    /// Whether the client begins with `preface`. What it has sent is read again afterwards. To be called before anything is
    /// read; a call that is cancelled keeps what has come.
    pub async fn begins_with(&mut self, preface: &[u8]) -> io::Result<bool> {
        loop {
            let known = self.ahead.len().min(preface.len());
            if self.ahead[..known] != preface[..known] {
                return Ok(false);
            }
            if known == preface.len() {
                return Ok(true);
            }
            self.ahead.reserve(FIRST_READ);
            if self.inner.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
            self.head_begun = true;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.head_begun |= buf.filled().len() > before;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.head_begun &= written.is_pending();
        self.watch(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.head_begun &= written.is_pending();
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_let_go() {
        let (client, server) = tokio::io::duplex(10);
        let mut stream = Timed::new(server, Duration::from_secs(60));
        let started = Instant::now();
        let error = stream.write_all(&[0; 11]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not() {
        let (mut client, server) = tokio::io::duplex(10);
        let mut stream = Timed::new(server, Duration::from_secs(60));
        let reader = tokio::spawn(async move {
            let mut byte = [0; 1];
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut byte).await.unwrap();
            }
        });
        stream.write_all(&[0; 30]).await.unwrap();
        reader.await.unwrap();
    }
}

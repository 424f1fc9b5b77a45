//! File to socket without a copy: `sendfile(2)` beneath hyper, on plain HTTP/1.1 connections.
//!
//! hyper never looks at the bytes of a body: it asks each piece for slices and hands those to the socket's vectored
//! write. So a piece of a file poses as slices of one static marker, and [`Socket`], which knows the marker's addresses,
//! sends the file in their place. HTTP/1.1 answers leave strictly in order, so that the pieces wait in a queue.
//!
//! What must never happen is that the marker itself is sent. A [`Chunk::Span`] is therefore made only by
//! [`Lane::take`], for a connection that has a lane, which TLS and HTTP/2 connections have not; and a marker that meets
//! an empty queue is an error that closes the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::pull::body::Span;

/// Stands in for the bytes of files. As long as the longest slice that one write is offered. It takes no memory, because
/// nobody reads it, and no room in the binary, because it is zeros.
static MARKER: [u8; Span::LONGEST as usize] = [0; Span::LONGEST as usize];

/// Whether a slice lies within the marker.
fn is_marker(slice: &[u8]) -> bool {
    // Addresses are compared, not bytes: a blob may hold anything.
    let marker = MARKER.as_ptr_range();
    marker.contains(&slice.as_ptr()) && !slice.is_empty()
}

/// A piece of a body as hyper sees it.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// So many bytes of the file that is next in the connection's lane.
    Span(usize),
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Span(left) => *left,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Span(left) => &MARKER[..(*left).min(MARKER.len())],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::Span(left) => *left -= count,
        }
    }
}

/// The files that a connection has still to send, in order. Shared by its bodies and its socket.
#[derive(Clone, Debug, Default)]
pub struct Lane(Arc<Mutex<VecDeque<Span>>>);

impl Lane {
    /// Queues a piece of a file; what is returned goes to hyper.
    pub fn take(&self, span: Span) -> Chunk {
        let length = span.len();
        self.with(|queue| queue.push_back(span));
        Chunk::Span(length)
    }

    fn with<T>(&self, change: impl FnOnce(&mut VecDeque<Span>) -> T) -> T {
        change(&mut self.0.lock())
    }

    /// Sends from the file in front, at most `most` bytes. Blocks only where the page cache has lost what was warm a
    /// moment ago.
    fn send(&self, socket: &TcpStream, most: usize) -> io::Result<usize> {
        self.with(|queue| {
            let span = queue.front_mut().ok_or_else(|| io::Error::other("there is no file to send"))?;
            let mut at = span.start();
            let sent = rustix::fs::sendfile(socket, span.file(), Some(&mut at), span.len().min(most))?;
            if sent == 0 {
                // The file is shorter than the head of the answer said.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if span.advance(sent) {
                queue.pop_front();
            }
            Ok(sent)
        })
    }
}

/// A TCP connection that sends the files of its lane.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    lane: Lane,
}

impl Socket {
    /// Wraps a connection.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, lane: Lane::default() }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Where this connection's bodies queue their files.
    pub fn lane(&self) -> Lane {
        self.lane.clone()
    }

    /// Sends from the lane, at most `most` bytes.
    fn poll_send_file(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || self.lane.send(&self.tcp, most))
    }

    /// Repeats a system call until the socket takes something.
    fn poll_send(&self, cx: &mut Context<'_>, send: impl Fn() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_io(Interest::WRITABLE, &send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if is_marker(buf) {
            return self.poll_send_file(cx, buf.len());
        }
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match bufs.iter().position(|buf| is_marker(buf)) {
            None => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
            Some(0) => self.poll_send_file(cx, bufs[0].len()),
            // The head of the answer; the kernel keeps it until the file's first bytes fill its segment.
            Some(before) => self.poll_send(cx, || {
                let sent = rustix::net::sendmsg(
                    &self.tcp,
                    &bufs[..before],
                    &mut SendAncillaryBuffer::default(),
                    SendFlags::MORE | SendFlags::NOSIGNAL,
                )?;
                Ok(sent)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // What makes hyper hand on slices instead of copying them together.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

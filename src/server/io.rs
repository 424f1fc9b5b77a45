//! What carries a connection: a plain socket, which can send files, a unix socket, or TLS.
//!
//! One type for all, so that hyper is compiled once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::sendfile::Socket;

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Io {
    Plain(Socket),
    Unix(UnixStream),
    /// Boxed: it is ten times the size of the others.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The same call on whichever it is.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            Self::Unix($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

/// Bytes that the kernel holds for a client that has not read anything yet, beyond what is on its way (`TCP_NOTSENT_LOWAT`).
/// Without it a client that never reads gets megabytes of kernel memory, and the work of putting them there.
const ON_TRIAL: u32 = 128 << 10;

impl Io {
    /// The connection is new: little is kept for its client.
    pub fn on_trial(&self) {
        self.hold(ON_TRIAL);
    }

    /// Its client takes what it is sent: as much is kept for it as the kernel likes, which is the least work.
    pub fn trusted(&self) {
        self.hold(u32::MAX);
    }

    fn hold(&self, bytes: u32) {
        let tcp = match self {
            Self::Plain(socket) => socket.tcp(),
            Self::Tls(stream) => stream.get_ref().0,
            // The kernel holds little for them anyway.
            Self::Unix(_) => return,
        };
        // Where there is no such option, nothing changes.
        let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(bytes);
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        // All of them are.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

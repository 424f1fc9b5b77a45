//! A connection before anything is known of it: which kind it is, and how it gets from one thread's reactor to another's.
//! Made by [`super::Listener::accept`]; `server` and `admin` take it from there.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What a listener accepted.
#[derive(Debug)]
pub enum Accepted {
    /// A TCP connection, and its other end.
    Tcp(TcpStream, SocketAddr),
    /// A connection by a unix socket.
    Unix(UnixStream),
}

impl Accepted {
    /// The other end's address; `None` on a unix socket. An IPv4 client of an IPv6 socket has its IPv4 address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Self::Unix(_) => None,
        }
    }

    /// Takes the connection off this thread's reactor, for [`Detached::attach`] on another one's.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(socket, peer) => Detached::Tcp(socket.into_std()?, peer),
            Self::Unix(socket) => Detached::Unix(socket.into_std()?),
        })
    }

    /// The bytes, for whoever does not mind what carries them.
    pub fn into_stream(self) -> Stream {
        match self {
            Self::Tcp(socket, _) => {
                // A small answer leaves at once; large ones fill their segments anyway.
                let _ = socket.set_nodelay(true);
                Stream::Tcp(socket)
            }
            Self::Unix(socket) => Stream::Unix(socket),
        }
    }
}

/// A connection between two reactors.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream, SocketAddr),
    /// A unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Gives it to this thread's reactor.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(socket, peer) => Accepted::Tcp(TcpStream::from_std(socket)?, peer),
            Self::Unix(socket) => Accepted::Unix(UnixStream::from_std(socket)?),
        })
    }
}

/// A plain connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// The same call on whichever it is.
macro_rules! either {
    ($self:ident, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($socket) => $call,
            Self::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        either!(self, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}

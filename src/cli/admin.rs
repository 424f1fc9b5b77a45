//! The admin interface of a running mirror, as commands reach it: by TCP or by a unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::net::{TcpStream, UnixStream};

use super::serve::reachable;
use crate::config::Listen;
use crate::listen::Stream;

/// Where it is.
#[derive(Clone, Debug)]
pub(super) enum AdminAt {
    /// A host and a port.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl AdminAt {
    /// Where a mirror with this `admin.listen` can be asked; `None` if that cannot be told from here.
    pub fn of(listen: &Listen) -> Option<Self> {
        match listen {
            Listen::Tcp(address) | Listen::Plain(address) => Some(Self::Tcp(reachable(*address).to_string())),
            Listen::Unix(path) => Some(Self::Unix(path.clone())),
            Listen::Systemd(_) => None,
        }
    }

    /// Connects.
    pub async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }

    /// What the `Host` header says.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp(address) => address,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for AdminAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

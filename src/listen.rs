//! Listening: where connections come in, and TLS on them.
//!
//! Owns the sockets that are bound or passed by the service manager, and the server's certificates with their reload.
//! Knows nothing of HTTP and of what a connection is for. Used by `app`, which binds, and by `server` and `admin`,
//! which accept.

mod bind;
mod passed;
mod stream;
mod timed;
pub mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;

pub use bind::{BindError, bind};
pub use passed::Passed;
pub use stream::{Accepted, Detached, Stream};
pub use timed::Timed;

/// After an error, until the next try. Others will be closed soon.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the log says that nobody can be let in.
const NOTICE: Duration = Duration::from_secs(60);

/// A bound socket. Dropping it closes it, and removes the file of a unix socket that was made here.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    at: Place,
    told: Told,
    /// Whether TLS is spoken here if the interface has it.
    pub tls: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// With the file to remove, if it was made here.
    Unix(UnixListener, #[allow(dead_code, reason = "it acts when it is dropped")] Option<bind::SocketFile>),
}

/// When something that goes on was last told.
#[derive(Debug, Default)]
struct Told(Mutex<Option<Instant>>);

impl Told {
    /// Whether it is to be told now; then it has been.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| now.duration_since(last) >= NOTICE);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The address, with the port that the system chose.
    Tcp(SocketAddr),
    /// The file; `None` for a socket without a name.
    Unix(Option<PathBuf>),
}

impl Place {
    /// The address, if it is one of TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix:"),
        }
    }
}

impl Listener {
    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.at
    }

    /// Waits for the next connection. Cancel-safe. An error concerns that connection alone, or is a lack of file descriptors
    /// that passes: it is told, once a minute, and accepting goes on.
    pub async fn accept(&self) -> Accepted {
        loop {
            let error = match self.try_accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if self.told.is_due(Instant::now()) {
                tracing::warn!(at = %self.at, %error,
                    "cannot accept a connection; it is tried again, and clients wait (for more file descriptors: LimitNOFILE= or ulimit -n)");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(socket, peer)| Accepted::Tcp(socket, peer)),
            Socket::Unix(listener, _) => listener.accept().await.map(|(socket, _)| Accepted::Unix(socket)),
        }
    }
}

#[cfg(test)]
mod tests;

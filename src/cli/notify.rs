//! Telling the service manager how far the mirror is (sd_notify(3)): that it serves, that it reads its configuration again,
//! that it ends.
//!
//! Used by `serve`. Whoever waits for the mirror, as `systemctl start` and units ordered after it do with `Type=notify`, waits
//! until it serves. Where `NOTIFY_SOCKET` names no socket nobody is told; that telling fails is logged, and ends nothing.

use std::io;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;

/// Who started this process, if it wants to be told.
#[derive(Debug)]
pub(super) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// The one that the environment names. Within a runtime.
    pub fn from_env() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self(None);
        };
        let socket = connect(Path::new(&path));
        Self(socket.inspect_err(|error| tracing::warn!(%error, ?path, "NOTIFY_SOCKET cannot be used")).ok())
    }

    /// It serves: for the first time, or with what it has read.
    pub async fn ready(&self) {
        self.tell("READY=1").await;
    }

    /// It reads its configuration; [`Manager::ready`] follows.
    pub async fn reloading(&self) {
        // `Type=notify-reload` knows by the time that this is the answer to its signal.
        let now = clock_gettime(ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)).await;
    }

    /// It ends.
    pub async fn stopping(&self) {
        self.tell("STOPPING=1").await;
    }

    async fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes()).await
        {
            tracing::warn!(%error, state, "the service manager cannot be told");
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

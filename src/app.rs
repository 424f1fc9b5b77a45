//! Placeholder: binds the addresses and answers nothing, so that the command line can be built and tested.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;

use crate::config::Config;

/// The mirror.
pub struct Mirror;

/// A mirror that runs.
pub struct Running {
    listeners: Vec<TcpListener>,
    admin: Option<TcpListener>,
}

impl Mirror {
    /// Starts a mirror.
    pub async fn start(config: Config) -> anyhow::Result<Running> {
        let bind = |address: &SocketAddr| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
        let listeners = config.server.listen.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Running { listeners, admin: config.admin.listen.as_ref().map(bind).transpose()? })
    }
}

impl Running {
    /// Where clients pull.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where the admin interface is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Stops.
    pub async fn shutdown(self) {}
}

//! Sockets that the service manager has bound and passes to the process (sd_listen_fds(3)).

use std::io;
use std::net;
use std::os::unix::net as unix;

use listenfd::ListenFd;

use crate::config::Listen;

/// What was passed and is not taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<(String, Socket)>,
    /// Names that entries of the configuration ask for: not for an entry without a name.
    reserved: Vec<String>,
    problem: Option<String>,
}

/// One socket, in non-blocking mode.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener),
}

impl Passed {
    /// Takes what the environment names, if an entry asks for it; else nothing. To be called before the process has
    /// threads: it takes `LISTEN_FDS` and `LISTEN_PID` out of the environment, so that no child believes they are for it.
    pub fn from_env<'a>(entries: impl IntoIterator<Item = &'a Listen>) -> Self {
        let asked: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Listen::Systemd(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        if asked.is_empty() {
            return Self::default();
        }
        // Names are separated by colons, in the order of the descriptors.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut passed = Self { reserved: asked.into_iter().flatten().collect(), ..Self::default() };
        let mut fds = ListenFd::from_env();
        for index in 0..fds.len() {
            // As systemd calls those that have none.
            let name = names.get(index).filter(|name| !name.is_empty()).unwrap_or(&"unknown");
            match take(&mut fds, index) {
                Ok(Some(socket)) => passed.sockets.push(((*name).to_owned(), socket)),
                Ok(None) => {}
                Err(error) => passed.problem = Some(format!("the passed socket {name:?} cannot be used: {error}")),
            }
        }
        passed
    }

    /// The sockets of an entry. The error says what is missing.
    pub(super) fn take(&mut self, name: Option<&str>) -> Result<Vec<Socket>, String> {
        let wanted = |given: &str| name.map_or_else(|| !self.reserved.iter().any(|name| name == given), |name| name == given);
        let (taken, left) = std::mem::take(&mut self.sockets).into_iter().partition(|(given, _)| wanted(given));
        self.sockets = left;
        let taken: Vec<(String, Socket)> = taken;
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None if taken.is_empty() => Err(match name {
                Some(name) => format!("the service manager passes no socket of the name {name:?} (FileDescriptorName=)"),
                None => "the service manager passes no socket; is the process started by a .socket unit?".to_owned(),
            }),
            None => Ok(taken.into_iter().map(|(_, socket)| socket).collect()),
        }
    }
}

fn take(fds: &mut ListenFd, index: usize) -> io::Result<Option<Socket>> {
    let socket = match fds.take_tcp_listener(index) {
        Ok(socket) => socket.map(Socket::Tcp),
        Err(_) => fds.take_unix_listener(index)?.map(Socket::Unix),
    };
    match &socket {
        Some(Socket::Tcp(listener)) => listener.set_nonblocking(true)?,
        Some(Socket::Unix(listener)) => listener.set_nonblocking(true)?,
        None => {}
    }
    Ok(socket)
}

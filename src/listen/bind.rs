//! From an entry of the configuration to bound sockets.
//!
//! Owns the options of listening sockets, and the files of unix sockets from their making to their removal. Called by `app` at
//! the start.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::passed::{self, Passed};
use super::{Listener, Place, Socket, Told};
use crate::config::Listen;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// What connections from this machine send by (`TCP_CONGESTION`). The system's own choice may be one that spaces packets by
/// timers (bbr), for links that have queues; on loopback the timers are all there is to wait for, and cost more than the
/// bytes. Every kernel has this one, and permits it to everybody.
const UNPACED: &str = "reno";

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {entry}: {problem}; choose another with {key}{hint}")]
pub struct BindError {
    /// The entry as it is configured.
    entry: Listen,
    /// The key that it stands in.
    key: &'static str,
    problem: String,
    hint: &'static str,
}

/// Binds an entry of `key`: one socket, or as many as the service manager passes for it. `mode` is that of a unix
/// socket's file. On a thread where file system calls may wait, and within a runtime (I11).
pub fn bind(entry: &Listen, mode: u32, key: &'static str, passed: &mut Passed) -> Result<Vec<Listener>, BindError> {
    let failed = |problem: String, hint| BindError { entry: entry.clone(), key, problem, hint };
    let stop = " (or stop what uses it)";
    let one = match entry {
        Listen::Tcp(address) => tcp(*address, true).map_err(|error| failed(error.to_string(), stop))?,
        Listen::Plain(address) => tcp(*address, false).map_err(|error| failed(error.to_string(), stop))?,
        Listen::Unix(path) => unix(path, mode).map_err(|error| failed(error.to_string(), stop))?,
        Listen::Systemd(name) => {
            let sockets = passed.take(name.as_deref()).map_err(|problem| failed(problem, ""))?;
            let listeners = sockets.into_iter().map(adopt).collect::<io::Result<_>>();
            return listeners.map_err(|error| failed(error.to_string(), ""));
        }
    };
    Ok(vec![one])
}

fn tcp(address: SocketAddr, tls: bool) -> io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the last run's closed connections to be forgotten.
    socket.set_reuseaddr(true)?;
    if address.ip().is_loopback() {
        // Before there is a connection: one that has begun with pacing keeps it. Where it cannot be set it is as before.
        let _ = rustix::net::sockopt::set_tcp_congestion(&socket, UNPACED);
    }
    socket.bind(address)?;
    of_tcp(socket.listen(BACKLOG)?, tls)
}

fn of_tcp(listener: TcpListener, tls: bool) -> io::Result<Listener> {
    let at = Place::Tcp(listener.local_addr()?);
    Ok(Listener { socket: Socket::Tcp(listener), at, told: Told::default(), tls })
}

fn adopt(socket: passed::Socket) -> io::Result<Listener> {
    match socket {
        passed::Socket::Tcp(listener) => of_tcp(TcpListener::from_std(listener)?, true),
        passed::Socket::Unix(listener) => {
            let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
            // Its file is the service manager's.
            Ok(of_unix(UnixListener::from_std(listener)?, None, path))
        }
    }
}

/// The file of a unix socket that was bound here; removed when this is dropped, unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Once, at the end of a process.
        if identity(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds beside `path` and moves the socket there, so that it is never seen with other permissions than `mode`, and takes
/// the place of one that nobody listens on in one step.
fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
    check_place(path)?;
    let mut beside = path.as_os_str().as_bytes().to_vec();
    beside.extend_from_slice(format!(".{}", std::process::id()).as_bytes());
    let beside = PathBuf::from(std::ffi::OsStr::from_bytes(&beside));
    let _ = fs::remove_file(&beside);
    let listener = unix::UnixListener::bind(&beside)?;
    let placed = fs::set_permissions(&beside, fs::Permissions::from_mode(mode))
        .and_then(|()| identity(&beside))
        .and_then(|id| fs::rename(&beside, path).map(|()| id));
    let id = placed.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    listener.set_nonblocking(true)?;
    let socket = UnixListener::from_std(listener)?;
    let file = SocketFile { path: path.to_owned(), id };
    Ok(of_unix(socket, Some(file), Some(path.to_owned())))
}

fn of_unix(listener: UnixListener, file: Option<SocketFile>, path: Option<PathBuf>) -> Listener {
    Listener { socket: Socket::Unix(listener, file), at: Place::Unix(path), told: Told::default(), tls: false }
}

/// Fails unless `path` is free, or a socket that an ended process has left.
fn check_place(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("there is a file of that name, and it is no socket"));
    }
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(io::Error::other("another process listens there")),
        Err(error) => Err(error),
    }
}

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::config::Listen;

fn at(path: &Path) -> Result<Listener, BindError> {
    let bound = bind(&Listen::Unix(path.to_owned()), 0o640, "server.listen", &mut Passed::default());
    bound.map(|mut listeners| listeners.remove(0))
}

/// What lies in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pull.sock");
    let listener = at(&path).unwrap();
    assert_eq!(listener.place(), &Place::Unix(Some(path.clone())));
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert_eq!(names(folder.path()), ["pull.sock"]);

    let client = tokio::spawn(async move { UnixStream::connect(path).await.unwrap().write_all(b"x").await.unwrap() });
    let accepted = listener.accept().await;
    assert_eq!(accepted.address(), None);
    let mut stream = accepted.detach().unwrap().attach().unwrap().into_stream();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    client.await.unwrap();
    drop(listener);
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn only_a_socket_that_nobody_listens_on_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pull.sock");
    let first = at(&path).unwrap();
    let error = at(&path).unwrap_err().to_string();
    assert!(error.contains("another process listens there") && error.contains("server.listen"), "{error}");
    UnixStream::connect(&path).await.unwrap();
    drop(first);

    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(names(folder.path()), ["pull.sock"]);
    let second = at(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();

    // Somebody else's by now: it stays.
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(second);
    assert_eq!(names(folder.path()), ["pull.sock"]);

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(at(&file).unwrap_err().to_string().contains("it is no socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(at(&folder.path().join("missing/pull.sock")).is_err());
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(&Listen::Plain(address), 0, "admin.listen", &mut Passed::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("plain:{address}")) && error.contains("choose another with admin.listen"), "{error}");
    let error = bind(&Listen::Systemd(Some("web".into())), 0, "server.listen", &mut Passed::default()).unwrap_err();
    assert!(error.to_string().contains("no socket of the name \"web\""), "{error}");
}

#[tokio::test]
async fn loopback_is_not_paced_and_the_rest_is_as_the_system_has_it() {
    let systems = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    for (address, congestion) in [("127.0.0.1:0", "reno"), ("[::1]:0", "reno"), ("0.0.0.0:0", systems.trim())] {
        let listener = match bind(&Listen::Tcp(address.parse().unwrap()), 0, "server.listen", &mut Passed::default()) {
            Ok(mut listeners) => listeners.remove(0),
            // A machine without IPv6.
            Err(_) if address.starts_with('[') => continue,
            Err(error) => panic!("{error}"),
        };
        let &Place::Tcp(at) = listener.place() else { panic!("{:?}", listener.place()) };
        let to = if at.ip().is_unspecified() { ([127, 0, 0, 1], at.port()).into() } else { at };
        let (_client, accepted) = tokio::join!(tokio::net::TcpStream::connect(to), listener.accept());
        let Accepted::Tcp(socket, _) = accepted else { panic!("TCP") };
        assert_eq!(rustix::net::sockopt::tcp_congestion(&socket).unwrap(), congestion, "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_is_told_once_a_minute() {
    let told = Told::default();
    let mut times = 0;
    for _ in 0..20 * 150 {
        times += u32::from(told.is_due(Instant::now()));
        tokio::time::advance(PAUSE).await;
    }
    assert_eq!(times, 3, "in two minutes and a half");
}
